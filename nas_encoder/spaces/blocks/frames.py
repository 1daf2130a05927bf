"""What the modules of a stage know of the frames of a batch.

B batch, T frames, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Frames:
    """The frames of one stage.

    Attributes:
        mask: (B, T), true for the frames of utterances; None if no utterance is padded.
        relative: (2T - 1, C) sinusoids of the relative positions T - 1, ..., 0, ..., 1 - T (a key's
            distance into the past is positive), once for all blocks; None if no module asks.
        lookahead: Which of the encoder's lookaheads attention has; None for the selected one.
    """

    mask: Tensor | None = None
    relative: Tensor | None = None
    lookahead: int | None = None

    def clear(self, x: Tensor) -> Tensor:
        """Set the (finite) padding frames of (B, T, C) to zero, as before all that mixes time."""
        # A product, since CPUs take several times longer to fill by a mask.
        return x if self.mask is None else x * self.mask.unsqueeze(2).to(x.dtype)
