"""What a network costs: parameters, multiply-adds, receptive field."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.deltas import WINDOW
from nas_encoder.ops import AvgPool3
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import KERNEL, STRIDES, NasBenchConfig
from nas_encoder.spaces.nasbench_asr.layers import CONVOLUTIONS, padding
from nas_encoder.spaces.tdnn_chain.architecture import ChainArchitecture
from nas_encoder.spaces.tdnn_chain.config import SUBSAMPLE_AFTER, SUBSAMPLING, ChainConfig
from nas_encoder.spaces.tdnn_chain.network import tdnn_shape

# Reach in time of one operation: (half of the kernel) x dilation, summed over its convolutions;
# the second half of a separable convolution works at the resolution behind the stride.
_REACH: dict[str, tuple[int, int]] = {
    "max_pool_3x3": (1, 0),
    "avg_pool_3x3": (1, 0),
    "skip_connect": (0, 0),
    "sep_conv_3x3": (1, 1),
    "sep_conv_5x5": (2, 2),
    "dil_conv_3x3": (2, 0),
    "dil_conv_5x5": (4, 0),
    "conv_7x1_1x7": (3, 0),
}


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_macs(module: nn.Module, frames: int, input_size: int) -> int:
    """Return the multiply-adds of one utterance, counted by PyTorch's own counter.

    Convolutions, matrix products and attention count; element-wise work does not.

    Args:
        module: With ``forward(x (1, T, F), lengths (1,))``.
        frames: T.
        input_size: F.
    """
    parameter = next(module.parameters())
    x = torch.zeros(1, frames, input_size, dtype=parameter.dtype, device=parameter.device)
    lengths = torch.tensor([frames], device=parameter.device)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    counter = FlopCounterMode(display=False)
    recurrent = {name: part for name, part in module.named_modules() if isinstance(part, nn.LSTM)}
    steps: list[int] = []
    handles = [
        part.register_forward_hook(lambda part, given, _: steps.append(_lstm_macs(part, given[0])))
        for part in recurrent.values()
    ]
    try:
        with counter, torch.no_grad():
            module(x, lengths)
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
    # On CPU average pools run as convolutions; that is no work of the network's own. The counter
    # does not know the kernels of LSTMs, which are counted here.
    root = type(module).__name__
    apart = {
        f"{root}.{name}" for name, part in module.named_modules() if isinstance(part, AvgPool3)
    } | {f"{root}.{name}" for name in recurrent}
    counted = counter.get_flop_counts()
    left_out = sum(sum(counted[name].values()) for name in apart if name in counted)
    return (int(counter.get_total_flops()) - left_out) // 2 + sum(steps)


def _lstm_macs(lstm: nn.Module, x: torch.Tensor) -> int:
    """Return the multiply-adds of an LSTM on (B, T, C)."""
    weights = [p.numel() for name, p in lstm.named_parameters() if name.startswith("weight")]
    return x.size(0) * x.size(1) * sum(weights)


@dataclass(frozen=True)
class Reach:
    """Input frames that an output frame depends on: this many before and after its own."""

    left: int
    right: int

    @property
    def frames(self) -> int:
        """Width of the receptive field in input frames."""
        return self.left + 1 + self.right

    def plus(self, left: int, right: int | None = None) -> Reach:
        """Return it widened on both sides."""
        return Reach(self.left + left, self.right + (left if right is None else right))

    def union(self, other: Reach) -> Reach:
        """Return what either reaches."""
        return Reach(max(self.left, other.left), max(self.right, other.right))


def receptive_field(
    genotype: Genotype, config: EncoderConfig | ChainConfig | NasBenchConfig
) -> Reach:
    """Return the receptive field in time of an output frame, relative to its first input frame.

    ``right`` counts from the first of the S input frames that an output frame stands for.

    Raises:
        ConfigError: The network has an LSTM, which reaches back to the beginning.
    """
    architecture = genotype.architecture
    if isinstance(config, NasBenchConfig):
        assert isinstance(architecture, SkipArchitecture)
        if config.lstm_size:
            raise ConfigError(
                f"receptive field of genotype '{genotype.name}'",
                ["lstm_size: an LSTM reaches back to the beginning of the utterance"],
            )
        return _reach_of_nodes(architecture, config)
    if isinstance(config, ChainConfig):
        assert isinstance(architecture, ChainArchitecture)
        return _reach_of_chain(architecture, config)
    assert isinstance(architecture, CellArchitecture)
    jump = 1
    start = Reach(0, 0).plus(2 * WINDOW if config.deltas else 0).plus(jump)  # 3x3 stem
    jump *= config.stem_stride[0]
    before, previous = start, start
    after_reduction = False
    for index in range(config.layers):
        reduction = index in config.reductions
        cell = architecture.reduction if reduction else architecture.normal
        if after_reduction:
            # The strided 1x1 pair also reads the next position at the finer resolution.
            before = before.plus(0, jump // 2)
        states = [before, previous]
        inner_jump = jump * 2 if reduction else jump
        for node in cell.nodes:
            total: Reach | None = None
            for edge in node:
                own_jump = jump if edge.source < 2 else inner_jump
                behind = inner_jump if edge.source < 2 else own_jump
                first, second = _REACH[edge.op]
                reach = states[edge.source].plus(first * own_jump + second * behind)
                if edge.op == "skip_connect" and own_jump != behind:
                    reach = reach.plus(0, own_jump)
                total = reach if total is None else total.union(reach)
            assert total is not None
            states.append(total)
        output = states[cell.concat[0]]
        for state in cell.concat[1:]:
            output = output.union(states[state])
        before, previous = previous, output
        after_reduction, jump = reduction, inner_jump
    return previous


def _reach_of_chain(architecture: ChainArchitecture, config: ChainConfig) -> Reach:
    reach, jump = Reach(0, 0).plus(2 * WINDOW if config.deltas else 0), 1
    for number, block in enumerate(architecture.blocks, 1):
        half_context, dilation = tdnn_shape(block)
        reach = reach.plus(half_context * dilation * jump)
        if number == min(SUBSAMPLE_AFTER, len(architecture.blocks)):
            reach, jump = reach.plus(jump), jump * SUBSAMPLING
    return reach


def _reach_of_nodes(architecture: SkipArchitecture, config: NasBenchConfig) -> Reach:
    reach, jump = Reach(0, 0).plus(2 * WINDOW if config.deltas else 0), 1
    reduced = architecture.reduced()
    for stride, count in zip(STRIDES, config.block_cells, strict=True):
        behind, ahead = padding(KERNEL, stride=stride)
        reach = reach.plus(behind * jump, ahead * jump)
        jump *= stride
        for _ in range(count):
            states: list[Reach | None] = [reach]
            for node in reduced.nodes:
                terms = [states[source] for source in node.skips]
                before = states[-1]
                if node.op in CONVOLUTIONS and before is not None:
                    behind, ahead = padding(*CONVOLUTIONS[node.op])
                    terms.append(before.plus(behind * jump, ahead * jump))
                elif node.op != ZERO:
                    terms.append(before)
                total: Reach | None = None
                for term in terms:
                    if term is not None:
                        total = term if total is None else total.union(term)
                states.append(total)
            reach = states[-1] or Reach(0, 0)
    return reach
