"""A block encoder: a front end and stages of residual blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import lcm
from typing import Any

from nas_encoder.common.fields import Declared, choice, flag, integer, option, tuple_of
from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import ConfigError
from nas_encoder.spaces.blocks.front_parts import FRONTS, Conv2dFront
from nas_encoder.spaces.blocks.part import Part, read_part
from nas_encoder.spaces.blocks.parts import MODULES, FeedForward, Memory, Parallel, SelfAttention

REDUCTIONS = (1, 2, 4)  # frames of the front end per frame of a stage
MAX_BLOCKS = 256
MAX_PERIOD = 1 << 16  # frames of the front end; see BlockArchitecture.period
POSITIONS = ("none", "absolute")


def _reduction(value: Any, path: str, problems: Problems) -> Any:
    if isinstance(value, bool) or value not in REDUCTIONS:
        problems.add(path, f"must be 1, 2 or 4 frames of the front end, got {show(value)}")
        return None
    return REDUCTIONS[REDUCTIONS.index(value)]


@dataclass(frozen=True)
class Stage(Declared):
    """Equal blocks in a row.

    Attributes:
        width: Features of a frame of the stream.
        reduction: Frames of the front end per frame of the stage: 1, 2 or 4.
        blocks: Number of blocks.
        modules: Residual modules of a block, in order.
        norm: ``before``: x + module(norm(x)); ``after``: norm(x + module(x)).
        final_norm: Whether each block ends in a layer norm.
    """

    width: int = option(256, integer(1, 65536))
    reduction: int = option(1, _reduction)
    blocks: int = option(1, integer(1, MAX_BLOCKS))
    modules: tuple[Part, ...] = option(
        (FeedForward(),), tuple_of(read_part(MODULES, "module"), 1, 64)
    )
    norm: str = option("before", choice("place of norms", ("before", "after")))
    final_norm: bool = option(True, flag)

    def conflicts(self, found: Problems) -> None:
        """Check the modules against the width."""
        for place, module in enumerate(self.modules):
            where = f"modules[{place}]"
            if isinstance(module, (SelfAttention, Parallel)) and self.width % module.heads:
                rule = f"must divide the width {self.width}, got {module.heads}"
                found.conflict(f"{where}.heads", rule, "width")
            expansion = getattr(module, "expansion", None)
            if expansion is not None and not isinstance(module, Memory):
                least = 1 if isinstance(module, FeedForward) else 2
                if hidden_units(expansion, self.width, least) < least:
                    rule = f"gives no hidden units at width {self.width}"
                    found.conflict(f"{where}.expansion", rule, "width")

    def document(self) -> dict[str, Any]:
        """Return the YAML form."""
        default = Stage()
        rest = {
            name: getattr(self, name)
            for name in ("norm", "final_norm")
            if getattr(self, name) != getattr(default, name)
        }
        return {
            "width": self.width,
            "reduction": self.reduction,
            "blocks": self.blocks,
            "modules": [module.document() for module in self.modules],
            **rest,
        }

    def values(self) -> list[Any]:
        """Return what identifies it, but for the number of blocks."""
        modules = [module.values() for module in self.modules]
        return [self.width, self.reduction, modules, self.norm, self.final_norm]

    def text(self) -> str:
        """Return it as a line of text."""
        modules = ", ".join(module.text() for module in self.modules)
        norm = "" if self.norm == "before" else ", norms after modules"
        final = "" if self.final_norm else ", no final norm"
        blocks = f"{self.blocks} block{'s' if self.blocks > 1 else ''}"
        rate = Fraction(1, self.reduction)
        return f"width {self.width}, rate {rate}, {blocks} of [{modules}]{norm}{final}"


def hidden_units(expansion: float, width: int, multiple: int = 1) -> int:
    """Return the hidden units of an expansion, a multiple of ``multiple``."""
    return multiple * round(expansion * width / multiple)


@dataclass(frozen=True)
class BlockArchitecture(Declared):
    """A front end and stages of blocks.

    Where the rate rises from one stage to the next, the output of the last stage before that had
    the higher rate (or of the front end) is added, as in a U-Net (Squeezeformer, Kim et al. 2022).

    Attributes:
        front: The front end, with a linear layer to the first stage's width.
        scale: Whether its output is multiplied by the root of the width, as in ESPnet.
        positions: ``absolute`` adds sinusoids to it (Vaswani et al. 2017), ``none`` nothing.
        stages: First to last.
        final_norm: Whether the encoder ends in a layer norm.
    """

    front: Part = option(Conv2dFront(), read_part(FRONTS, "front end"))
    scale: bool = option(False, flag)
    positions: str = option("none", choice("kind of positions", POSITIONS))
    stages: tuple[Stage, ...] = option(
        (Stage(),),
        tuple_of(lambda value, path, problems: _stage(value, path, problems), 1, MAX_BLOCKS),
    )
    final_norm: bool = option(False, flag)

    def conflicts(self, found: Problems) -> None:
        """Check the rates of the stages, and the number of blocks."""
        rates = [1, *(stage.reduction for stage in self.stages)]
        for place, (before, now) in enumerate(pairwise(rates)):
            if now < before and now not in rates[: place + 1]:
                rule = f"rises to 1/{now}, which no earlier stage has, so there is no skip"
                found.conflict(f"stages[{place}].reduction", rule)
        total = sum(stage.blocks for stage in self.stages)
        if total > MAX_BLOCKS:
            found.conflict("stages", f"must have at most {MAX_BLOCKS} blocks, have {total}")
        if self.period > MAX_PERIOD:
            rule = f"begin together only every {self.period} frames, must within {MAX_PERIOD}"
            found.conflict("stages", f"the chunks of attention {rule}; let one divide another")

    @property
    def period(self) -> int:
        """After how many frames of the front end all rates and chunks begin together again."""
        chunks = (
            stage.reduction * max(getattr(module, "chunk", 0), 1)
            for stage in self.stages
            for module in stage.modules
        )
        return lcm(*chunks)

    @property
    def factor(self) -> int:
        """S, input frames per output frame."""
        front: Any = self.front
        return int(front.factor) * self.stages[-1].reduction

    def blocks(self) -> Iterator[Stage]:
        """Yield the stage of each block, in order."""
        for stage in self.stages:
            yield from [stage] * stage.blocks

    def possible_taps(self) -> tuple[int, ...]:
        """Return the blocks, counted from 1, whose outputs have the final one's rate and width."""
        last = self.stages[-1]
        return tuple(
            number
            for number, stage in enumerate(list(self.blocks())[:-1], 1)
            if (stage.width, stage.reduction) == (last.width, last.reduction)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        default = BlockArchitecture()
        given = {name: getattr(self, name) for name in ("scale", "positions", "final_norm")}
        return {
            "front": self.front.document(),
            **{name: v for name, v in given.items() if v != getattr(default, name)},
            "stages": [stage.document() for stage in self.stages],
        }

    def canonical(self) -> list[Any]:
        """Return the canonical form, with equal stages in a row joined."""
        joined: list[list[Any]] = []
        for stage in self.stages:
            if joined and joined[-1][0] == stage.values():
                joined[-1][1] += stage.blocks
            else:
                joined.append([stage.values(), stage.blocks])
        head = [self.front.values(), self.scale, self.positions, self.final_norm]
        return ["blocks", *head, joined]

    def scaled(self, width: int | None, blocks: int | None) -> BlockArchitecture:
        """Return the architecture at another size.

        Args:
            width: Of the widest stage. The other widths keep their ratio to it, rounded to
                multiples of twice the number of heads. The front end's channels stay.
            blocks: In all, distributed in the stages' proportions (largest remainders), at least
                one each.

        Raises:
            ConfigError: There are more stages than blocks.
        """
        return _scaled(self, width, blocks)


def _stage(value: Any, path: str, problems: Problems) -> Any:
    before = len(problems.lines)
    if isinstance(value, Mapping):
        problems.mapping(value, path, ("width", "modules"), value)
    found = Stage.read(value, problems.under(path))
    return found if len(problems.lines) == before else None


def _scaled(found: BlockArchitecture, width: int | None, blocks: int | None) -> BlockArchitecture:
    stages = found.stages
    if width is not None:
        widest = max(stage.width for stage in stages)
        stages = tuple(_widened(stage, Fraction(width, widest)) for stage in stages)
    if blocks is not None:
        if blocks < len(stages):
            rule = f"must be at least one for each of the {len(stages)} stages, got {blocks}"
            raise ConfigError("size", [rule])
        counts = _shares([stage.blocks for stage in stages], blocks)
        stages = tuple(
            replace(stage, blocks=count) for stage, count in zip(stages, counts, strict=True)
        )
    return replace(found, stages=stages)


def _widened(stage: Stage, factor: Fraction) -> Stage:
    heads = [m.heads for m in stage.modules if isinstance(m, (SelfAttention, Parallel))]
    step = 2 * max(heads, default=4)
    return replace(stage, width=max(step, step * round(stage.width * factor / step)))


def _shares(counts: list[int], total: int) -> list[int]:
    """Return numbers in proportion to ``counts`` with the sum ``total``, each at least one."""
    left = total - len(counts)
    whole = sum(counts)
    exact = [Fraction(left * count, whole) for count in counts]
    given = [int(share) for share in exact]
    order = sorted(range(len(counts)), key=lambda i: (given[i] - exact[i], i))
    for place in order[: left - sum(given)]:
        given[place] += 1
    return [1 + count for count in given]
