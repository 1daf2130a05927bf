"""The rules of the options of ESPnet's features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nas_encoder.common.problems import Problems, show

NORMALIZATIONS = ("global", "utterance")
WINDOWS = ("hann", "hamming", "blackman", "bartlett")


def size_problems(sizes: Mapping[str, Any], window: Any) -> list[str]:
    """Return one line for each rule that the sizes and the window break, led by the name.

    Args:
        sizes: Whole numbers by their names, among them ``n_fft`` and ``win_length``.
        window: Its name.
    """
    found = [
        f"{name}: must be a whole number above 0, got {show(value)}"
        for name, value in sizes.items()
        if isinstance(value, bool) or not isinstance(value, int) or value < 1
    ]
    if not found and sizes["win_length"] > sizes["n_fft"]:
        found.append(
            f"win_length: must be at most n_fft {sizes['n_fft']}, got {sizes['win_length']}"
        )
    problems = Problems()
    problems.choice(window, "window", "window", WINDOWS)
    return found + problems.lines


def espnet_problems(options: Mapping[str, Any]) -> list[str]:
    """Return one line for each rule that other options of ESPnet's features break."""
    problems = Problems()
    if options["normalize"] is not None:
        problems.choice(options["normalize"], "normalize", "normalization", NORMALIZATIONS)
    for name in ("center", "normalized", "htk", "norm_means", "norm_vars"):
        if not isinstance(options[name], bool):
            problems.add(name, f"must be true or false, got {show(options[name])}")
    low, high = options["fmin"], options["fmax"]
    if low is not None and not (is_number(low) and low >= 0):
        problems.add("fmin", f"must be a frequency in Hz or null, got {show(low)}")
    elif high is not None and not is_number(high):
        problems.add("fmax", f"must be a frequency in Hz or null, got {show(high)}")
    elif is_number(options["sample_rate"]):
        half = options["sample_rate"] / 2
        if not (low or 0) < (half if high is None else high) <= half:
            problems.add(
                "fmax",
                f"must be above fmin and at most half the sample rate, {half:g} Hz, got "
                f"{show(high)} with fmin {show(low)}",
            )
    if not (is_number(options["eps"]) and options["eps"] > 0):
        problems.add("eps", f"must be a number above 0, got {show(options['eps'])}")
    return problems.lines


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and no truth value."""
    whole = isinstance(value, (int, float)) and not isinstance(value, bool)
    return whole and math.isfinite(value)  # type: ignore[arg-type]
