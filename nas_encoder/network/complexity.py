"""What a network costs: parameters, multiply-adds, receptive field."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.genotype import Genotype
from nas_encoder.ops import AvgPool3
from nas_encoder.spaces import get_space


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
    # On CPU average pools run as convolutions, which must not count. The counter does not know
    # the kernels of LSTMs; they are counted here.
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


def receptive_field(genotype: Genotype, options: Any) -> ReceptiveField:
    """Return the receptive field in time of an output frame, relative to its first input frame.

    Raises:
        ConfigError: The network has an LSTM, which sees everything back to the beginning.
    """
    network = get_space(genotype.space).network
    return network.receptive_field(genotype.architecture, options)
