"""SpecAugment (Park et al. 2019, arXiv 1904.08779) by lhotse, made repeatable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from lhotse.dataset import SpecAugment as LhotseSpecAugment
from torch import Tensor

from nas_encoder.common.fields import Declared, integer, number, option
from nas_encoder.common.problems import Problems
from nas_encoder.common.seeding import derive_seed, one_thread, seeded
from nas_encoder.errors import ConfigError


@dataclass(frozen=True)
class SpecAugmentConfig(Declared):
    """Settings of SpecAugment.

    Attributes:
        time_warp_factor: Largest shift of a warped frame, in frames; 0 turns warping off.
        num_feature_masks: Number of frequency masks.
        features_mask_size: Largest width of a frequency mask, in bins.
        num_frame_masks: Number of time masks, at least 1.
        frames_mask_size: Largest width of a time mask, in frames.
        max_frames_mask_fraction: Largest masked fraction of an utterance's frames, in (0, 1].
        p: Probability of augmenting an utterance.
    """

    time_warp_factor: int = option(0, integer(0, 10**6))
    num_feature_masks: int = option(2, integer(0, 10**6))
    features_mask_size: int = option(8, integer(1, 10**6))
    num_frame_masks: int = option(2, integer(1, 10**6))
    frames_mask_size: int = option(40, integer(1, 10**6))
    max_frames_mask_fraction: float = option(0.15, number(0, 1, above=True))
    p: float = option(1.0, number(0, 1))

    def check_bins(self, num_mel_bins: int, found: Problems) -> None:
        """Check that a mask fits into this number of bins."""
        if self.features_mask_size > num_mel_bins:
            found.conflict(
                "features_mask_size",
                f"must be at most {num_mel_bins}, the number of bins, "
                f"got {self.features_mask_size}",
            )


class SpecAugment:
    """Masks the valid frames of each utterance of a batch; padding is left untouched.

    Args:
        config: The settings.
        num_mel_bins: F.

    Raises:
        ConfigError: Settings are out of range; all are listed.
    """

    def __init__(self, config: SpecAugmentConfig, num_mel_bins: int) -> None:
        problems = Problems()
        SpecAugmentConfig.read(config, problems)
        config.check_bins(num_mel_bins, problems)
        if problems:
            raise ConfigError("SpecAugment", problems.lines)
        self.config = config
        self._module = LhotseSpecAugment(**asdict(config))

    def __call__(
        self, features: Tensor, lengths: Tensor, seed: int, places: Sequence[int] | None = None
    ) -> Tensor:
        """Return an augmented copy.

        Args:
            features: (B, T, F).
            lengths: (B,) valid frames.
            seed: The same seed gives the same masks, whatever was drawn before.
            places: The utterances' positions in the whole batch, by default 0 to B - 1; an
                utterance's masks depend only on the seed and its position.

        Returns:
            (B, T, F); frames past an utterance's length are those of ``features``.
        """
        augmented = features.clone()
        numbers = range(len(lengths)) if places is None else places
        with one_thread(), torch.no_grad():
            for row, (place, length) in enumerate(zip(numbers, lengths.tolist(), strict=True)):
                if self._long_enough(length):
                    with seeded(derive_seed(seed, place)):
                        masked = self._module(features[row : row + 1, :length])
                    augmented[row, :length] = masked[0]
        return augmented

    def _long_enough(self, length: int) -> bool:
        # lhotse draws mask widths below (fraction * T) // masks and fails where that is 0.
        budget = self.config.max_frames_mask_fraction * length
        masks = min(self.config.num_frame_masks, math.ceil(budget / self.config.frames_mask_size))
        return masks > 0 and budget // masks >= 1
