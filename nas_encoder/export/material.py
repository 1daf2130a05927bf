"""Utterances that exports are checked and calibrated with: the user's, or generated ones.

Letters in shapes: N samples, T frames, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_encoder.errors import DataError
from nas_encoder.export.recognizer import AUDIO, Parts
from nas_encoder.interchange.features import ESPnetFeatures

_GENERATED = 4  # utterances
_SECONDS = 1.0  # of the shortest of them


@dataclass(frozen=True)
class Utterance:
    """One utterance: its name, its text ('' if there is none) and its samples (N,)."""

    name: str
    text: str
    samples: Tensor


def utterances_of(source: str | Path, rate: int, count: int | None) -> list[Utterance]:
    """Load utterances of a manifest: the shortest, the longest and some between.

    Args:
        source: What :func:`~nas_encoder.data.manifests.open_cuts` opens.
        rate: Hz that they must have.
        count: How many, at most; None for all.

    Raises:
        DataError: It cannot be read, or has another sampling rate.
    """
    from nas_encoder.data.manifests import open_cuts, text_of

    cuts = sorted(open_cuts(source, require_text=False), key=lambda cut: cut.duration)
    other = [cut for cut in cuts if cut.sampling_rate != rate]
    if other:
        rule = f"the model needs {rate} Hz, {len(other)} utterances have another rate, for "
        rule += f"example '{other[0].id}' {other[0].sampling_rate}; resample them"
        raise DataError(f"data {source}", [rule])
    if count is not None and len(cuts) > count:
        places = {round(i * (len(cuts) - 1) / max(1, count - 1)) for i in range(count)}
        cuts = [cuts[place] for place in sorted(places)]
    return [
        Utterance(cut.id, text_of(cut), torch.from_numpy(cut.load_audio()[0]).float())
        for cut in cuts
    ]


def generated(rate: int, count: int = _GENERATED, longest: float = 0.0) -> list[Utterance]:
    """Return sounds with the loudness, the pitch and the pauses of speech.

    Args:
        rate: Hz.
        count: How many, of 1 s, 2 s and so on.
        longest: Seconds that one must have; if none of them has, there is one more.
    """
    generator = torch.Generator().manual_seed(1)
    found = []
    seconds = [_SECONDS * (number + 1) for number in range(count)]
    if longest > max(seconds):
        seconds.append(longest)
    for number, duration in enumerate(seconds):
        size = math.ceil(rate * duration)
        time = torch.arange(size) / rate
        pitch = 110 * (1 + 0.3 * torch.sin(2 * math.pi * 0.7 * time + number))
        phase = 2 * math.pi * torch.cumsum(pitch, 0) / rate
        voiced = sum((torch.sin(k * phase) / k for k in range(1, 20)), torch.zeros(size))
        noise = torch.randn(size, generator=generator)
        loudness = torch.relu(torch.sin(2 * math.pi * 2.3 * time + number)) ** 0.5
        found.append(
            Utterance(
                f"generated {number}", "", 0.1 * loudness * (voiced + 0.3 * noise) + 1e-3 * noise
            )
        )
    return found


def inputs_of(parts: Parts, takes: str, utterances: list[Utterance]) -> list[Tensor]:
    """Return utterances as the graph takes them: each (N,), or (T, F) computed as in the toolkit.

    Those too short for a frame are left out. Without features of the model's own they are noise.
    """
    if takes == AUDIO:
        return [one.samples for one in utterances]
    if parts.features is None:
        generator = torch.Generator().manual_seed(2)
        size = parts.network.input_size
        return [
            torch.randn(max(1, len(one.samples) // 160), size, generator=generator)
            for one in utterances
        ]
    rows = []
    for one in utterances:
        features, frames = _raw(parts, one.samples)
        if frames:
            rows.append(features[:frames])
    return rows


@torch.no_grad()
def _raw(parts: Parts, samples: Tensor) -> tuple[Tensor, int]:
    """Return features (T, F) as the graph takes them: ESPnet's without their normalization."""
    features = parts.features
    assert features is not None
    if isinstance(features, ESPnetFeatures) and features.options.normalize is not None:
        options = {**vars(features.options), "normalize": None}
        plain = ESPnetFeatures(**options)
        plain.melmat.copy_(features.melmat)
        features = plain
    values, frames = features(samples[None], torch.tensor([len(samples)]))
    return values[0], int(frames)
