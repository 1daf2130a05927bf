"""Finds the widths at which an encoder has a given number of parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import ConfigError
from nas_encoder.network.complexity import count_parameters
from tools.experiments.schedules import merge

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
    fine_range: Sequence[int]
    coarse: str | None = None
    coarse_range: Sequence[int] = (0, 0)


def read_template(common: Path, template: Path, *required: str) -> tuple[dict[str, Any], Match]:
    """Return a training config without its ``match`` section, and that section.

    Args:
        common: What all encoders share.
        template: What an encoder adds.
        required: Dotted keys that there must be, else it is a ConfigError.
    """
    config = merge(read_yaml(common, ConfigError), read_yaml(template, ConfigError))
    missing = []
    for key in (*required, "match"):
        *sections, name = key.split(".")
        if name not in functools.reduce(dict.__getitem__, sections, config):
            missing.append(f"'{key}' is missing")
    if missing:
        raise ConfigError(str(template), missing)
    return config, Match(**config.pop("match"))


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


def write_config(path: Path, config: Mapping[str, Any], count: int, target: int) -> None:
    """Write a training config and print how near its encoder comes to the target."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(path, config, ConfigError)
    off = 100 * (count / target - 1)
    print(f"{path}: {count} encoder parameters, {off:+.2f} % off {target}")


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
