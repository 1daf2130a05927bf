"""Our encoders for ESPnet's speaker and language identification tasks.

Those tasks call ``encoder(feats)`` without lengths, expect (B, D, T) and pool with the lengths of
the *input* frames. So every output frame is repeated for the input frames it represents, and the
last one to the end where a network without padding has fewer than ceil(T / S). As with every
encoder in these tasks, the network does not know the padding: ESPnet trains on crops of equal
length and scores utterances one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nas_encoder.espnet.encoder import NetworkEncoder, named_class


class FrameLevel(NetworkEncoder):
    """Mixin: the interface of an encoder followed by a pooling layer."""

    infix = "Frame"
    of_tasks = "for speaker and language identification"

    def forward(self, feats: Tensor) -> Tensor:  # type: ignore[override]
        """Encode utterances of equal length.

        Args:
            feats: (B, T, F).

        Returns:
            (B, D, T), where frame t is output frame t // S, or the last one.

        Raises:
            TooShortUttError: (ESPnet's) T is too small for one output frame.
            InputError: Anything else that cannot be encoded.
        """
        lengths = torch.full((feats.size(0),), feats.size(1), device=feats.device)
        output, _, _ = self._run(feats, lengths, None)  # (B, T', D)
        frame = torch.arange(feats.size(1), device=feats.device)
        frame = frame.div(self.network.subsampling_factor, rounding_mode="floor")
        return output[:, frame.clamp(max=output.size(1) - 1)].transpose(1, 2)


def __getattr__(attribute: str) -> Any:
    return named_class(attribute, FrameLevel)
