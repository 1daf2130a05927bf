"""The residual modules and the front ends of block encoders, as they stand in a genotype.

Each is a frozen dataclass whose ``kind`` is its tag in YAML. Its defaults belong to the schema:
documents hold only what differs from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.documents import plain
from nas_encoder.common.fields import choice, flag, integer, option
from nas_encoder.common.problems import Problems
from nas_encoder.errors import ProblemsError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces.blocks.part import Part, expansion_rule, odd, one_of, shown
from nas_encoder.tables import SPACES

FACTORS = (4, 8)  # input frames per frame of a front end


_EXPANSION = expansion_rule(above=True)
_HEADS = integer(1, 256)
_KERNEL = odd(1023)
_WINDOW = integer(0, 10**6)

# -- modules ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeedForward(Part):
    """Two linear layers with an activation between them.

    Attributes:
        expansion: Hidden units per unit of the stage's width.
        step: Factor of what is added to the stream: 1, or 0.5 as in a Conformer's halves.
        activation: ``swish`` or ``relu``.
    """

    kind = "feed_forward"
    expansion: float = option(4.0, _EXPANSION)
    step: float = option(1.0, one_of(0.5, 1.0))
    activation: str = option("swish", choice("activation", ("swish", "relu")))

    def text(self) -> str:
        """Return for example ``½ feed-forward 4``."""
        half = "½ " if self.step == 0.5 else ""
        relu = " relu" if self.activation == "relu" else ""
        return f"{half}feed-forward {shown(self.expansion)}{relu}"


@dataclass(frozen=True)
class SelfAttention(Part):
    """Multi-head self-attention.

    Attributes:
        heads: Number of heads; must divide the stage's width.
        window: Frames of the stage seen on either side; 0 for the whole utterance.
        positions: ``relative`` (Dai et al. 2019, as in Conformers), or ``none`` where modules or
            the input carry the order.
    """

    kind = "attention"
    heads: int = option(4, _HEADS)
    window: int = option(0, _WINDOW)
    positions: str = option("relative", choice("kind of positions", ("relative", "none")))

    def text(self) -> str:
        """Return for example ``attention 4 heads window 32``."""
        window = f" window {self.window}" if self.window else ""
        order = "" if self.positions == "relative" else " without positions"
        return f"attention {self.heads} heads{window}{order}"


@dataclass(frozen=True)
class Convolution(Part):
    """A Conformer's convolution: pointwise, gate, depthwise over time, norm, swish, pointwise.

    Attributes:
        kernel: Frames of the depthwise convolution.
        glu: Whether the first pointwise layer has a gate (twice the width) or swish.
        norm: ``batch`` or ``layer``.
    """

    kind = "convolution"
    kernel: int = option(31, _KERNEL)
    glu: bool = option(True, flag)
    norm: str = option("batch", choice("norm", ("batch", "layer")))

    def text(self) -> str:
        """Return for example ``convolution 31``."""
        ungated = "" if self.glu else " without gate"
        layer = " layer norm" if self.norm == "layer" else ""
        return f"convolution {self.kernel}{ungated}{layer}"


@dataclass(frozen=True)
class GatedMlp(Part):
    """cgMLP, an MLP with a convolutional spatial gate (Sakuma et al. 2022).

    Attributes:
        expansion: Hidden units per unit of width, both halves of the gate together.
        kernel: Frames of the gate's depthwise convolution.
    """

    kind = "cgmlp"
    expansion: float = option(6.0, _EXPANSION)
    kernel: int = option(31, _KERNEL)

    def text(self) -> str:
        """Return for example ``cgMLP 31 x 6``."""
        return f"cgMLP {self.kernel} x {shown(self.expansion)}"


@dataclass(frozen=True)
class Parallel(Part):
    """Self-attention beside cgMLP, merged (Peng et al. 2022; Kim et al. 2023).

    Attributes:
        heads: As of :class:`SelfAttention`.
        window: Likewise.
        positions: Likewise.
        expansion: As of :class:`GatedMlp`.
        kernel: Likewise.
        merge_kernel: Frames of the depthwise convolution in the merge (E-Branchformer); 0 for
            a linear layer alone (Branchformer's ``concat``).
    """

    kind = "parallel"
    heads: int = option(4, _HEADS)
    window: int = option(0, _WINDOW)
    positions: str = option("relative", choice("kind of positions", ("relative", "none")))
    expansion: float = option(6.0, _EXPANSION)
    kernel: int = option(31, _KERNEL)
    merge_kernel: int = option(31, integer(0, 1023))

    def conflicts(self, found: Problems) -> None:
        """Check that the merge has a frame in the middle."""
        if self.merge_kernel and self.merge_kernel % 2 == 0:
            found.conflict("merge_kernel", f"must be odd or 0, got {self.merge_kernel}")

    def text(self) -> str:
        """Return for example ``attention 4 heads | cgMLP 31 x 6, merge 31``."""
        attention = SelfAttention(self.heads, self.window, self.positions).text()
        mlp = GatedMlp(self.expansion, self.kernel).text()
        return f"({attention} | {mlp}, merge {self.merge_kernel})"


@dataclass(frozen=True)
class Memory(Part):
    """FSMN memory (Zhang et al. 2018): p plus a weighted sum of its neighbours, feature by feature.

    Attributes:
        back: Past taps, not counting the current frame.
        ahead: Future taps.
        stride: Distance between taps in frames of the stage.
        expansion: Hidden units of the ReLU layer before the memory, per unit of width, so that p is
            its linear projection (DFSMN); 0 for none, so that p is the normalized stream.
    """

    kind = "memory"
    back: int = option(10, integer(0, 512))
    ahead: int = option(10, integer(0, 512))
    stride: int = option(1, integer(1, 64))
    expansion: float = option(0.0, expansion_rule(above=False))

    def text(self) -> str:
        """Return for example ``memory -10+10 every 2 x 4``."""
        every = f" every {self.stride}" if self.stride > 1 else ""
        hidden = f" x {shown(self.expansion)}" if self.expansion else ""
        return f"memory -{self.back}+{self.ahead}{every}{hidden}"


# -- front ends -------------------------------------------------------------------------------

_FACTOR = one_of(*FACTORS)
_CHANNELS = integer(1, 4096)


class Front(Part):
    """A front end."""

    @property
    def least(self) -> int:
        """The fewest frames, and features of a frame, that its convolutions take."""
        return 1


@dataclass(frozen=True)
class Conv2dFront(Front):
    """3x3 convolutions of stride 2 in time and frequency, each with ReLU, and a linear layer.

    Attributes:
        factor: Input frames per frame: 4 (two convolutions) or 8 (three).
        channels: Of each convolution.
        padded: Whether borders are padded, as in NeMo (T' = ceil(T / factor)), or not, as in
            ESPnet: each convolution gives floor((T - 1) / 2) frames.
    """

    kind = "conv2d"
    factor: int = option(4, _FACTOR)
    channels: int = option(64, _CHANNELS)
    padded: bool = option(True, flag)

    @property
    def least(self) -> int:
        """The fewest frames, and features of a frame, that its convolutions take."""
        return 1 if self.padded else 2 * self.factor - 1

    def text(self) -> str:
        """Return for example ``conv2d 64 channels, 4x``."""
        bare = "" if self.padded else " without padding"
        return f"conv2d {self.channels} channels{bare}, {self.factor}x"


@dataclass(frozen=True)
class DepthwiseFront(Front):
    """NeMo's ``dw_striding``: a 3x3 convolution, then depthwise and pointwise ones; all padded.

    Attributes:
        factor: Input frames per frame.
        channels: Of each convolution.
    """

    kind = "depthwise"
    factor: int = option(8, _FACTOR)
    channels: int = option(64, _CHANNELS)

    def text(self) -> str:
        """Return for example ``depthwise 64 channels, 8x``."""
        return f"depthwise {self.channels} channels, {self.factor}x"


@dataclass(frozen=True)
class Conv1dFront(Front):
    """Convolutions over time of 3 frames and stride 2, each with ReLU, and a linear layer; padded.

    Attributes:
        factor: Input frames per frame.
        channels: Of each convolution.
    """

    kind = "conv1d"
    factor: int = option(4, _FACTOR)
    channels: int = option(128, _CHANNELS)

    def text(self) -> str:
        """Return for example ``conv1d 128 channels, 4x``."""
        return f"conv1d {self.channels} channels, {self.factor}x"


@dataclass(frozen=True)
class StackFront(Front):
    """A linear layer over stacked frames, as in DFSMN-SAN.

    Attributes:
        factor: Input frames per frame.
        context: Input frames on each side of a frame's own.
    """

    kind = "stack"
    factor: int = option(4, _FACTOR)
    context: int = option(4, integer(0, 64))

    def text(self) -> str:
        """Return for example ``stacked frames -4+4, 4x``."""
        return f"stacked frames -{self.context}+{self.context}, {self.factor}x"


def _genotype(value: Any, path: str, problems: Problems) -> Any:
    try:
        found = value if isinstance(value, Genotype) else load_genotype(value)
        return Genotype(found.name, found.space, found.architecture)  # its origin is not written
    except ProblemsError as error:
        for line in error.problems:
            problems.add(path, line)
        return None


def _options(value: Any, path: str, problems: Problems) -> Any:
    pairs = dict(value) if isinstance(value, tuple) else value
    if problems.mapping(pairs, path, (), pairs if isinstance(pairs, Mapping) else ()) is None:
        return None
    for name in ("input_size", "output_size"):
        if name in pairs:
            problems.add(f"{path}.{name}", "is determined by the encoder; leave it out")
    for name in ("taps", "conditioning", "checkpointing"):
        if name in pairs:
            problems.add(f"{path}.{name}", "is an option of the whole encoder; leave it out here")
    return tuple((name, _frozen(pairs[name])) for name in sorted(pairs))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class SearchedFront(Front):
    """The network of a genotype of another space, for example a few narrow 2-D cells.

    Attributes:
        genotype: A zoo name, a path or a document; written as the document.
        options: Options of its network (``channels``, ``layers``, ...) but for its sizes.
    """

    kind = "searched"
    genotype: Genotype | None = option(None, _genotype)
    options: tuple[tuple[str, Any], ...] = option((), _options)

    def conflicts(self, found: Problems) -> None:
        """Check the genotype, and its options against it."""
        if self.genotype is None:
            found.conflict("genotype", "is missing")
        elif self.genotype.space == "blocks":
            found.conflict("genotype", "must be of another space than 'blocks'")
        elif found.sound("options"):
            for line in self._network(found.under("options")):
                found.under("options").add("", line)

    def _network(self, found: Problems) -> list[str]:
        try:
            self.network(40, 512)
        except ProblemsError as error:
            return list(error.problems)
        factor = self.factor
        return [] if factor in FACTORS else [f"reduce the frame rate {factor}x, must be 4 or 8"]

    def network(self, input_size: int, output_size: int) -> Any:
        """Return the checked options of the network; ConfigError if they are wrong."""
        assert self.genotype is not None
        sizes = {"input_size": input_size, "output_size": output_size}
        options = SPACES[self.genotype.space].options
        return options.from_dict(
            {**dict(self.options), **sizes}, "front", None, self.genotype.architecture
        )

    @property
    def factor(self) -> int:
        """Input frames per frame."""
        return int(self.network(40, 512).subsampling_factor)

    def document(self) -> dict[str, Any]:
        """Return the YAML form, with the genotype as a document."""
        assert self.genotype is not None
        inner = {k: v for k, v in self.genotype.to_dict().items() if k != "provenance"}
        return {"kind": self.kind, "genotype": inner, "options": plain(dict(self.options))}

    def values(self) -> list[Any]:
        """Return what identifies it."""
        assert self.genotype is not None
        return [self.kind, self.genotype.hash, plain(self.options)]

    def text(self) -> str:
        """Return for example ``cells of 'asrnet_b' (channels 4, layers 3), 4x``."""
        assert self.genotype is not None
        given = ", ".join(f"{name} {value}" for name, value in self.options)
        return f"network of '{self.genotype.name}' ({given}), {self.factor}x"


MODULES: dict[str, type[Part]] = {
    cls.kind: cls for cls in (FeedForward, SelfAttention, Convolution, GatedMlp, Parallel, Memory)
}
FRONTS: dict[str, type[Part]] = {
    cls.kind: cls for cls in (Conv2dFront, DepthwiseFront, Conv1dFront, StackFront, SearchedFront)
}
