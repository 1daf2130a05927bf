"""Timing of calls, for the whole project.

Clock, threads and statistics are those of ``torch.utils.benchmark``. Its ``Timer`` measures one
statement after the other, so other load on the machine hits only one of them; here the calls take
turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.benchmark import Measurement, TaskSpec, timer

Call = Callable[[], Any]
Clock = Callable[[], float]


def seconds_of(call: Call, clock: Clock | None = None) -> float:
    """Return the seconds of one call; torch's clock synchronizes with the accelerator."""
    clock = clock or timer
    began = clock()
    call()
    return clock() - began


def measure(
    calls: Mapping[str, Call],
    repeats: int,
    seconds: float = 0.0,
    warm_up: int = 1,
    clock: Clock | None = None,
) -> dict[str, Measurement]:
    """Measure calls in turns.

    Args:
        calls: Calls by name.
        repeats: Least number of measurements of each.
        seconds: Least total time of each.
        warm_up: Number of uncounted calls of each beforehand.
        clock: torch's wall clock by default.

    Returns:
        Measurements by name, with ``median``, ``iqr``, ``times`` and more, in seconds.
    """
    for _ in range(warm_up):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    while any(len(taken) < repeats or sum(taken) < seconds for taken in times.values()):
        for name, call in calls.items():
            times[name].append(seconds_of(call, clock))
    threads = torch.get_num_threads()
    return {
        name: Measurement(1, taken, TaskSpec(name, "", num_threads=threads))
        for name, taken in times.items()
    }


def quiet_clock(device: torch.device | str) -> Clock:
    """Return the clock that other processes disturb least.

    For one thread on a CPU this is the process time: other load then slows all calls a little
    instead of one of them a lot. Otherwise it is torch's.
    """
    one_thread = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if one_thread else timer
