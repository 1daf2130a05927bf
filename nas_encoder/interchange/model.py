"""A trained model independent of the toolkits: what both can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nas_encoder.baselines import build_baseline, options_of
from nas_encoder.common.documents import plain
from nas_encoder.common.problems import show
from nas_encoder.errors import CheckpointError, MissingDependencyError, ProblemsError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.interchange.features import ESPnetFeatures, NeMoFeatures
from nas_encoder.network import build_encoder
from nas_encoder.tables import NAS

PREFIX = "encoder."
# Tensors of a whole model that are counted apart (the encoder's), computed or running statistics.
_NOT_TRAINED = re.compile(
    r"^(encoder\.network|frontend|normalize|preprocessor)\.|\.running_(mean|var)$"
)
DECODERS = "attention or transducer decoders differ between the toolkits"
BLANK, UNKNOWN, ENDS, SPACE = "<blank>", "<unk>", "<sos/eos>", "<space>"
# Bias of a class, without weights, that the other toolkit needs and this model never had.
SILENT = -1e4


@dataclass
class Encoder:
    """An encoder of ours.

    Attributes:
        kind: Its name in ESPnet: ``nas`` or a baseline.
        options: What the network is built from, under our names (``input_size``,
            ``output_size``), including the genotype as a mapping for ``nas``. Without
            ``output_size`` the network's own is added, if the network can be built.
        weights: The tensors ``network.*``.
        adopted: The toolkit's name of the encoder that it was read from; empty for ours.
    """

    kind: str
    options: dict[str, Any]
    weights: dict[str, Tensor]
    adopted: str = ""

    def __post_init__(self) -> None:
        if self.options.get("output_size") is None:
            # The CTC layer must know it, and the genotype may decide it. Options from which nothing
            # can be built are what problems() reports.
            with suppress(ProblemsError):
                network: Any = self.build()
                self.options = {**self.options, "output_size": network.output_size}

    @property
    def genotype(self) -> Genotype | None:
        """The genotype; None for a baseline."""
        return load_genotype(self.options["genotype"]) if self.kind == NAS else None

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights under their names in a whole model of either toolkit."""
        return {f"{PREFIX}{name}": tensor for name, tensor in self.weights.items()}

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        buffers = {f"network.{name}" for name, _ in self.build().named_buffers()}
        return sum(value.numel() for name, value in self.weights.items() if name not in buffers)

    def build(self) -> nn.Module:
        """Build the network without the weights; ProblemsError if an option is invalid."""
        options = dict(self.options)
        if self.kind == NAS:
            return build_encoder(options.pop("genotype"), **options)
        return build_baseline(self.kind, options)

    def problems(self) -> list[str]:
        """Return the mismatches between the options and the weights."""
        try:
            expected = {f"network.{name}": t.shape for name, t in self.build().state_dict().items()}
        except ProblemsError as error:
            return [f"encoder options: {line}" for line in error.problems]
        found = []
        for what, names in (
            ("is missing", expected.keys() - self.weights.keys()),
            ("is unknown to the network of the config", self.weights.keys() - expected.keys()),
        ):
            if names:
                more = f", as are {len(names) - 1} more" if len(names) > 1 else ""
                found.append(f"{PREFIX}{min(names)}: {what}{more}")
        found += [
            f"{PREFIX}{name}: has shape {tuple(value.shape)}, the config gives "
            f"{tuple(expected[name])}"
            for name, value in self.weights.items()
            if name in expected and value.shape != expected[name]
        ]
        return found


@dataclass
class Head:
    """A CTC output layer.

    Attributes:
        tokens: V names in ESPnet's notation, the blank first.
        weight: (V, D).
        bias: (V,).
        token_type: ``char``, ``word``, ``phn`` or ``bpe``.
        bpe_model: The SentencePiece model, for ``bpe``.
    """

    tokens: list[str]
    weight: Tensor
    bias: Tensor
    token_type: str = "char"
    bpe_model: bytes | None = None

    def silent(self, index: int) -> bool:
        """Return whether a conversion added this class, which never wins."""
        return bool((self.weight[index] == 0).all() and (self.bias[index] == SILENT).all())

    def problems(self, width: Any) -> list[str]:
        """Return the mismatches between tokens, weights and the encoder's width."""
        count = len(self.tokens)
        found = []
        if tuple(self.weight.shape) != (count, width) or tuple(self.bias.shape) != (count,):
            found.append(
                f"CTC layer: weight {tuple(self.weight.shape)} and bias {tuple(self.bias.shape)} "
                f"do not fit {count} tokens with the blank and an encoder of width {width}"
            )
        twice = sorted({token for token in self.tokens if self.tokens.count(token) > 1})
        if twice:
            found.append(f"tokens: {show(twice)} are listed twice")
        return found


