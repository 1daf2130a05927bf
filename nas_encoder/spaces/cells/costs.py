"""Exact and expected costs of cell networks of one size.

E edges of a cell, n candidates on each edge.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.choices import Candidates
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.operations import NONE
from nas_encoder.spaces.cells.pieces import CellLatencies as LatencyTable
from nas_encoder.spaces.cells.pieces import CellNetwork
from nas_encoder.spaces.cells.space import EDGES_PER_NODE, KINDS, CellSpace, edge_list

_TINY = 1e-12


class CellCosts:
    """The costs of the cell networks of one size."""

    def __init__(self, space: CellSpace, network: CellNetwork) -> None:
        self.operations = space.choices
        self.network = network
        self._costs = {p: network.count(p) for p in network.all_pieces()}
        self.quantities = ["parameters", "macs"]
        self.scale = {"parameters": 1.0, "macs": 1.0}
        self._of: dict[CellArchitecture, dict[str, float]] = {}
        self._tables: dict[Any, Tensor] = {}
        self._fixed = list(self.network.fixed)
        self._fixed += [piece for cell in self.network.cells for piece in cell.preprocess]

    def add_latency(self, space: CellSpace, path: str | None) -> None:
        """Add the latencies of a file; see :func:`build_with_latency`."""
        command = bench_command(path, space.name, self.network)
        if path is None:
            raise ConfigError(
                "objective.latency_ms",
                [
                    "needs objective.table, a file of measured latencies; make one with: "
                    f"{command}; then add --set objective.table=latency.yaml"
                ],
            )
        table = LatencyTable.load(path)
        table.require(self.network, self._costs, f"objective.table {path}", command)
        for piece, costs in self._costs.items():
            costs["latency_ms"] = table.milliseconds[piece]
        self.quantities.append("latency_ms")
        self.scale["latency_ms"] = table.scale

    def of(self, architecture: CellArchitecture) -> dict[str, float]:
        """Return the costs of an architecture's network, by quantity.

        Parameters and multiply-adds are exactly those of the network that
        :func:`~nas_encoder.network.build_encoder` builds.
        """
        if architecture not in self._of:
            pieces = self.network.pieces_of(architecture)
            self._of[architecture] = {
                name: self.scale[name] * sum(self._costs[piece][name] for piece in pieces)
                for name in self.quantities
            }
        return dict(self._of[architecture])

    def cheapest(self, name: str) -> float:
        """Return the cost of the cheapest network of the space."""
        candidates = (self.operations,) * len(edge_list(self.network.nodes))
        total = sum(self._costs[piece][name] for piece in self._fixed)
        for kind in KINDS:
            edges = self._table(kind, candidates, name, torch.device("cpu")).amin(1).tolist()
            for node in range(self.network.nodes):
                heads = [head for head, _ in edge_list(self.network.nodes)]
                own = [cost for cost, head in zip(edges, heads, strict=True) if head == node]
                total += sum(sorted(own)[:EDGES_PER_NODE])
        return self.scale[name] * total

    def expected(
        self,
        weights: Mapping[str, Tensor],
        candidates: Candidates,
        edges: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the expected costs as differentiable functions of the probabilities.

        The expectation is over networks drawn as follows: each node takes two of its edges, one
        after the other and without replacement, in proportion to the edges' strengths; an edge's
        strength is the probability of its most probable operation other than ``none``, as in
        the derivation (Liu et al. 2019, section 2.4), which takes the two strongest. Each edge
        taken has one operation, drawn from its probabilities without ``none`` (the expectation
        over operations is that of Cai et al. 2019, ProxylessNAS, section 3.3, and of Wu et al.
        2019, FBNet; that over edges is ours: theirs keep every block). The rest is the same for
        all networks: a cell's first node has only the edges from its two inputs, so their
        preprocessing always exists.

        If every choice is certain (each edge has one operation of probability 1, which is
        ``none`` on all but two edges of a node), this is exactly the cost of that network.

        Args:
            weights: For each kind of cell (E, n) probabilities; each edge's sum is 1.
            candidates: The candidates that they belong to.
            edges: For each kind of cell (E,), the probabilities that a node takes an edge, if
                they are learned rather than derived from the operations' probabilities.

        Returns:
            For each quantity a scalar in float64.
        """
        drawn = {
            kind: self._drawn(weights[kind].double(), candidates[kind], (edges or {}).get(kind))
            for kind in KINDS
        }
        device = weights[KINDS[0]].device
        totals: dict[str, Tensor] = {}
        for name in self.quantities:
            fixed = sum(self._costs[piece][name] for piece in self._fixed)
            total = torch.tensor(fixed, dtype=torch.float64, device=device)
            for kind in KINDS:
                total = (
                    total + (self._table(kind, candidates[kind], name, device) * drawn[kind]).sum()
                )
            totals[name] = self.scale[name] * total
        return totals

    def _drawn(
        self, weights: Tensor, candidates: tuple[tuple[str, ...], ...], edges: Tensor | None
    ) -> Tensor:
        """Return (E, n): the probability that an edge is taken and has this operation."""
        counted = [[float(op != NONE) for op in edge] for edge in candidates]
        kept = weights * weights.new_tensor(counted)
        shares = kept / kept.sum(1, keepdim=True).clamp(min=_TINY)
        if edges is not None:
            return edges.double()[:, None] * shares
        strengths = kept.amax(1)
        taken = []
        places = edge_list(self.network.nodes)
        for node in range(self.network.nodes):
            own = strengths[[row for row, (head, _) in enumerate(places) if head == node]]
            first = own / own.sum().clamp(min=_TINY)
            # Second draw, after edge j was the first: own / (sum - own_j).
            after = first / (1 - first).clamp(min=_TINY)
            taken.append(first + first * (after.sum() - after))
        return torch.cat(taken)[:, None] * shares

    def _table(
        self, kind: str, candidates: tuple[tuple[str, ...], ...], name: str, device: torch.device
    ) -> Tensor:
        """Return (E, n): the cost of an operation on an edge, summed over all cells of a kind."""
        key = (kind, candidates, name, device)
        if key not in self._tables:
            places = [cell for cell in self.network.cells if cell.place.kind == kind]
            edges = edge_list(self.network.nodes)
            rows = [
                [
                    sum(self._costs[p.operation(op, source)][name] for p in places if op != NONE)
                    for op in edge
                ]
                for edge, (_, source) in zip(candidates, edges, strict=True)
            ]
            self._tables[key] = torch.tensor(rows, dtype=torch.float64, device=device)
        return self._tables[key]


