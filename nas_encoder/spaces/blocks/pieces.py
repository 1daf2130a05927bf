"""The pieces of block encoders, whose latencies add up.

An encoder is a front end, residual steps (norm, module, sum) at a few widths and rates, norms,
changes of width and rate, and a head. Each is measured once for all encoders that have it.

C and D widths, T frames, F features.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import cost_of, count_parameters
from nas_encoder.network.tapped import check_inputs, output_layer
from nas_encoder.network.timed import TimedPart
from nas_encoder.ops.masking import padding_frames
from nas_encoder.spaces.blocks import positions
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.choices import SLOTS
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.front import build_front
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import FeedForward
from nas_encoder.spaces.blocks.residual import Block, Transition
from nas_encoder.spaces.blocks.space import BlockSpace
from nas_encoder.spaces.latency_table import LatencyTable

CHECKS, NORM, LINEAR, HEAD = "checks of the input", "norm", "linear", "head"
SCALE, ABSOLUTE, RELATIVE = "scale", "absolute positions", "relative positions"
FALL, RISE = "fall", "rise"
RESTRICTIONS = ("widths", "rates", "modules", "fronts")
_WEIGHTS = 2**21  # of the copies of a step, together: more than the caches nearest to a core hold
_COPIES = 16
_LEAST_CHECKS = 8  # for two unknowns


@dataclass(frozen=True)
class Piece:
    """A part of an encoder and the shape of its input.

    Attributes:
        name: Text of the module or the front end, or one of the names above.
        input_width: Features of a frame of its input.
        width: Of its output.
        frames: T of its input; of the output where the rate rises.
    """

    name: str
    input_width: int
    width: int
    frames: int

    def __str__(self) -> str:
        return f"{self.name}, {self.input_width} to {self.width}, {self.frames} frames"


class BlockLatencies(LatencyTable):
    """A file of their latencies.

    A network takes a constant time more for each piece than pieces alone, repeated, do: what it
    runs was not run just before. benchmarks/BLOCKS.md says what that is worth.
    """

    piece = Piece

    @cached_property
    def factors(self) -> tuple[float, float]:
        """Factor of the sum over pieces, and milliseconds of each piece besides.

        Least squares of the checks' relative errors; from fewer than eight of them, or where it
        would be negative, there is no constant.
        """
        rows = [
            (own["sum_ms"] / own["network_ms"], own["pieces"] / own["network_ms"])
            for own in self.checks
            if "pieces" in own
        ]
        if len(rows) < _LEAST_CHECKS:
            return self.scale, 0.0
        aa, bb = sum(a * a for a, _ in rows), sum(b * b for _, b in rows)
        ab, a1, b1 = sum(a * b for a, b in rows), sum(a for a, _ in rows), sum(b for _, b in rows)
        determinant = aa * bb - ab * ab
        if determinant <= 1e-6 * aa * bb:  # all networks are alike
            return self.scale, 0.0
        factor, constant = (bb * a1 - ab * b1) / determinant, (aa * b1 - ab * a1) / determinant
        return (factor, constant) if min(factor, constant) > 0 else (self.scale, 0.0)

    def predict(self, pieces: Sequence[Any]) -> float:
        """Return the milliseconds of an encoder of pieces; KeyError if one is not measured."""
        factor, constant = self.factors
        return factor * sum(self.milliseconds[piece] for piece in pieces) + constant * len(pieces)

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        factor, constant = self.factors
        found = super().to_dict()
        return {**found, "scale": round(factor, 4), "piece_ms": round(constant, 5)}


class BlockPieces:
    """The pieces of all block encoders for an utterance of T ``frames``.

    Front ends without padding give a few frames less than the others; here they count as equal.

    Args:
        config: Options of the encoders.
        frames: T.
        space: The space of blocks.
        only: Restriction -> values: ``widths``; ``rates``, input frames per frame of a stage; and
            ``modules`` and ``fronts``, kinds or texts. Encoders of these are measured; nothing is
            restricted where it is not given.
        also: Other genotypes whose pieces are measured too.

    Raises:
        ConfigError: A restriction is unknown or leaves no encoder.
    """

    def __init__(
        self,
        config: BlocksConfig,
        frames: int,
        space: BlockSpace,
        only: Mapping[str, Sequence[Any]] = MappingProxyType({}),
        also: Sequence[Genotype] = (),
    ) -> None:
        self.config, self.frames, self.space = config, frames, space
        self.also = [genotype.architecture for genotype in also]
        self.values = _restricted(space, only)
        rates = set(only.get("rates", ()))
        self._pairs = [
            (front, schedule)
            for front in self.values["front end"]
            for schedule in self.values["schedule"]
            if "rates" not in only or {front.factor * rate for rate in schedule} <= rates
        ]
        if not self._pairs:
            rule = f"rates: no encoder has only {sorted(rates)} input frames per frame"
            raise ConfigError("bench", [rule])
        self._parts: dict[str, Part] = {}

    def about(self) -> dict[str, Any]:
        """Return what identifies a table: the space, the encoders' shape and the utterance."""
        size = {name: getattr(self.config, name) for name in ("input_size", "output_size")}
        return {"space": self.space.name, "network": size, "frames": self.frames}

    def sample(self, rng: random.Random) -> Genotype:
        """Draw one of the encoders that are measured."""
        front, schedule = rng.choice(self._pairs)
        values = {**self.values, "front end": [front], "schedule": [schedule]}
        vector = [
            self.space.table[name].index(rng.choice(values[name]))
            for name, kind in self.space.kinds.items()
            for _ in kind.names
        ]
        return self.space.decode(vector)

    # -- which pieces there are ----------------------------------------------------------------

    def pieces_of(self, architecture: BlockArchitecture, exact: bool = False) -> list[Piece]:
        """Return the pieces of one encoder, repeated as often as they occur.

        ``exact`` takes the frames of a front end without padding as they are.
        """
        found = architecture.scaled(self.config.channels, self.config.layers)
        front: Any = found.front
        bare = exact and not getattr(front, "padded", True)
        at = self._frames(front.factor, bare)
        width, rate = found.stages[0].width, 1
        pieces = [self._checks(), self._front(front, width)]
        if found.scale:
            pieces.append(Piece(SCALE, width, width, at(1)))
        if found.positions == "absolute":
            pieces.append(Piece(ABSOLUTE, width, width, at(1)))
        widths = {1: width}
        for stage in found.stages:
            to, now = stage.width, stage.reduction
            pieces += _transition(width, to, rate, now, widths.get(now, 0), at)
            for module in stage.modules:
                pieces += [self._step(module, to, at(now))] * stage.blocks
            if any(getattr(part, "positions", "none") == "relative" for part in stage.modules):
                pieces.append(Piece(RELATIVE, to, to, at(now)))
            if stage.final_norm:
                pieces += [Piece(NORM, to, to, at(now))] * stage.blocks
            width, rate = to, now
            widths[rate] = width
        if found.final_norm:
            pieces.append(Piece(NORM, width, width, at(rate)))
        out = self.config.output_size
        if out is not None and out != width:
            pieces.append(Piece(HEAD, width, out, at(rate)))
        return pieces

    def all_pieces(self) -> list[Piece]:
        """Return every piece of the encoders that are measured, each once."""
        found = dict.fromkeys([self._checks()])
        widths = self.values["width"]
        fronts = dict.fromkeys(front for front, _ in self._pairs)
        found |= dict.fromkeys(self._front(front, width) for front in fronts for width in widths)
        for factor, schedule in dict.fromkeys((f.factor, schedule) for f, schedule in self._pairs):
            at = self._frames(factor)
            for width in widths:
                found |= dict.fromkeys(Piece(n, width, width, at(1)) for n in (SCALE, ABSOLUTE))
            for before, now in pairwise([1, *schedule]):
                found |= dict.fromkeys(self._of_rate(at(now)))
                for to in widths:
                    for width in widths:
                        for skip in widths if now < before else (0,):
                            found |= dict.fromkeys(_transition(width, to, before, now, skip, at))
            out, last = self.config.output_size, at(schedule[-1])
            if out is not None:
                found |= dict.fromkeys(Piece(HEAD, w, out, last) for w in widths if w != out)
        for architecture in self.also:
            found |= dict.fromkeys(self.pieces_of(architecture))
        return list(found)

    def _of_rate(self, frames: int) -> Iterator[Piece]:
        """Yield the pieces of blocks at one rate."""
        parts = dict.fromkeys(part for slot in SLOTS for part in self.values[slot] if part)
        for width in self.values["width"]:
            yield Piece(NORM, width, width, frames)
            yield Piece(RELATIVE, width, width, frames)
            for part in parts:
                yield self._step(part, width, frames)

    def _frames(self, factor: int, bare: bool = False) -> Callable[[int], int]:
        """Return the function from a stage's reduction to its frames."""
        first = (self.frames + 1) // factor - 1 if bare else -(-self.frames // factor)
        return lambda rate: -(-first // rate)

    def _checks(self) -> Piece:
        return Piece(CHECKS, self.config.input_size, self.config.input_size, self.frames)

    def _front(self, part: Part, width: int) -> Piece:
        searched: Genotype | None = getattr(part, "genotype", None)
        name = part.text() if searched is None else f"{part.text()} {searched.hash[:8]}"
        self._parts[name] = part
        return Piece(name, self.config.input_size, width, self.frames)

    def _step(self, part: Part, width: int, frames: int) -> Piece:
        if isinstance(part, FeedForward):
            part = replace(part, step=1.0)  # it costs as much
        self._parts[part.text()] = part
        return Piece(part.text(), width, width, frames)

    # -- one piece -----------------------------------------------------------------------------

    def count(self, piece: Piece) -> dict[str, float]:
        """Count parameters and multiply-adds without computing."""
        with torch.device("meta"), torch.no_grad():
            part = self._build(piece, copies=1)
            if not list(part.module.parameters()):
                return {"parameters": 0.0, "macs": 0.0}
            return cost_of(part.module, part)

    def build(self, piece: Piece, device: str = "cpu", masked: bool = False) -> TimedPart:
        """Build a piece as in an encoder, in evaluation mode, for one utterance of random values.

        Steps are a chain of several copies, because their weights are far less near to the core in
        an encoder than they would be alone.

        Args:
            piece: The piece.
            device: Where.
            masked: Give it a mask of all frames too, (1, T), as an exported graph has one; eager
                encoders have none where no utterance is padded.
        """
        with torch.device(device):
            return self._build(piece, masked=masked)

    def _build(self, piece: Piece, copies: int | None = None, masked: bool = False) -> TimedPart:
        name, frames, width = piece.name, piece.frames, piece.width
        x = torch.randn(1, frames, piece.input_width)
        mask = (torch.ones(1, frames, dtype=torch.bool),) if masked else ()
        if name in self._parts and not hasattr(self._parts[name], "factor"):
            return self._steps(self._parts[name], x, mask, copies)
        if name in self._parts:
            front: Any = build_front(self._parts[name], piece.input_width, width, self.config)
            lengths = (torch.tensor([frames]),) if masked else ()
            return TimedPart(front.eval(), lambda x, n=None: front(x, n)[0], (x, *lengths))
        if name == CHECKS:
            return _checks(x, masked)
        kind, _, factor = name.partition(" ")
        module: nn.Module = nn.Identity()
        function: Callable[..., Any] = lambda x: module(x)  # noqa: E731
        if name == SCALE:
            function = lambda x: x * width**0.5  # noqa: E731
        elif name == ABSOLUTE:
            function = lambda x: x + positions.absolute(x)  # noqa: E731
        elif name == RELATIVE:
            function = positions.relative
        elif kind == FALL:
            fall = Transition(width, width, int(factor), 1).eval()
            return TimedPart(fall, lambda x, m=None: fall(x, Frames(m), None), (x, *mask))
        elif kind == RISE:
            times = int(factor)
            low = x[:, : -(-frames // times)]
            return TimedPart(module, partial(_risen, times), (low, x))
        elif name == NORM:
            module = nn.LayerNorm(width)
        elif name == HEAD:
            module = output_layer(piece.input_width, width)
        else:
            module = nn.Linear(piece.input_width, width)
        return TimedPart(module.eval(), function, (x,))

    def _steps(
        self, part: Part, x: Tensor, mask: tuple[Tensor, ...], copies: int | None
    ) -> TimedPart:
        stage = Stage(x.size(2), modules=(part,), final_norm=False)
        first = Block(stage, self.config)
        if copies is None:
            size = 4 * count_parameters(first)
            copies = min(_COPIES, max(2, -(-_WEIGHTS // size)))
        rest = [Block(stage, self.config) for _ in range(copies - 1)]
        module = nn.ModuleList([first, *rest]).eval()

        def run(x: Tensor, relative: Tensor, mask: Tensor | None = None) -> Tensor:
            frames = Frames(mask, relative)
            for block in module:
                x = block(x, frames)
            return x

        return TimedPart(module, run, (x, positions.relative(x), *mask), copies)


def _checks(x: Tensor, masked: bool) -> TimedPart:
    """Return what an encoder, or an exported graph, does with its input first."""
    width, lengths = x.size(2), torch.tensor([x.size(1)])
    if not masked:
        return TimedPart(
            nn.Identity(), lambda x, lengths: check_inputs(x, lengths, width, 1), (x, lengths)
        )

    def clear(x: Tensor, lengths: Tensor) -> Tensor:
        return x.transpose(1, 2).masked_fill(padding_frames(lengths, x.size(2))[..., None], 0.0)

    return TimedPart(nn.Identity(), clear, (x.transpose(1, 2).contiguous(), lengths))


def _risen(times: int, low: Tensor, skip: Tensor) -> Tensor:
    return low.repeat_interleave(times, dim=1)[:, : skip.size(1)] + skip


def _transition(
    width: int, to: int, rate: int, now: int, skip: int, at: Callable[[int], int]
) -> Iterator[Piece]:
    """Yield the pieces of a transition between two stages."""
    if now > rate:
        yield Piece(f"{FALL} {now // rate}", width, width, at(rate))
    if width != to or now < rate:
        yield Piece(LINEAR, width, to, at(max(rate, now)))
    if now < rate:
        yield Piece(f"{RISE} {rate // now}", to, to, at(now))
        if skip != to:
            yield Piece(LINEAR, skip, to, at(now))


def _restricted(space: BlockSpace, only: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the values of each choice that the restrictions leave."""
    values = {name: list(own) for name, own in space.table.items()}
    problems = [f"{name}: is no restriction" for name in only if name not in RESTRICTIONS]
    if "widths" in only:
        unknown = [width for width in only["widths"] if width not in values["width"]]
        if unknown:
            problems.append(f"widths: {unknown} are not searched; searched are {values['width']}")
        values["width"] = [width for width in values["width"] if width in only["widths"]]
    for name, kinds in (("fronts", ("front end",)), ("modules", SLOTS)):
        if name not in only:
            continue
        parts = dict.fromkeys(part for kind in kinds for part in values[kind] if part is not None)
        for word in only[name]:
            if not any(word in (part.kind, part.text()) for part in parts):
                known = dict.fromkeys(part.kind for part in parts)
                problems.append(
                    f"{name}: none is {word!r}; known: {', '.join(known)}, or a candidate as the "
                    "text of a genotype shows it"
                )
        for kind in kinds:
            values[kind] = [
                part
                for part in values[kind]
                if part is None or part.kind in only[name] or part.text() in only[name]
            ]
    problems += [f"no {name} is left" for name, own in values.items() if not own]
    if problems:
        raise ConfigError("bench", problems)
    return values
