"""What is exported: features if wished, normalization, encoder, CTC layer, with masks inside.

Letters in shapes: B batch, N samples, T frames, F features, T' output frames, D width, V classes
with the blank last, S subsampling factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.export.vocabulary import Vocabulary
from nas_encoder.interchange.features import ESPnetFeatures, NeMoFeatures, padding_mask
from nas_encoder.interchange.model import Encoder, Features, Model
from nas_encoder.interchange.tokens import pick
from nas_encoder.network.ctc import log_probabilities
from nas_encoder.ops.masking import reduced_lengths

AUDIO, FEATURES = "audio", "features"
# Log-probability of all classes but the blank in frames past an utterance's end.
NEVER = -1e4
_WHOLE = ("preencoder", "postencoder", "adapters")  # obstacles without which nothing is equal


@dataclass(frozen=True)
class Parts:
    """The trained parts of a model, ready to run.

    Attributes:
        network: The encoder.
        classifier: The CTC layer, V classes; None for an encoder alone.
        features: The toolkit's features; None if they are not the model's own.
        vocabulary: The classes; None without a CTC layer.
        toolkit: ``espnet`` or ``nemo``: how utterances that are too short for one output frame are
            treated. ESPnet refuses them, and here they have no output frame; NeMo extends them
            with zeros, so that they have one.
    """

    network: Any
    classifier: nn.Linear | None
    features: ESPnetFeatures | NeMoFeatures | None
    vocabulary: Vocabulary | None
    toolkit: str

    @property
    def inner_normalization(self) -> bool:
        """Whether normalization is done between log-mel values and encoder, as in ESPnet."""
        return isinstance(self.features, ESPnetFeatures) and bool(self.features.options.normalize)

    @property
    def shortest(self) -> int:
        """The fewest frames for which there is an output frame."""
        return 1 if self.toolkit == "nemo" else int(self.network.min_length)


def parts_of(model: Model, lookahead: int | None = None) -> Parts:
    """Return the parts of a model that was read.

    Raises:
        CheckpointError: A part between features and CTC layer cannot be exported.
        MissingDependencyError: librosa, with which features are computed, is missing.
    """
    found = [*model.obstacles, *model.notes]
    wrong = [line for line in found if line.partition(":")[0] in _WHOLE]
    if wrong:
        raise CheckpointError(model.source, [f"{line}; cannot be exported" for line in wrong])
    classifier = vocabulary = None
    if model.head is not None and not model.head.problems(model.encoder.options["output_size"]):
        vocabulary, order = Vocabulary.of_head(model.head)
        weight, bias = pick(model.head, order)
        classifier = nn.Linear(weight.size(1), weight.size(0))
        classifier.load_state_dict({"weight": weight, "bias": bias})
        classifier.eval()
    network = trained_network(model.encoder)
    if lookahead is not None:
        network.select_lookahead(lookahead)
    return Parts(network, classifier, _features(model), vocabulary, model.toolkit)


def trained_network(encoder: Encoder) -> Any:
    """Return an encoder's network with its weights, in evaluation mode."""
    network = encoder.build()
    own = {name.removeprefix("network."): value for name, value in encoder.weights.items()}
    network.load_state_dict(own)
    return network.float().eval()


def _features(model: Model) -> ESPnetFeatures | NeMoFeatures | None:
    given: Features | None = model.features
    if given is None or given.problems():
        return None
    cls: Any = ESPnetFeatures if given.style == "espnet" else NeMoFeatures
    features: ESPnetFeatures | NeMoFeatures = cls(**given.options)
    features.load_state_dict(given.tensors)
    return features.eval()