def pieces(
    space: CellSpace,
    config: CellConfig,
    frames: int,
    only: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    also: Sequence[Genotype] = (),
) -> CellNetwork:
    """Return the pieces of all networks of one size.

    Raises:
        ConfigError: ``only`` or ``also`` is given: a table of cells holds all pieces.
    """
    given = [*only, *(["also"] if also else [])]
    if given:
        rule = f"is for other spaces: the table of '{space.name}' holds all of its operations"
        raise ConfigError("bench", [f"{name}: {rule}" for name in given])
    return CellNetwork(config, frames, space)


def build(space: CellSpace, config: CellConfig, frames: int) -> CellCosts:
    """Return the costs of networks of one size."""
    return CellCosts(space, pieces(space, config, frames))


def build_with_latency(
    space: CellSpace, config: CellConfig, frames: int, table: str | None
) -> CellCosts:
    """Return the same with latencies.

    Raises:
        ConfigError: No table of latencies for exactly this network was found.
    """
    costs = build(space, config, frames)
    costs.add_latency(space, table)
    return costs


def bench_command(table: str | None, space: str, network: CellNetwork) -> str:
    """Return the command that measures the latencies of this network's pieces."""
    size = network.config
    words: list[Any] = ["nas-encoder", "bench", "--operations", "--space", space]
    words += ["--layers", size.layers, "--channels", size.channels]
    words += ["--input-size", size.input_size, "--output-size", size.output_size]
    words += ["--stem-stride", *size.stem_stride, "--frames", network.frames]
    if size.hidden_sizes:
        words += ["--hidden-sizes", *size.hidden_sizes]
    if not size.deltas:
        words.append("--no-deltas")
    words += ["--output", table or "latency.yaml"]
    return shlex.join(str(word) for word in words)