@dataclass
class Transducer:
    """What a transducer (Graves 2012, arXiv 1211.3711) has besides its encoder.

    Letters in shapes: V classes, E features of an embedding, H of the prediction network, D of the
    encoder, J of the joint.

    Attributes:
        classes: The V classes, the blank first, and the joint's last layer, (V, J) and (V,).
        embedding: (V, E), in the order of the classes. The blank's row begins a text.
        recurrent: Tensors of an ``nn.LSTM`` of E to H features.
        of_encoder: The joint's layer after the encoder: ``weight`` (J, D), and maybe ``bias`` (J,).
        of_prediction: That after the prediction network: ``weight`` (J, H), and maybe ``bias``.
        activation: Of the joint, ``tanh``, ``relu`` or ``sigmoid``.
        most: So many tokens of one frame, at most, in greedy search; None if there is no limit.
        names: Its tensors in the checkpoint.
    """

    classes: Head
    embedding: Tensor
    recurrent: dict[str, Tensor]
    of_encoder: dict[str, Tensor]
    of_prediction: dict[str, Tensor]
    activation: str
    most: int | None
    names: set[str]

    @property
    def layers(self) -> int:
        """Layers of the prediction network."""
        return sum(name.startswith("weight_hh_l") for name in self.recurrent)

    @property
    def hidden(self) -> int:
        """H."""
        return int(self.recurrent["weight_hh_l0"].size(1))

    def problems(self, width: Any) -> list[str]:
        """Return the mismatches between its parts and with an encoder of ``width`` D."""
        count, joint = len(self.classes.tokens), self.classes.weight.size(-1)
        gates = {
            f"{kind}_l{layer}": shape
            for layer in range(self.layers)
            for kind, shape in (
                ("weight_ih", (4 * self.hidden, self.hidden if layer else self.embedding.size(-1))),
                ("weight_hh", (4 * self.hidden, self.hidden)),
                ("bias_ih", (4 * self.hidden,)),
                ("bias_hh", (4 * self.hidden,)),
            )
        }
        wanted = {
            "joint, last layer": (self.classes.weight, (count, joint)),
            "joint, last layer's bias": (self.classes.bias, (count,)),
            "embedding": (self.embedding, (count, self.embedding.size(-1))),
        }
        for what, layer, size in (
            ("encoder", self.of_encoder, width),
            ("prediction network", self.of_prediction, self.hidden),
        ):
            wanted[f"joint, layer after the {what}"] = (layer["weight"], (joint, size))
            if "bias" in layer:
                wanted[f"joint, bias after the {what}"] = (layer["bias"], (joint,))
        wanted |= {
            f"prediction network, {name}": (self.recurrent[name], shape)
            for name, shape in gates.items()
            if name in self.recurrent
        }
        found = [
            f"transducer: {what}: has shape {tuple(tensor.shape)}, {tuple(shape)} fits the rest"
            for what, (tensor, shape) in wanted.items()
            if tuple(tensor.shape) != tuple(shape)
        ]
        if self.recurrent.keys() != gates.keys():
            odd = sorted(self.recurrent.keys() ^ gates.keys())
            found.append(f"transducer: prediction network: missing or unknown: {', '.join(odd)}")
        return found


@dataclass
class Features:
    """How the encoder's input is computed.

    Attributes:
        style: Whose feature extraction it is: ``espnet`` or ``nemo``.
        options: See :mod:`nas_encoder.interchange.feature_options`.
        tensors: Its buffers.
    """

    style: str
    options: dict[str, Any]
    tensors: dict[str, Tensor]

    def problems(self) -> list[str]:
        """Return what prevents the other toolkit from computing them, as far as librosa works."""
        cls: Any = ESPnetFeatures if self.style == "espnet" else NeMoFeatures
        try:
            expected = cls(**self.options).state_dict()
        except (MissingDependencyError, ImportError):
            return []
        except ProblemsError as error:
            return [f"features: {line}" for line in error.problems]
        except Exception as error:  # librosa's, about the mel bands
            return [f"features: {error}"]
        return [
            f"features: {name}: must have shape {tuple(value.shape)}, got "
            f"{tuple(self.tensors[name].shape) if name in self.tensors else 'none'}"
            for name, value in expected.items()
            if name not in self.tensors or self.tensors[name].shape != value.shape
        ]


