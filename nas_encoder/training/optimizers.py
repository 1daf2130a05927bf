"""Optimizers of a network's weights, and schedules of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from nas_encoder.training.config import WeightsConfig


def weights_optimizer(config: WeightsConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of a network's weights."""
    if config.optimizer != "sgd":
        adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        return adam(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        network.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def cosine(config: WeightsConfig, progress: float) -> float:
    """Return the learning rate: a cosine from ``lr`` to ``min_lr`` without restart.

    Before it, over the fraction ``warmup`` of the training, it rises from nearly zero to ``lr``.
    ``progress`` is the fraction of the training done, from 0 to 1.
    """
    if progress < config.warmup:
        return config.lr * max(progress / config.warmup, 1e-3)
    progress = (progress - config.warmup) / (1 - config.warmup)
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr + (config.lr - config.min_lr) * share


def one_cycle(max_lr: float, steps: int, rising: float) -> list[float]:
    """Return the learning rate of each step: torch's one cycle, rising and falling by a cosine.

    ``rising`` is the fraction of the steps before the peak ``max_lr``.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=max_lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr, steps, pct_start=rising, cycle_momentum=False
    )
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


def exponential(lr: float, decay: float, decay_from: int, epoch: int) -> float:
    """Return the learning rate of an epoch: constant, then multiplied by ``decay`` each epoch.

    The first epoch with a smaller rate is the one after ``decay_from``; warm-up epochs (0 and
    below) have the full rate.
    """
    return lr * decay ** max(0, epoch - decay_from)