class Recognizer(nn.Module):
    """A model whose trace is right for every batch, length and padding.

    Args:
        parts: The trained parts.
        takes: ``audio``: samples (B, N) from -1 to 1; ``features``: (B, F, T), NeMo's with their
            normalization, ESPnet's log-mel values without it, since the graph does it.

    Raises:
        ConfigError: ``audio``, and the features are not the model's own.
    """

    def __init__(self, parts: Parts, takes: str) -> None:
        super().__init__()
        if takes == AUDIO and parts.features is None:
            rule = "the model's features cannot be computed here; export it with --input features"
            raise ConfigError("input", [rule])
        self.network, self.classifier = parts.network, parts.classifier
        self.features = parts.features if takes == AUDIO or parts.inner_normalization else None
        if takes == AUDIO and self.features is not None:
            self.features.prepare_tracing()
        self.takes, self.shortest = takes, parts.shortest
        self.fewest = int(parts.network.min_length)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Recognize a padded batch, traced; in eager execution it computes features otherwise.

        Args:
            x: (B, N) or (B, F, T).
            lengths: (B,) int64, valid samples or frames.

        Returns:
            (B, T', V) log-probabilities, those of the blank 0 past an utterance's end, or (B, T',
            D) without a CTC layer; T' is at least T / S, also with front ends that give fewer
            frames. And (B,) valid output frames.
        """
        if self.takes == AUDIO:
            assert self.features is not None
            x, lengths = self.features(x, lengths)  # (B, T, F)
        else:
            x = x.transpose(1, 2)
            x = x.masked_fill(padding_mask(lengths, x.size(1)), 0.0)
            if isinstance(self.features, ESPnetFeatures):
                x = self.features.normalize(x, lengths.clamp(min=1))
        x = x.masked_fill(padding_mask(lengths, x.size(1)), 0.0)
        asked = reduced_lengths(_size(x), self.network.subsampling_factor)
        x = _extended(x, (self.fewest - _size(x)).clamp(min=0))
        encoded, frames = self.network(x, lengths.clamp(min=self.fewest))
        frames = torch.where(lengths >= self.shortest, frames, 0)
        y = _extended(encoded, (asked - _size(encoded)).clamp(min=0))
        outside = padding_mask(frames, y.size(1))
        if self.classifier is None:
            return y.masked_fill(outside, 0.0), frames
        y = log_probabilities(self.classifier(y))
        silence = torch.tensor([NEVER] * (self.classifier.out_features - 1) + [0.0])
        return torch.where(outside, silence, y), frames


def _size(x: Tensor) -> Tensor:
    """Return the size of the second dimension as a tensor, in traces and out of them."""
    return torch.as_tensor(x.shape[1])


def _extended(x: Tensor, missing: Any) -> Tensor:
    """Append ``missing`` frames of zeros to (B, T, C)."""
    return torch.cat((x, x.new_zeros((x.size(0), missing, x.size(2)))), 1)


@torch.no_grad()
def reference(parts: Parts, x: Tensor, takes: str) -> Tensor:
    """Return what torch gives for one utterance alone, computed as the toolkits compute it.

    Args:
        parts: The trained parts.
        x: (N,) samples or (T, F) features, as of :class:`Recognizer`.
        takes: ``audio`` or ``features``.

    Returns:
        (T', V) log-probabilities, or (T', D) without a CTC layer; T' may be 0.
    """
    length = torch.tensor([x.size(0)])
    features = x[None]
    if takes == AUDIO:
        assert parts.features is not None
        features, length = parts.features(x[None], length)
    elif isinstance(parts.features, ESPnetFeatures):
        features = parts.features.normalize(features, length)
    frames, fewest = int(length), int(parts.network.min_length)
    features = features[:, :frames]
    classes = parts.network.output_size
    if parts.classifier is not None:
        classes = parts.classifier.out_features
    if frames < parts.shortest:
        return torch.zeros(0, classes)
    short = max(0, fewest - frames)
    features = nn.functional.pad(features, (0, 0, 0, short))
    encoded, _ = parts.network(features, torch.tensor([frames + short]))
    if parts.classifier is None:
        return encoded[0]  # type: ignore[no-any-return]
    return log_probabilities(parts.classifier(encoded[0]))