@dataclass
class Model:
    """What was read from a checkpoint.

    Attributes:
        source: The file or folder.
        toolkit: ``espnet`` or ``nemo``.
        encoder: The encoder.
        head: The CTC layer, if there is one that can be converted.
        features: The features, if they can be converted.
        left_out: Reason -> names of the tensors that are not converted.
        notes: What else differs.
        facts: What the checkpoint says about its training.
        config: The toolkit's configuration.
        parameters: Number of trained values of the whole model.
        obstacles: Why only the encoder can be converted; empty if everything can.
        used: Names of the tensors that are converted.
        state: The checkpoint's tensors.
        files: The other files of a ``.nemo`` archive, if its encoder was adopted.
        transducer: The prediction network and the joint, if there are some that can be exported.
        no_transducer: Why those of the model cannot.
    """

    source: str
    toolkit: str
    encoder: Encoder
    head: Head | None = None
    features: Features | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    parameters: int = 0
    obstacles: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    transducer: Transducer | None = None
    no_transducer: list[str] = field(default_factory=list)

    def use_encoder(self) -> None:
        """Count the encoder's tensors as converted."""
        self.used |= self.encoder.state.keys()
        if self.encoder.adopted:
            self.used |= {name for name in self.state if name.startswith(PREFIX)}

    def whole(self) -> tuple[Head, Features]:
        """Return all but the encoder; CheckpointError if only the encoder can be converted."""
        if self.obstacles or self.head is None or self.features is None:
            found = self.obstacles or ["holds nothing but an encoder"]
            remedy = "only the encoder can be converted (--encoder-only)"
            raise CheckpointError(self.source, [*found, remedy])
        return self.head, self.features

    def check(self, state: Mapping[str, Tensor], reasons: Mapping[str, str]) -> None:
        """Check the encoder; record problems elsewhere as obstacles, and what is left out.

        Args:
            state: The checkpoint.
            reasons: Start of a name -> why the other toolkit has no place for it.

        Raises:
            CheckpointError: Lists every problem of the encoder.
        """
        for name in state:
            if name not in self.used:
                known = (reason for start, reason in reasons.items() if name.startswith(start))
                reason = next(known, "no counterpart in the other toolkit")
                self.left_out.setdefault(reason, []).append(name)
        found = self.encoder.problems()
        if found:
            raise CheckpointError(self.source, found)
        self.parameters = self.encoder.parameters + sum(
            value.numel()
            for name, value in state.items()
            if value.is_floating_point() and not _NOT_TRAINED.search(name)
        )
        if self.head is not None:
            self.obstacles += self.head.problems(self.encoder.options["output_size"])
        if self.features is not None:
            self.obstacles += self.features.problems()
        if self.transducer is not None:
            problems = self.transducer.problems(self.encoder.options["output_size"])
            if problems:
                self.transducer, self.no_transducer = None, problems


def own_options(
    kind: str, given: Mapping[str, Any], words: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Pick our encoder's options from a toolkit's, whose names ``words`` maps to ours.

    Returns:
        The given options, with the genotype as a mapping and without those that do not concern
        the weights (``taps``, ``conditioning``); and the names that are not ours.

    Raises:
        ProblemsError: The genotype is missing or invalid.
    """
    fields = {*options_of(kind), *(["genotype"] if kind == NAS else [])} - {"taps", "conditioning"}
    given = renamed(given, words)
    options = {name: plain(value) for name, value in given.items() if name in fields}
    unknown = [name for name in given if name not in fields]
    if kind == NAS:
        if options.get("genotype") is None:
            raise CheckpointError("encoder options", ["genotype: is missing"])
        options["genotype"] = load_genotype(options["genotype"]).to_dict()
    return options, unknown


def renamed(options: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """Return options under other names, where ``words`` has them."""
    return {words.get(name, name): value for name, value in options.items()}


def take(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without the prefix."""
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
