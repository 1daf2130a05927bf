"""Delta features against torchaudio's, utterance by utterance."""

from __future__ import annotations

import pytest
import torch
import torchaudio

from nas_encoder.network.deltas import delta, with_deltas
from nas_encoder.ops.masking import hold_last

LENGTHS = [11, 6, 2, 1]


def reference(frames: torch.Tensor) -> torch.Tensor:
    """(T, F) to (T, F)."""
    return torchaudio.functional.compute_deltas(frames.T, win_length=5, mode="replicate").T


@pytest.mark.parametrize("garbage", [0.0, 1e6])
def test_deltas_are_those_of_torchaudio_for_each_utterance(garbage: float) -> None:
    x = torch.randn(4, 13, 5, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        x[row, length:] = garbage
    image = with_deltas(x, torch.tensor(LENGTHS))
    assert image.shape == (4, 3, 13, 5)
    for row, length in enumerate(LENGTHS):
        static = x[row, :length]
        first = reference(static)
        expected = torch.stack([static, first, reference(first)])
        torch.testing.assert_close(image[row, :, :length], expected)


def test_without_lengths_all_frames_are_valid() -> None:
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(delta(x, None), delta(x, torch.tensor([7, 7])))
    torch.testing.assert_close(delta(x, None), torch.stack([reference(row) for row in x]))


def test_a_straight_line_has_its_slope() -> None:
    x = (0.5 * torch.arange(9, dtype=torch.float64))[None, :, None]
    torch.testing.assert_close(delta(x, None)[:, 2:-2], torch.full((1, 5, 1), 0.5).double())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_last_frame_is_held(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 3)
    held = hold_last(x, torch.tensor([4, 2], dtype=dtype))
    assert torch.equal(held[0], x[0])
    assert torch.equal(held[1, 2:], x[1, 1:2].expand(2, 3))


def test_gradients() -> None:
    x = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: with_deltas(x, torch.tensor([6, 3])), (x,))
