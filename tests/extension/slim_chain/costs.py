"""What the networks cost: a block's price depends on two widths, so these are no sums of rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nas_encoder.common.choices import Candidates
from slim_chain.network import KERNELS
from slim_chain.space import BLOCKS, CHANNELS, WIDTHS, SlimChain, SlimChainSpace, SlimOptions

FULL = WIDTHS[-1]


class SlimCosts:
    """Parameters and multiply-adds of networks of one size, exactly and expected."""

    def __init__(self, options: SlimOptions, frames: int) -> None:
        self.quantities = ["parameters", "macs"]
        self.frames = -(-frames // options.factor)
        features = options.input_size * (3 if options.deltas else 1) * options.factor
        weights = features * FULL + FULL * options.output_size
        biases = FULL + options.output_size
        if options.conditioning:  # is computed where a tap is fed back, in training
            biases += (options.output_size + 1) * FULL
        self.fixed = {"parameters": weights + biases, "macs": weights * self.frames}

    def of_block(self, name: str, operation: str, inputs: int, width: int) -> int:
        """Return what a block costs."""
        if not operation.startswith("conv"):
            return 0
        weights = KERNELS[operation] * inputs * width
        return weights * self.frames if name == "macs" else weights + width

    def of(self, architecture: SlimChain) -> dict[str, float]:
        """Return what the network of an architecture costs."""
        widths = [FULL, *(width for _, width in architecture.blocks)]
        return {
            name: float(
                self.fixed[name]
                + sum(
                    self.of_block(name, op, inputs, width)
                    for (op, width), inputs in zip(architecture.blocks, widths, strict=False)
                )
            )
            for name in self.quantities
        }

    def cheapest(self, name: str) -> float:
        """Return the least that a network costs: that without any convolution."""
        return float(self.fixed[name])

    def expected(
        self,
        weights: Mapping[str, Tensor],
        candidates: Candidates,
        edges: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the expected costs: operations and widths are drawn independently."""
        operations, widths = weights[BLOCKS].double(), weights[CHANNELS].double()
        result = {}
        for name in self.quantities:
            total = operations.new_tensor(float(self.fixed[name]))
            before, sizes = operations.new_ones(1), [FULL]
            for place, names in enumerate(candidates[BLOCKS]):
                own = [int(width) for width in candidates[CHANNELS][place]]
                table = operations.new_tensor(
                    [[[self.of_block(name, op, i, o) for o in own] for i in sizes] for op in names]
                )
                drawn = (operations[place], before, widths[place])
                total = total + torch.einsum("nio,n,i,o->", table.double(), *drawn)
                before, sizes = widths[place], own
            result[name] = total
        return result


def build(space: SlimChainSpace, options: SlimOptions, frames: int) -> SlimCosts:
    """Return the costs of networks of one size."""
    return SlimCosts(options, frames)
