"""An encoder with a CTC output, as trained by searches, trials and recipes.

B batch, T frames, F frequency bins, V tokens with the blank, S subsampling factor.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the log-softmax over the last dimension, in at least single precision."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.log_softmax(logits, dim=-1, dtype=wide)


class CtcNetwork(nn.Module):
    """An encoder and a fully connected layer over the tokens.

    Args:
        encoder: A module with ``forward(x, lengths)`` and ``output_size``; a supernet takes more.
        vocabulary: V.
    """

    def __init__(self, encoder: nn.Module, vocabulary: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(int(encoder.output_size), vocabulary)  # type: ignore[arg-type]

    def forward(self, x: Tensor, lengths: Tensor, *choices: Any) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / S), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            *choices: A supernet's choices and its dropout probability; not passed to encoders
                without choices.
        """
        chosen = choices if getattr(self.encoder, "takes_choices", False) else ()
        hidden, output_lengths = self.encoder(x, lengths, *chosen)
        return log_probabilities(self.classifier(hidden)), output_lengths
