"""The Fourier transform of frames as a convolution, which every runtime of exported graphs has.

``torch.stft`` has no counterpart in ONNX that its exporter knows. In float32 the convolution is as
far from the exact values as the fast transform is (log-mel values of speech: at most 6e-5).

Letters in shapes: B batch, N samples, T frames, K bins, M points of the transform.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def power_spectrum(signal: Tensor, basis: Tensor, hop: int) -> Tensor:
    """Return the power of each bin, frame by frame, as of ``torch.stft`` with ``center=False``.

    Args:
        signal: (B, N), N at least M.
        basis: (2K, 1, M), of :func:`fourier_basis`.
        hop: Samples between frames.

    Returns:
        (B, K, T) for T = (N - M) // hop + 1.
    """
    real, imaginary = nn.functional.conv1d(signal[:, None], basis, stride=hop).chunk(2, 1)
    return real * real + imaginary * imaginary


def fourier_basis(window: Tensor, points: int, normalized: bool = False) -> Tensor:
    """Return cosines and negative sines under a window, (2K, 1, M) for K = M // 2 + 1.

    Args:
        window: (W,), W at most M; put into the middle of a frame.
        points: M.
        normalized: Whether to divide by the square root of M.
    """
    before = (points - window.numel()) // 2
    padded = nn.functional.pad(window.double(), (before, points - window.numel() - before))
    bins, samples = torch.arange(points // 2 + 1)[:, None], torch.arange(points)[None, :]
    # Whole turns are left out while these are integers: so the angles are exact.
    angle = (bins * samples % points).double() * (2 * math.pi / points)
    basis = torch.cat((angle.cos(), -angle.sin())) * padded
    return (basis * (points**-0.5 if normalized else 1.0))[:, None].float()
