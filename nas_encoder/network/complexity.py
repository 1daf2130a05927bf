"""What networks cost: parameters and multiply-adds, exact and expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nas_encoder.common.choices import Candidates
from nas_encoder.ops import AvgPool3

Cost = dict[str, float]
_TINY = 1e-300
_QUANTITIES = ("parameters", "macs")


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_macs(module: nn.Module, frames: int, input_size: int) -> int:
    """Return the multiply-adds of one utterance, counted by PyTorch's own counter.

    Convolutions, matrix products and attention count; element-wise work does not. ``module`` is
    called with x (1, T, F) and lengths (1,).
    """
    parameter = next(module.parameters())
    x = torch.zeros(1, frames, input_size, dtype=parameter.dtype, device=parameter.device)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        return _count(module, partial(module, x, torch.tensor([frames], device=x.device)))
    finally:
        for part, training in modes.items():
            part.training = training


def cost_of(module: nn.Module, call: Callable[[], object]) -> Cost:
    """Return the cost of a module; ``call`` runs it, possibly on the device ``meta``."""
    return {"parameters": float(count_parameters(module)), "macs": float(_count(module, call))}


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # shapes


# The counter does not know the fused attention of CPUs.
_CUSTOM = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def _count(module: nn.Module, call: Callable[[], object]) -> int:
    counter, apart = FlopCounterMode(display=False, custom_mapping=_CUSTOM), [0]

    # On CPU average pools run as convolutions, which must not count. The counter does not know
    # the kernels of LSTMs; their steps are counted here.
    def enter(part: nn.Module, given: Any) -> None:
        apart.append(counter.get_total_flops())

    def leave(part: nn.Module, given: Any, _: Any) -> None:
        apart[0] += counter.get_total_flops() - apart.pop()
        if isinstance(part, nn.LSTM):
            weights = [p.numel() for name, p in part.named_parameters() if "weight" in name]
            apart[0] -= 2 * given[0].size(0) * given[0].size(1) * sum(weights)

    handles = [
        handle
        for part in module.modules()
        if isinstance(part, (AvgPool3, nn.LSTM))
        for handle in (part.register_forward_pre_hook(enter), part.register_forward_hook(leave))
    ]
    try:
        with counter, torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return (counter.get_total_flops() - apart[0]) // 2


class RowCosts:
    """The costs of networks of one size, each the sum of one cost per row and a fixed part.

    Args:
        kind: Kind of the choices that have costs.
        rows: For each row, operation -> its cost.
        fixed: Costs of what every network has.
        never: Operations that are never derived, excluded from the expectation.
    """

    def __init__(
        self,
        kind: str,
        rows: Sequence[Mapping[str, Cost]],
        fixed: Cost,
        never: Sequence[str] = (),
    ) -> None:
        self.quantities = list(_QUANTITIES)
        self._kind = kind
        self._rows = rows
        self._fixed = fixed
        self._never = never

    def of_operations(self, operations: Sequence[str]) -> Cost:
        """Return the cost of the network with one operation per row, by quantity."""
        chosen = [row[op] for row, op in zip(self._rows, operations, strict=True)]
        return total([self._fixed, *chosen])

    def cheapest(self, name: str) -> float:
        """Return the cost of the cheapest network that a search can find."""
        rows = [
            min(cost[name] for op, cost in row.items() if op not in self._never)
            for row in self._rows
        ]
        return self._fixed[name] + sum(rows)

    def expected(
        self,
        weights: Mapping[str, Tensor],
        candidates: Candidates,
        edges: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the expected costs; each row draws from its probabilities, ``edges`` is unused."""
        probabilities = weights[self._kind].double()
        names = candidates[self._kind]
        counted = [[float(op not in self._never) for op in own] for own in names]
        # Clamped, since a probability can underflow to zero when the others are certain.
        kept = probabilities.clamp(min=_TINY) * probabilities.new_tensor(counted)
        drawn = kept / kept.sum(1, keepdim=True)
        totals = {}
        for name in self.quantities:
            table = [
                [row[op][name] for op in own] for row, own in zip(self._rows, names, strict=True)
            ]
            totals[name] = self._fixed[name] + (drawn * drawn.new_tensor(table)).sum()
        return totals


def total(costs: Sequence[Cost]) -> Cost:
    """Return the sum of costs."""
    return {name: sum(cost[name] for cost in costs) for name in _QUANTITIES}
