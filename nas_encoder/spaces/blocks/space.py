"""The space of block encoders: any front end, rate schedule and order of modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from math import prod
from typing import Any, ClassVar

from nas_encoder.common.choices import NO_EDGES, EdgeProbabilities, Probabilities, most_probable
from nas_encoder.common.problems import Problems
from nas_encoder.errors import GenotypeError
from nas_encoder.spaces.base import LATENCY, FrameRates, Kind, SearchSpace
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.choices import (
    DEPTHS,
    NORMS,
    SCHEDULES,
    SLOTS,
    STAGES,
    STREAMING_SLOTS,
    STREAMING_STREAMS,
    STREAMS,
    WIDTHS,
    filled,
    fronts,
    name_of,
    streaming_fronts,
)
from nas_encoder.spaces.blocks.config import BlocksConfig

KEYS = ("front", "scale", "positions", "stages", "final_norm")


class BlockSpace(SearchSpace):
    """All block encoders; those of three stages made of :mod:`.choices` are sampled and searched.

    Args:
        name: As in a genotype's ``space``.
        streaming: Whether those choices are only what streams.

    Every block encoder is a member (:meth:`check`); one that is not made of those choices has no
    vector, so :meth:`encode` and :meth:`mutate` refuse it. One of fewer stages has the vector of
    the same encoder in three.
    """

    package = __package__
    options = BlocksConfig
    keys = ("front", "stages")
    more_keys = ("scale", "positions", "final_norm")
    sizes: ClassVar[Mapping[str, int]] = {}
    bins: ClassVar[int] = 80
    features = frozenset({LATENCY})

    def __init__(self, name: str = "blocks", streaming: bool = False) -> None:
        self.name, self.streaming = name, streaming

    @cached_property
    def table(self) -> dict[str, tuple[Any, ...]]:
        """The values of each choice, by its kind, in the order of the vector."""
        found: dict[str, tuple[Any, ...]] = {
            "front end": streaming_fronts() if self.streaming else fronts(),
            "schedule": SCHEDULES,
            "stream": STREAMING_STREAMS if self.streaming else STREAMS,
            "norms": NORMS,
            "width": WIDTHS,
            "depth": DEPTHS,
        }
        return found | (STREAMING_SLOTS if self.streaming else SLOTS)

    @cached_property
    def kinds(self) -> Mapping[str, Kind]:  # type: ignore[override]
        """The choices, each kind once for the encoder or once for each stage."""
        stages = tuple(f"stage {number}" for number in range(1, STAGES + 1))
        return {
            name: Kind(name, stages if name in _PER_STAGE else (name,), self._names(name))
            for name in self.table
        }

    def _names(self, kind: str) -> tuple[str, ...]:
        return tuple(_label(value) for value in self.table[kind])

    @property
    def operations(self) -> tuple[str, ...]:  # type: ignore[override]
        """The modules that mix frames."""
        return self.kinds["mixing"].operations

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """The same."""
        return self.operations

    @property
    def size(self) -> int:  # type: ignore[override]
        """Number of vectors."""
        return prod(self.bounds)

    @cached_property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`."""
        return [len(kind.operations) for kind in self.kinds.values() for _ in kind.names]

    def parse(self, document: Mapping[str, Any], problems: Problems) -> BlockArchitecture | None:
        """Read the front end, the stages and the norms."""
        before = len(problems.lines)
        own = {name: document[name] for name in KEYS if name in document}
        found = BlockArchitecture.read(own, problems)
        return found if len(problems.lines) == before else None

    def check(self, architecture: Any, problems: Problems) -> None:
        """Report what is wrong with an architecture that was not read from a document."""
        if not isinstance(architecture, BlockArchitecture):
            problems.add("architecture", "must be a front end and stages of blocks")
        else:
            for line in _broken_rules(architecture):
                problems.add(*line.split(": ", 1))

    def vector_of(self, architecture: BlockArchitecture) -> list[int]:
        """Return the place of each choice's value.

        Raises:
            GenotypeError: The architecture is not made of the space's choices.
        """
        chosen, problems = _values(architecture), Problems()
        if isinstance(chosen, str):
            raise GenotypeError("genotype", [f"is not one of those that are searched: {chosen}"])
        vector = []
        for (name, kind), values in zip(self.kinds.items(), chosen, strict=True):
            for place, value in zip(kind.names, values, strict=True):
                if value in self.table[name]:
                    vector.append(self.table[name].index(value))
                else:
                    problems.add(
                        place,
                        f"{name} {_label(value)!r} is not searched; searched are "
                        f"{', '.join(kind.operations)}",
                    )
        if problems:
            raise GenotypeError("genotype", problems.lines)
        return vector

    def architecture_of(self, vector: Sequence[int]) -> BlockArchitecture:
        """Return the architecture of a vector."""
        values, rest = [], list(vector)
        for name, kind in self.kinds.items():
            values.append([self.table[name][rest.pop(0)] for _ in kind.names])
        return _architecture(values)

    def derive(
        self,
        probabilities: Probabilities,
        limits: Mapping[str, int],
        edges: EdgeProbabilities = NO_EDGES,
    ) -> BlockArchitecture:
        """Return the architecture of each choice's most probable value."""
        values = []
        for name, kind in self.kinds.items():
            names = [most_probable(choice) for choice in probabilities[name]]
            values.append([self.table[name][kind.operations.index(own)] for own in names])
        return _architecture(values)

    def chosen(self, architecture: BlockArchitecture) -> dict[str, list[tuple[int, str]]]:
        """Return (stage or 0, value) of each kind; for other than searched ones, the modules."""
        values = _values(architecture)
        if isinstance(values, str):
            return {
                "mixing": [
                    (place, module.text())
                    for place, stage in enumerate(architecture.stages)
                    for module in stage.modules
                ]
            }
        return {
            name: list(enumerate(map(_label, own)))
            for name, own in zip(self.kinds, values, strict=True)
        }

    def frame_rates(self, options: BlocksConfig) -> FrameRates:
        """Return the frame rates that the choices give."""
        fronts: list[Any] = list(self.table["front end"])
        factors = [front.factor * own[-1] for front in fronts for own in self.table["schedule"]]
        shortest = max(max(front.factor, front.least) for front in fronts)
        return FrameRates(min(factors), max(factors), shortest)

    def lines(self, architecture: BlockArchitecture) -> list[str]:
        """Return the front end and the stages, one per line."""
        stream = " scaled" if architecture.scale else ""
        stream += ", absolute positions" if architecture.positions == "absolute" else ""
        end = ["final norm"] if architecture.final_norm else []
        stages = [f"stage {n}: {s.text()}" for n, s in enumerate(architecture.stages, 1)]
        return [f"front end: {architecture.front.text()}{stream}", *stages, *end]

    def legend(self, architecture: BlockArchitecture, options: BlocksConfig) -> tuple[str, str]:
        """Return the meaning of the words, and the network's size."""
        scaled = architecture.scaled(options.channels, options.layers)
        widths = sorted({stage.width for stage in scaled.stages})
        shown = f"{widths[0]} to {widths[-1]}" if len(widths) > 1 else f"{widths[0]}"
        return (
            "(rate: frames of a stage per frame of the front end; feed-forward and cgMLP: hidden "
            "units per unit of width; kernels and memories in frames of the stage)",
            f"network of {sum(stage.blocks for stage in scaled.stages)} blocks, width {shown}, "
            f"{scaled.factor} input frames per output frame, {options.input_size} features",
        )

    def shape(self, architecture: BlockArchitecture) -> dict[str, int]:
        """Return the numbers of blocks and of attention layers, and the reduction."""
        modules = [m.kind for stage in architecture.blocks() for m in stage.modules]
        return {
            "blocks": sum(stage.blocks for stage in architecture.stages),
            "attention": sum(kind in ("attention", "parallel") for kind in modules),
            "reduction": architecture.factor,
        }


