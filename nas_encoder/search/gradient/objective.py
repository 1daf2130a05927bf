"""Cost in the loss: of the network that a search would derive now, against budgets.

E edges of a cell, blocks of a chain or nodes of NAS-Bench-ASR, n candidates of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.choices import Candidates
from nas_encoder.errors import ConfigError
from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.search.records import Cost
from nas_encoder.spaces import SearchSpace
from nas_encoder.spaces.base import LATENCY
from nas_encoder.spaces.modules import Costs


@dataclass(frozen=True)
class Objective:
    """The penalty for exceeding budgets; ``costs`` are those of the derivable networks.

    Raises:
        ConfigError: A budget cannot be met, or the cost that it limits is unknown.
    """

    config: ObjectiveConfig
    costs: Costs

    def __post_init__(self) -> None:
        problems = [
            f"{name}: is not known for networks of this space"
            for name in self.config.budgets
            if name not in self.costs.quantities
        ]
        problems += self.config.beyond_reach(self.costs)
        if problems:
            raise ConfigError("objective", problems)

    @classmethod
    def of(
        cls, config: ObjectiveConfig, space: SearchSpace, network: Any, frame_shift: float
    ) -> Objective | None:
        """Return that of a search; None where the space defines no costs and there is no budget.

        Args:
            config: The budgets, the size they are for, and the table of latencies.
            space: The searched space.
            network: Options of the last stage's network.
            frame_shift: Frame shift of the features, in seconds.

        Raises:
            ConfigError: As above, or there is no table of latencies for exactly this network.
        """
        if not space.has("costs"):
            if config.budgets:
                raise ConfigError(
                    "objective",
                    [f"the costs of networks of the space '{space.name}' are not known"],
                )
            return None
        options = space.target_options(network, config.layers, config.channels)
        frames = round(config.seconds / frame_shift)
        if config.latency_ms is None and config.table is None:
            return cls(config, space.costs.build(space, options, frames))
        if LATENCY not in space.features:
            raise ConfigError(
                "objective.latency_ms",
                [f"is for spaces of cells, the operations of '{space.name}' are not measured"],
            )
        return cls(config, space.costs.build_with_latency(space, options, frames, config.table))

    def penalty(
        self,
        weights: Mapping[str, Tensor],
        candidates: Candidates,
        derived: Any,
        edges: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """Return the term added to the architecture's loss; 0 within all budgets.

        For each budget ``weight * max(0, log(cost / (budget * (1 - margin))))``: no pull
        once the network fits (unlike Cai et al. 2019 and Wu et al. 2019, who weigh any cost), and
        the same pull for the same relative excess. The cost is straight-through: its value is that
        of the network that would be derived now, its gradient that of the expected cost. The
        expected cost would not do as the value: near uniform probabilities it says little about
        the operations that win.

        Args:
            weights: For each kind of cell (E, n) probabilities.
            candidates: The candidates of each edge.
            derived: The architecture derived from these probabilities.
            edges: For each kind of cell (E,) probabilities that a node takes an edge, where that
                is learned.
        """
        total = torch.zeros((), dtype=torch.float64, device=next(iter(weights.values())).device)
        budgets = self.config.budgets
        costs = self.costs.of(derived)
        exceeded = {
            name: budget * (1 - self.config.margin)
            for name, budget in budgets.items()
            if costs[name] > budget * (1 - self.config.margin)
        }
        if not exceeded or not self.config.weight:
            return total
        expected = self.costs.expected(weights, candidates, edges)
        for name, limit in exceeded.items():
            soft = expected[name].log()
            total = total + soft - soft.detach() + torch.log(total.new_tensor(costs[name] / limit))
        return self.config.weight * total

    def report(
        self,
        weights: Mapping[str, Tensor],
        candidates: Candidates,
        derived: Any,
        edges: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> dict[str, Cost]:
        """Return each cost."""
        with torch.no_grad():
            expected = self.costs.expected(weights, candidates, edges)
        costs, budgets = self.costs.of(derived), self.config.budgets
        return {
            name: Cost(costs[name], float(expected[name]), budgets.get(name))
            for name in self.costs.quantities
        }
