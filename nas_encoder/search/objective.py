"""Cost in the loss: what the network that a search is about to derive costs, against budgets.

E edges of a cell, n operations alive on each edge.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import CellArchitecture
from nas_encoder.network.config import EncoderConfig
from nas_encoder.search.budgets import ObjectiveConfig
from nas_encoder.search.gradient.choices import KINDS, Alive, edge_list
from nas_encoder.search.latency import LatencyTable
from nas_encoder.search.pieces import CellNetwork
from nas_encoder.spaces import CellSpace, get_space

NONE = "none"
_TINY = 1e-12


class Objective:
    """The costs of networks of one size in a cell space, and the penalty for exceeding budgets.

    Args:
        config: Budgets and the size.
        space: Name of the space.
        network: Everything else about the target network; its layers and channels are not used.
        frame_shift: Of the features, in seconds.

    Raises:
        ConfigError: A budget needs what is not there: a space whose networks can be counted, or a
            table of latencies for exactly this network.
    """

    def __init__(
        self, config: ObjectiveConfig, space: str, network: EncoderConfig, frame_shift: float
    ) -> None:
        self.config = config
        self.space = space
        cells = get_space(space)
        if not isinstance(cells, CellSpace):
            raise ConfigError(
                "objective", [f"the costs of networks of the space '{space}' are not known"]
            )
        self.operations = cells.choices
        self.network = target_network(config, cells, network, frame_shift)
        self._costs = {p: self.network.count(p) for p in self.network.all_pieces(cells.choices)}
        self.quantities = ["parameters", "macs"]
        self.scale = {"parameters": 1.0, "macs": 1.0}
        if config.latency_ms is not None or config.table is not None:
            self._add_latency(cells)
        self._of: dict[CellArchitecture, dict[str, float]] = {}
        self._tables: dict[Any, Tensor] = {}
        self._fixed = list(self.network.fixed)
        self._fixed += [piece for cell in self.network.cells for piece in cell.preprocess]

    def _add_latency(self, space: CellSpace) -> None:
        command = bench_command(self.config, space.name, self.network)
        if self.config.table is None:
            raise ConfigError(
                "objective.latency_ms",
                [
                    "needs objective.table, a file of measured latencies; make one with: "
                    f"{command}; then add --set objective.table=latency.yaml"
                ],
            )
        table = LatencyTable.load(self.config.table)
        table.require(self.network, space, f"objective.table {self.config.table}", command)
        for piece, costs in self._costs.items():
            costs["latency_ms"] = table.milliseconds[piece]
        self.quantities.append("latency_ms")
        self.scale["latency_ms"] = table.scale

    # -- of one network -----------------------------------------------------------------------

    def of(self, architecture: CellArchitecture) -> dict[str, float]:
        """Return what the network of an architecture costs, by quantity.

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

    # -- expected -----------------------------------------------------------------------------

    def expected(self, weights: Mapping[str, Tensor], alive: Alive) -> dict[str, Tensor]:
        """Return the expected costs as differentiable functions of the probabilities.

        The expectation is over networks that are drawn so: each node takes two of its edges, one
        after the other and without replacement, in proportion to the edges' strengths; an edge's
        strength is the probability of its most probable operation other than ``none``, as in
        the derivation (Liu et al. 2019, section 2.4), which takes the two strongest. Each edge
        taken has one operation, drawn from its probabilities without ``none`` (the expectation
        over operations is that of Cai et al. 2019, ProxylessNAS, section 3.3, and of Wu et al.
        2019, FBNet; that over edges is ours: theirs keep every block). The rest is the same for
        all networks: a cell's first node has no other edges than those from its two inputs, so
        their preprocessing is always there.

        Where every choice is certain (each edge has one operation of probability 1, which is
        ``none`` on all but two edges of a node), this is exactly the cost of that network.

        Args:
            weights: For each kind of cell (E, n) probabilities, each edge's sum is 1.
            alive: Names of the operations that they belong to.

        Returns:
            For each quantity a scalar in float64.
        """
        drawn = {kind: self._drawn(weights[kind].double(), alive[kind]) for kind in KINDS}
        device = weights[KINDS[0]].device
        totals: dict[str, Tensor] = {}
        for name in self.quantities:
            fixed = sum(self._costs[piece][name] for piece in self._fixed)
            total = torch.tensor(fixed, dtype=torch.float64, device=device)
            for kind in KINDS:
                total = total + (self._table(kind, alive[kind], name, device) * drawn[kind]).sum()
            totals[name] = self.scale[name] * total
        return totals

    def _drawn(self, weights: Tensor, alive: tuple[tuple[str, ...], ...]) -> Tensor:
        """Return (E, n): the probability that an edge is taken and has this operation."""
        counted = [[float(op != NONE) for op in edge] for edge in alive]
        kept = weights * weights.new_tensor(counted)
        shares = kept / kept.sum(1, keepdim=True).clamp(min=_TINY)
        strengths = kept.amax(1)
        taken = []
        edges = edge_list(self.network.nodes)
        for node in range(self.network.nodes):
            own = strengths[[row for row, (head, _) in enumerate(edges) if head == node]]
            first = own / own.sum().clamp(min=_TINY)
            # Second draw, after edge j was the first: own / (sum - own_j).
            after = first / (1 - first).clamp(min=_TINY)
            taken.append(first + first * (after.sum() - after))
        return torch.cat(taken)[:, None] * shares

    def _table(
        self, kind: str, alive: tuple[tuple[str, ...], ...], name: str, device: torch.device
    ) -> Tensor:
        """Return (E, n): what an operation on an edge costs in all cells of a kind together."""
        key = (kind, alive, name, device)
        if key not in self._tables:
            places = [cell for cell in self.network.cells if cell.kind == kind]
            edges = edge_list(self.network.nodes)
            rows = [
                [
                    sum(self._costs[p.operation(op, source)][name] for p in places if op != NONE)
                    for op in edge
                ]
                for edge, (_, source) in zip(alive, edges, strict=True)
            ]
            self._tables[key] = torch.tensor(rows, dtype=torch.float64, device=device)
        return self._tables[key]

    # -- the penalty --------------------------------------------------------------------------

    def penalty(
        self, weights: Mapping[str, Tensor], alive: Alive, derived: CellArchitecture
    ) -> Tensor:
        """Return what is added to the architecture's loss; 0 within all budgets.

        For each budget ``weight * max(0, log(cost / (budget * (1 - margin))))``: no pull
        once the network fits (unlike Cai et al. 2019 and Wu et al. 2019, who weigh any cost), and
        the same pull for the same excess in per cent. The cost is that of the network which
        would be derived now, straight-through: its value decides whether and how much, the
        gradient is that of the expected cost. The expected cost alone would not do: while
        probabilities are near uniform it says little about the operations that win.

        Args:
            weights: For each kind of cell (E, n) probabilities.
            alive: Names of the operations that they belong to.
            derived: What these probabilities give.
        """
        total = torch.zeros((), dtype=torch.float64, device=weights[KINDS[0]].device)
        budgets = self.config.budgets
        costs = self.of(derived)
        exceeded = {
            name: budget * (1 - self.config.margin)
            for name, budget in budgets.items()
            if costs[name] > budget * (1 - self.config.margin)
        }
        if not exceeded or not self.config.weight:
            return total
        expected = self.expected(weights, alive)
        for name, limit in exceeded.items():
            soft = expected[name].log()
            total = total + soft - soft.detach() + torch.log(total.new_tensor(costs[name] / limit))
        return self.config.weight * total

    def report(
        self, weights: Mapping[str, Tensor], alive: Alive, derived: CellArchitecture
    ) -> dict[str, dict[str, float]]:
        """Return plain numbers for each quantity: ``derived``, ``expected`` and the ``budget``."""
        with torch.no_grad():
            expected = self.expected(weights, alive)
        costs = self.of(derived)
        return {
            name: {
                "derived": costs[name],
                "expected": float(expected[name]),
                **({"budget": self.config.budgets[name]} if name in self.config.budgets else {}),
            }
            for name in self.quantities
        }


def target_network(
    config: ObjectiveConfig, space: CellSpace, network: EncoderConfig, frame_shift: float
) -> CellNetwork:
    """Return the pieces of the network that the costs are those of."""
    document = {f.name: getattr(network, f.name) for f in fields(network)}
    document |= {"layers": config.layers, "channels": config.channels}
    frames = round(config.seconds / frame_shift)
    return CellNetwork(EncoderConfig(**document), frames, space.nodes)


def bench_command(config: ObjectiveConfig, space: str, network: CellNetwork) -> str:
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
    words += ["--output", config.table or "latency.yaml"]
    return shlex.join(str(word) for word in words)
