"""The front ends of block encoders, as they stand in a genotype; see :mod:`.parts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.documents import plain
from nas_encoder.common.fields import flag, integer, option
from nas_encoder.common.problems import Problems
from nas_encoder.errors import ConfigError, ProblemsError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces.blocks.part import Part, one_of
from nas_encoder.tables import SPACES

FACTORS = (4, 8)  # input frames per frame of a front end

_FACTOR = one_of(*FACTORS)
_CHANNELS = integer(1, 4096)


class Front(Part):
    """A front end."""

    @property
    def least(self) -> int:
        """The fewest frames, and features of a frame, that its convolutions take."""
        return 1

    @property
    def reach(self) -> tuple[int, int] | None:
        """Input frames seen before and after the first of a frame's own; None: no bound."""
        own = int(self.factor) - 1  # type: ignore[attr-defined]
        return own, own


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

    @property
    def reach(self) -> tuple[int, int]:
        """Input frames seen before and after the first of a frame's own."""
        # One convolution sees frames -1 to 1 or 0 to 2 around its own; each further one doubles.
        own = self.factor - 1
        return (own, own) if self.padded else (0, 2 * own)

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

    @property
    def reach(self) -> tuple[int, int]:
        """Input frames seen before and after the first of a frame's own."""
        return self.context, self.factor - 1 + self.context

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
        elif SPACES[self.genotype.space].package == __package__:
            found.conflict("genotype", f"must be of another space than '{self.genotype.space}'")
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

    @property
    def reach(self) -> tuple[int, int] | None:
        """Input frames seen before and after the first of a frame's own; None: no bound."""
        assert self.genotype is not None
        space = SPACES[self.genotype.space]
        try:
            found = space.network.receptive_field(self.genotype.architecture, self.network(40, 512))
        except ConfigError:
            return None
        return found.left, found.right

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


FRONTS: dict[str, type[Part]] = {
    cls.kind: cls for cls in (Conv2dFront, DepthwiseFront, Conv1dFront, StackFront, SearchedFront)
}
