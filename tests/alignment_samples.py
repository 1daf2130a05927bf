"""A model whose emissions are known: tokens are tones, frames are pooled, nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nas_encoder.alignment.boundaries import Interval

RATE = 16000
LETTERS = "abcdefgh"
TOKENS = ["<blank>", "<space>", *LETTERS]
SPACING = 400.0  # Hz from one tone to the next


class Pool(nn.Module):
    """Pools feature frames (B, T, F), as a convolution of a front end would."""

    def __init__(self, kernel: int, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.beside = kernel, stride, (0, 0, before, after)
        self.mix = nn.Conv1d(1, 1, 21, padding=10, bias=False)  # the path goes around it
        nn.init.constant_(self.mix.weight, 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x[:, :, 0].unsqueeze(1)).transpose(1, 2)
        x = nn.functional.pad(x, self.beside, value=-20.0)
        return nn.functional.avg_pool1d(x.transpose(1, 2), self.kernel, self.stride).transpose(1, 2)


class ToneModel:
    """See ``nas_encoder.alignment.model.CtcModel``."""

    source, toolkit, sampling_rate, time_axis = "tones", "espnet", RATE, 1
    joins = "char"

    def __init__(
        self, kernel: int = 4, before: int = 0, after: int = 3, stride: int = 4, hop: int = 160
    ) -> None:
        self.tokens: Sequence[str] = TOKENS
        self.blank, self.hop = 0, hop
        self.encoder: nn.Module = Pool(kernel, stride, before, after).requires_grad_(False)
        self.calls = 0

    def log_probs(self, samples: Tensor) -> Tensor:
        self.calls += 1
        window = torch.hann_window(400)
        spectrum = torch.stft(
            samples, 400, self.hop, window=window, center=True, return_complex=True
        )
        bins = [round(SPACING * number * 400 / RATE) for number in range(1, len(TOKENS))]
        features = (spectrum[bins].abs().square() + 1e-4).log().T[None]  # (1, T, F)
        tones = self.encoder(features)[0]  # (T', F)
        return torch.cat([torch.zeros(len(tones), 1), 2 * tones], dim=1).log_softmax(dim=1)

    def normalized(self, text: str) -> str:
        return text.replace("!", "")

    def split(self, text: str) -> list[tuple[str, int | None]]:
        names = ["<space>" if letter == " " else letter for letter in text]
        return [(name, TOKENS.index(name) if name in TOKENS else None) for name in names]


def speak(
    texts: Sequence[str], seed: int = 0, pause: float = 0.6
) -> tuple[np.ndarray, list[list[Interval]]]:
    """Return audio (N,) of texts with pauses around them, and the true times of their tokens."""
    rng = np.random.default_rng(seed)
    pieces = [np.zeros(int(pause * RATE))]
    truth, at = [], len(pieces[0])
    for text in texts:
        rows = []
        for name in ["<space>" if letter == " " else letter for letter in text]:
            count = int(rng.uniform(0.1, 0.25) * RATE)
            phase = 2 * np.pi * SPACING * TOKENS.index(name) * np.arange(count) / RATE
            pieces.append(0.3 * np.sin(phase))
            rows.append(Interval(at / RATE, (at + count) / RATE, name))
            at += count
        truth.append(rows)
        pieces.append(np.zeros(int(pause * RATE * rng.uniform(0.5, 1.5))))
        at += len(pieces[-1])
    samples = np.concatenate(pieces) + 1e-3 * rng.standard_normal(at)
    return samples.astype(np.float32), truth


def sentences(count: int, seed: int = 0, words: int = 3) -> list[str]:
    """Return texts without a letter twice in a row."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        chosen = [rng.permutation(list(LETTERS))[: rng.integers(2, 5)] for _ in range(words)]
        found.append(" ".join("".join(word) for word in chosen))
    return found
