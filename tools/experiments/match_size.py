"""Finds the widths at which an encoder has a given number of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nas_encoder.errors import ConfigError
from nas_encoder.network.complexity import count_parameters

# Two encoders within this of the target are within 5 % of each other.
TOLERANCE = 0.02

Build = Callable[[Mapping[str, Any]], nn.Module]


@dataclass(frozen=True)
class Match:
    """The ``match`` section of a template.

    Attributes:
        fine: The option to fit; the number of parameters must grow with it.
        fine_range: Its smallest and largest value.
        coarse: An option to try several values of, or None.
        coarse_range: Its smallest and largest value.
    """

    fine: str
    fine_range: tuple[int, int]
    coarse: str | None = None
    coarse_range: tuple[int, int] = (0, 0)

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> Match:
        """Read the section from plain YAML types."""
        low, high = section["fine_range"]
        coarse_low, coarse_high = section.get("coarse_range", (0, 0))
        return cls(section["fine"], (low, high), section.get("coarse"), (coarse_low, coarse_high))


def match_size(
    build: Build, options: Mapping[str, Any], match: Match, target: int
) -> tuple[dict[str, Any], int]:
    """Return the options at which the encoder has ``target`` parameters, and its actual number.

    If several pairs of values fit, the one wins whose fine value is nearest, as a ratio, to that in
    ``options``.

    Args:
        build: Options -> encoder.
        options: The encoder's options, with the desired value of the fine option.
        match: What may be changed.
        target: Number of parameters.

    Raises:
        ConfigError: No values in the ranges come within 2 % of the target.
    """
    wanted = int(options[match.fine])
    coarse_values: list[dict[str, Any]] = [{}]
    if match.coarse is not None:
        low, high = match.coarse_range
        coarse_values = [{match.coarse: value} for value in range(low, high + 1)]
    found: list[tuple[float, dict[str, Any], int]] = []
    nearest = math.inf
    for coarse in coarse_values:
        candidate, count = _fit(build, {**options, **coarse}, match, target)
        error = abs(count - target) / target
        nearest = min(nearest, error)
        if error <= TOLERANCE:
            found.append((abs(math.log(candidate[match.fine] / wanted)), candidate, count))
    if not found:
        raise ConfigError(
            "sizes of the encoders",
            [
                f"{match.fine} in {list(match.fine_range)} gives no encoder within "
                f"{100 * TOLERANCE:.0f} % of {target} parameters, the nearest is off by "
                f"{100 * nearest:.1f} %"
            ],
        )
    _, best, count = min(found, key=lambda item: item[0])
    return best, count


def _fit(
    build: Build, options: Mapping[str, Any], match: Match, target: int
) -> tuple[dict[str, Any], int]:
    """Fit the fine option; return the options nearest to the target and their size."""

    def count(value: int) -> int:
        with torch.device("meta"):  # shapes only
            return count_parameters(build({**options, match.fine: value}))

    (low, fewest), (high, most) = ((value, count(value)) for value in match.fine_range)
    while high - low > 1 and fewest < target < most:
        # Counts grow nearly in proportion, so this converges in two or three steps.
        guess = low + round((high - low) * (target - fewest) / (most - fewest))
        middle = min(max(guess, low + 1), high - 1)
        counted = count(middle)
        if counted <= target:
            low, fewest = middle, counted
        else:
            high, most = middle, counted
    best, counted = min(((low, fewest), (high, most)), key=lambda pair: abs(pair[1] - target))
    return {**options, match.fine: best}, counted