_PER_STAGE = ("width", "depth", *SLOTS)


@lru_cache(maxsize=4096)  # searches ask again and again
def _broken_rules(architecture: BlockArchitecture) -> list[str]:
    return architecture.problems()


def _label(value: Any) -> str:
    if value is None or hasattr(value, "text"):
        return name_of(value)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _values(found: BlockArchitecture) -> list[list[Any]] | str:
    """Return the values of all choices, or why there are none."""
    stages = _three(found.stages)
    slots = [filled(stage.modules) for stage in stages]
    norms = {(stage.norm, stage.final_norm) for stage in stages}
    if len(stages) != STAGES:
        return f"it has {len(stages)} stages, not {STAGES}"
    if None in slots:
        return "a block must be [feed-forward] mixing [mixing] [feed-forward]"
    if len(norms) > 1:
        return "the norms of its stages differ"
    once = [
        found.front,
        tuple(stage.reduction for stage in stages),
        (found.scale, found.positions),
        (*norms.pop(), found.final_norm),
    ]
    per_stage = [[stage.width for stage in stages], [stage.blocks for stage in stages]]
    return [[value] for value in once] + per_stage + list(map(list, zip(*slots, strict=True)))


def _three(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return fewer stages as three, which compute the same, by splitting the longest."""
    while len(stages) < STAGES and (longest := max(stages, key=lambda own: own.blocks)).blocks > 1:
        place = stages.index(longest)
        half = longest.blocks // 2
        halves = (replace(longest, blocks=longest.blocks - half), replace(longest, blocks=half))
        stages = (*stages[:place], *halves, *stages[place + 1 :])
    return stages


def _architecture(values: Sequence[Sequence[Any]]) -> BlockArchitecture:
    (front,), (schedule,), ((scale, positions),), ((norm, each, end),), widths, depths, *slots = (
        values
    )
    stages = tuple(
        Stage(width, rate, depth, tuple(part for part in own if part is not None), norm, each)
        for width, rate, depth, own in zip(
            widths, schedule, depths, zip(*slots, strict=True), strict=True
        )
    )
    return BlockArchitecture(front, scale, positions, stages, end)


BLOCKS = BlockSpace()
STREAMING_BLOCKS = BlockSpace("streaming_blocks", True)
