"""Sinusoids of absolute positions (Vaswani et al. 2017) and relative ones (Dai et al. 2019).

T frames, C width.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from nas_encoder.ops.masking import is_capturing

_STEP = 256  # tables are made for multiples of it, so that few lengths need one of their own
_MOST = 1 << 14  # positions of the tables of streams, whose positions have no end


def absolute(x: Tensor) -> Tensor:
    """Return the (T, C) sinusoids of positions 0 to T - 1 for (B, T, C)."""
    frames = x.size(1)
    if is_capturing():
        return _sinusoids(torch.arange(frames, device=x.device), x.size(2)).to(x.dtype)
    return _table(_rounded(frames), x.size(2), x.device, x.dtype)[_rounded(frames) :][:frames]


def relative(x: Tensor) -> Tensor:
    """Return the (2T - 1, C) sinusoids of positions T - 1 down to 1 - T for (B, T, C).

    Those of a key's distance into the past: row T - 1 + k - q is that of query q and key k.
    """
    frames = x.size(1)
    if is_capturing():
        positions = torch.arange(frames - 1, -frames, -1, device=x.device)
        return _sinusoids(positions, x.size(2)).to(x.dtype)
    size = _rounded(frames)
    return _table(size, x.size(2), x.device, x.dtype)[size - frames + 1 : size + frames].flip(0)


def between(highest: int, lowest: int, x: Tensor) -> Tensor:
    """Return the sinusoids of distances from the highest down to the lowest, like (B, T, C)."""
    return _from(lowest, highest + 1, x).flip(0)


def absolute_from(start: int, x: Tensor) -> Tensor:
    """Return the (T, C) sinusoids of positions from ``start`` on for (B, T, C)."""
    return _from(start, start + x.size(1), x)


def _from(first: int, end: int, x: Tensor) -> Tensor:
    size = _rounded(max(-first, end))
    if is_capturing() or size > _MOST:
        return _sinusoids(torch.arange(first, end, device=x.device), x.size(2)).to(x.dtype)
    return _table(size, x.size(2), x.device, x.dtype)[size + first : size + end]


def _rounded(frames: int) -> int:
    return -(-frames // _STEP) * _STEP


@lru_cache(maxsize=64)
def _table(size: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the sinusoids of positions -size to size - 1."""
    with torch.inference_mode(False), torch.no_grad():
        return _sinusoids(torch.arange(-size, size, device=device), width).to(dtype)


def _sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return (P, C): sine and cosine in turns, in float32 as both toolkits compute them."""
    rates = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float()[:, None] * torch.exp(rates * -(math.log(10000.0) / width))
    return torch.stack((torch.sin(angles), torch.cos(angles)), 2).flatten(1)[:, :width]
