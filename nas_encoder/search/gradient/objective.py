"""Cost in the loss: what the network that a search is about to derive costs, against budgets.

E edges of a cell, blocks of a chain or nodes of NAS-Bench-ASR, n operations alive on each.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from nas_encoder.errors import ConfigError
from nas_encoder.network.budgets import ObjectiveConfig, readable
from nas_encoder.network.choices.parameters import Alive
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.costs import CellCosts
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.nasbench_asr.costs import SkipCosts
from nas_encoder.spaces.nasbench_asr.space import NasBenchSpace
from nas_encoder.spaces.tdnn_chain.config import ChainConfig
from nas_encoder.spaces.tdnn_chain.costs import ChainCosts
from nas_encoder.spaces.tdnn_chain.space import ChainSpace

NONE_LEARNED: Mapping[str, Tensor] = MappingProxyType({})


class Costs(Protocol):
    """What networks of one size in one space cost."""

    quantities: list[str]

    def of(self, architecture: Any) -> dict[str, float]:
        """Return what the network of an architecture costs, by quantity."""

    def cheapest(self, name: str) -> float:
        """Return the least that a network of the space costs."""

    def expected(
        self,
        weights: Mapping[str, Tensor],
        alive: Alive,
        edges: Mapping[str, Tensor] = NONE_LEARNED,
    ) -> dict[str, Tensor]:
        """Return the expected costs as differentiable functions of the probabilities.

        Where every choice is certain, they are those of that network.
        """


def build_costs(
    config: ObjectiveConfig,
    space: str,
    network: EncoderConfig | ChainConfig | NasBenchConfig,
    frame_shift: float,
) -> Costs | None:
    """Return the costs of a space's networks; None where they are not known.

    Args:
        config: The size, and the table of latencies.
        space: Its name.
        network: Everything else about the target network.
        frame_shift: Of the features, in seconds.

    Raises:
        ConfigError: There is no table of latencies for exactly this network.
    """
    known = get_space(space)
    if isinstance(known, CellSpace) and isinstance(network, EncoderConfig):
        return CellCosts(config, known, network, frame_shift)
    if isinstance(known, ChainSpace) and isinstance(network, ChainConfig):
        return ChainCosts(config, known, network, frame_shift)
    if isinstance(known, NasBenchSpace) and isinstance(network, NasBenchConfig):
        return SkipCosts(config, known, network, frame_shift)
    return None


class Objective:
    """The penalty for exceeding budgets.

    Args:
        config: The budgets.
        costs: Of the networks that a search can derive.

    Raises:
        ConfigError: A budget cannot be kept, or what it limits is not known.
    """

    def __init__(self, config: ObjectiveConfig, costs: Costs) -> None:
        self.config = config
        self.costs = costs
        problems = []
        for name, budget in config.budgets.items():
            if name not in costs.quantities:
                problems.append(f"{name}: is not known for networks of this space")
            elif budget < (least := costs.cheapest(name)):
                problems.append(
                    f"{name}: no network of the space and of this size costs less than "
                    f"{readable(name, least)}, the budget is {readable(name, budget)}"
                )
        if problems:
            raise ConfigError("objective", problems)

    def penalty(
        self,
        weights: Mapping[str, Tensor],
        alive: Alive,
        derived: Any,
        edges: Mapping[str, Tensor] = NONE_LEARNED,
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
            edges: For each kind of cell (E,), how probable it is that a node takes an edge, where
                that is learned.
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
        expected = self.costs.expected(weights, alive, edges)
        for name, limit in exceeded.items():
            soft = expected[name].log()
            total = total + soft - soft.detach() + torch.log(total.new_tensor(costs[name] / limit))
        return self.config.weight * total

    def report(
        self,
        weights: Mapping[str, Tensor],
        alive: Alive,
        derived: Any,
        edges: Mapping[str, Tensor] = NONE_LEARNED,
    ) -> dict[str, dict[str, float]]:
        """Return plain numbers for each quantity: ``derived``, ``expected`` and the ``budget``."""
        with torch.no_grad():
            expected = self.costs.expected(weights, alive, edges)
        costs = self.costs.of(derived)
        return {
            name: {
                "derived": costs[name],
                "expected": float(expected[name]),
                **({"budget": self.config.budgets[name]} if name in self.config.budgets else {}),
            }
            for name in self.costs.quantities
        }
