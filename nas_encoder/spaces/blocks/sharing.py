"""Which choices of a supernet share weights, and which of them has the biggest."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from nas_encoder.genotype import Genotype
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import MODULES, Convolution, Memory
from nas_encoder.spaces.blocks.space import BlockSpace

# Kind of choice -> its values, of :attr:`.space.BlockSpace.table`.
Choices = Mapping[str, Sequence[Any]]


def values_of(space: BlockSpace, names: Mapping[str, Sequence[str]]) -> dict[str, tuple[Any, ...]]:
    """Return the values of candidates, for each kind; all of those that are not named."""
    found = {}
    for kind, table in space.table.items():
        own = space.kinds[kind].operations
        found[kind] = tuple(table[own.index(name)] for name in names.get(kind, own))
    return found


def key_of(part: Part) -> str:
    """Return the name of the weights that modules like this one share."""
    if isinstance(part, Memory):
        hidden = "_hidden" if part.expansion else ""
        return f"{part.kind}_{part.stride}{hidden}"
    # The frame of a causal kernel is another tap.
    causal = "_causal" if getattr(part, "causal", False) else ""
    if isinstance(part, Convolution):
        return f"{part.kind}_{part.norm}{'' if part.glu else '_bare'}{causal}"
    return f"{part.kind}{causal}"


def biggest_of(parts: Sequence[Part]) -> Part:
    """Return the module whose weights hold those of all ``parts``, which share them."""
    own = {
        item.name: max(getattr(part, item.name) for part in parts)
        for item in fields(parts[0])  # type: ignore[arg-type]
        if all(isinstance(getattr(part, item.name), (int, float)) for part in parts)
    }
    if any(getattr(part, "positions", "none") == "relative" for part in parts):
        own["positions"] = "relative"
    return replace(parts[0], **own)  # type: ignore[type-var]


def widest(fronts: Sequence[Any]) -> Any:
    """Return the front end with the most channels."""
    return max(fronts, key=lambda front: getattr(front, "channels", 0))


def without_channels(front: Any) -> Any:
    """Return a front end with one channel, if it has channels: those alike share weights."""
    return replace(front, channels=1) if hasattr(front, "channels") else front


def sandwich(space: BlockSpace, choices: Choices, rng: random.Random, count: int) -> list[Genotype]:
    """Draw the encoders of a training step: the biggest, the smallest, ``count`` at random.

    The sandwich rule (Yu and Huang 2019) knows one biggest network. Kinds of modules
    have no order, so each step first draws these (and norms) for its biggest and its smallest.
    """
    drawn = _drawn(space, choices, rng)
    ends = [
        {kind: [_end(choices[kind], value, end) for value in own] for kind, own in drawn.items()}
        for end in (max, min)
    ]
    found = [*ends, *(_drawn(space, choices, rng) for _ in range(count))]
    return [_genotype(space, values) for values in found]


def _drawn(space: BlockSpace, choices: Choices, rng: random.Random) -> dict[str, list[Any]]:
    return {
        kind: [rng.choice(choices[kind]) for _ in own.names] for kind, own in space.kinds.items()
    }


def _genotype(space: BlockSpace, values: Mapping[str, Sequence[Any]]) -> Genotype:
    tables = space.table
    return space.decode(
        [tables[kind].index(value) for kind, own in values.items() for value in own]
    )


def _end(values: Sequence[Any], drawn: Any, end: Callable[..., Any]) -> Any:
    """Return the biggest or the smallest of the values that share weights with the drawn one."""
    if isinstance(drawn, int):
        return end(values)
    if not isinstance(drawn, Part):  # a schedule, norms, or no module
        return drawn
    return end((v for v in values if v is not None and _group(v) == _group(drawn)), key=_size)


def _group(part: Part) -> Any:
    return key_of(part) if part.kind in MODULES else without_channels(part)


def _size(part: Part) -> tuple[float, ...]:
    """Return what orders modules with the same weights by how many they take."""
    names = ("channels", "expansion", "kernel", "merge_kernel", "back", "ahead", "window", "heads")
    return tuple(float(getattr(part, name, 0) or 0) for name in names)  # null is 0
