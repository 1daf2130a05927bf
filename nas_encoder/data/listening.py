"""Reads the audio of utterances, many at a time, and says what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor
from tqdm import tqdm

from nas_encoder.data.features import FeatureExtractor
from nas_encoder.data.findings import Findings
from nas_encoder.errors import DataError

_FLAT = 3  # equal samples in a row, at full scale, that a clipped wave has
_FULL_SCALE = 0.985
_CLIPPED = 0.001  # share of such samples above which it is told
_SILENT = 10 ** (-70 / 20)  # the largest sample of what nobody hears


def listen(
    name: str,
    cuts: Sequence[Any],
    features: FeatureExtractor,
    *,
    jobs: int | None = None,
    progress: bool = False,
) -> tuple[list[str], list[str]]:
    """Read the audio of utterances.

    Args:
        name: Of the set, in front of each line.
        cuts: Utterances; those too short for one frame are left out.
        features: The extractor.
        jobs: Threads; by default one per processor, at most 8.
        progress: Whether to show a bar with the time that is left.

    Returns:
        Errors (unreadable or truncated audio, another rate than the manifest's, samples that are
        NaN or infinite) and warnings (clipped, silent, constant); like ones in one line.
    """
    errors, warnings = Findings(name), Findings(name)
    chosen = [cut for cut in cuts if features.num_frames(cut) >= 1]
    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda cut: _listen_to(cut, features), chosen)
        bar = tqdm(
            results, total=len(chosen), desc=f"audio of {name}", unit="utt", disable=not progress
        )
        try:
            for cut, (error, warning) in zip(chosen, bar, strict=True):
                if error is not None:
                    errors.add("; ".join(error.problems), error.subject)
                if warning:
                    warnings.add(warning, f"utterance '{cut.id}'")
        except BaseException:  # Ctrl-C must not wait for hours of audio
            pool.shutdown(cancel_futures=True)
            raise
    return (
        [f"{name}: {line}" for line in errors.problems()],
        [f"{name}: {line}" for line in warnings.problems()],
    )


def _listen_to(cut: Any, features: FeatureExtractor) -> tuple[DataError | None, str]:
    try:
        return None, fault_of(features.audio(cut, native=True)[0])
    except DataError as error:
        return error, ""


def fault_of(samples: Tensor) -> str:
    """Return what is odd about a signal (T,), or ''."""
    loudness = samples.abs()
    peak = float(loudness.max())
    if float(samples.max()) == float(samples.min()):
        return "the audio is silent" if peak == 0 else "all samples are equal"
    if peak < _SILENT:
        return "the audio is silent: no sample above -70 dB of full scale"
    same = (samples[1:] == samples[:-1]) & (loudness[1:] >= _FULL_SCALE * min(1.0, peak))
    flat = same.float().unfold(0, _FLAT - 1, 1).amin(1).sum() if len(same) >= _FLAT - 1 else 0.0
    if peak >= _FULL_SCALE and float(flat) > _CLIPPED * len(samples):
        return "the audio is clipped"
    return ""
