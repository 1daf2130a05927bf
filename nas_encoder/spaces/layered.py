"""Coordinates for a small directed acyclic graph, in columns from left to right.

The usual layered drawing (Sugiyama, Tagawa, Toda 1981) without any system package: vertices in
columns, edges over several columns routed through slots of their own, few crossings, no overlaps.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

Vertex = Hashable
SWEEPS = 24
_BEND = 0.45  # height of the slot of an edge that passes a column


@dataclass(frozen=True)
class Layout:
    """Positions of all vertices and edges.

    Attributes:
        position: Vertex -> (column, y), y upwards.
        route: For each edge, in the given order, the (column, y) points from tail to head.
    """

    position: dict[Vertex, tuple[int, float]]
    route: list[list[tuple[int, float]]]

    @property
    def height(self) -> float:
        """Distance between the lowest and the highest vertex."""
        heights = [y for _, y in self.position.values()]
        return max(heights) - min(heights)


def layered_layout(
    column: Mapping[Vertex, int],
    edges: Sequence[tuple[Vertex, Vertex]],
    size: Mapping[Vertex, float],
) -> Layout:
    """Place the vertices of a graph.

    Args:
        column: The column of each vertex, in the order of the initial stacking.
        edges: (tail, head), always to a column further right.
        size: Height of each vertex, in units of y.
    """
    columns: list[list[Vertex]] = [[] for _ in range(max(column.values()) + 1)]
    for vertex, number in column.items():
        columns[number].append(vertex)
    sizes = dict(size)
    chains: list[list[Vertex]] = []
    for index, (tail, head) in enumerate(edges):
        chain: list[Vertex] = [tail]
        for number in range(column[tail] + 1, column[head]):
            bend = ("bend", index, number)
            columns[number].append(bend)
            sizes[bend] = _BEND
            chain.append(bend)
        chains.append([*chain, head])
    left: dict[Vertex, list[Vertex]] = {vertex: [] for stack in columns for vertex in stack}
    right: dict[Vertex, list[Vertex]] = {vertex: [] for stack in columns for vertex in stack}
    for chain in chains:
        for tail, head in zip(chain, chain[1:], strict=False):
            left[head].append(tail)
            right[tail].append(head)
    columns = _fewest_crossings(columns, left, right)
    y = _heights(columns, left, right, sizes)
    place = {vertex: (n, y[vertex]) for n, stack in enumerate(columns) for vertex in stack}
    return Layout(
        {vertex: place[vertex] for vertex in column},
        [[place[vertex] for vertex in chain] for chain in chains],
    )


def _fewest_crossings(
    columns: list[list[Vertex]],
    left: Mapping[Vertex, list[Vertex]],
    right: Mapping[Vertex, list[Vertex]],
) -> list[list[Vertex]]:
    """Order every column by the mean place of its neighbours, sweeping back and forth."""
    best, fewest = [list(stack) for stack in columns], _crossings(columns, right)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        near = left if forward else right
        order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
        for number in order:
            beside = columns[number - 1 if forward else number + 1]
            columns[number] = _by_neighbours(columns[number], near, beside)
        _swap_neighbours(columns, right)
        now = _crossings(columns, right)
        if now < fewest:
            best, fewest = [list(stack) for stack in columns], now
    return best


def _by_neighbours(
    stack: Sequence[Vertex], near: Mapping[Vertex, list[Vertex]], beside: Sequence[Vertex]
) -> list[Vertex]:
    """Sort a column by the mean place of each vertex's neighbours in the adjacent column."""
    rank = {vertex: place for place, vertex in enumerate(beside)}
    means: dict[Vertex, float] = {}
    for place, vertex in enumerate(stack):
        places = [rank[other] for other in near[vertex]]
        means[vertex] = sum(places) / len(places) if places else float(place)
    return sorted(stack, key=means.__getitem__)


def _swap_neighbours(columns: list[list[Vertex]], right: Mapping[Vertex, list[Vertex]]) -> None:
    """Swap two adjacent vertices wherever this swap removes crossings."""
    for number, stack in enumerate(columns):
        beside = slice(max(number - 1, 0), number + 2)
        for place in range(len(stack) - 1):
            before = _crossings(columns[beside], right)
            stack[place], stack[place + 1] = stack[place + 1], stack[place]
            if _crossings(columns[beside], right) >= before:
                stack[place], stack[place + 1] = stack[place + 1], stack[place]


def _crossings(columns: Sequence[list[Vertex]], right: Mapping[Vertex, list[Vertex]]) -> int:
    total = 0
    for stack, following in zip(columns, columns[1:], strict=False):
        rank = {vertex: place for place, vertex in enumerate(following)}
        ends = [(place, rank[head]) for place, tail in enumerate(stack) for head in right[tail]]
        for index, (tail_a, head_a) in enumerate(ends):
            for tail_b, head_b in ends[index + 1 :]:
                total += (tail_a - tail_b) * (head_a - head_b) < 0
    return total


def _heights(
    columns: Sequence[list[Vertex]],
    left: Mapping[Vertex, list[Vertex]],
    right: Mapping[Vertex, list[Vertex]],
    sizes: Mapping[Vertex, float],
) -> dict[Vertex, float]:
    """Move every vertex to its neighbours' mean height, keeping order and distances."""
    y: dict[Vertex, float] = {}
    for stack in columns:
        offsets = _offsets(stack, sizes)
        y.update((v, offset - offsets[-1] / 2) for v, offset in zip(stack, offsets, strict=True))
    for _ in range(SWEEPS):
        for stack in columns:
            offsets = _offsets(stack, sizes)
            wanted = []
            for vertex, offset in zip(stack, offsets, strict=True):
                near = left[vertex] + right[vertex]
                mean = sum(y[other] for other in near) / len(near) if near else y[vertex]
                wanted.append(mean - offset)
            for vertex, base, offset in zip(stack, _monotone(wanted), offsets, strict=True):
                y[vertex] = base + offset
    return y


def _offsets(stack: Sequence[Vertex], sizes: Mapping[Vertex, float]) -> list[float]:
    """Return the lowest heights that leave room for every vertex of a column."""
    offsets = [0.0]
    for below, above in zip(stack, stack[1:], strict=False):
        offsets.append(offsets[-1] + (sizes[below] + sizes[above]) / 2)
    return offsets[: len(stack)]


def _monotone(values: Sequence[float]) -> list[float]:
    """Return the nearest increasing sequence in least squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
