"""What a training cost, by what it left behind: costs/*.json of the recipes, ESPnet's train.log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError
from nas_encoder.interchange.frames import frame_shift, sample_rate, section
from tools.experiments.job_costs import training_seconds

CPU, WALL = "CPU", "wall"
_EPOCH = re.compile(r"INFO: (\d+)epoch results: (.*)")
_TIME = re.compile(r"(?<![a-z_])time=((?:[\d.]+ [a-z]+(?:, | and )?)+)")
_MEMORY = re.compile(r"gpu_max_cached_mem_GB=([\d.]+)")
_UNITS = {"week": 604800, "day": 86400, "hour": 3600, "minute": 60, "second": 1}
_AMOUNT = re.compile(r"([\d.]+) ([a-z]+?)s?(?:,| |$)")


@dataclass(frozen=True)
class Costs:
    """What a training cost; None where nothing tells.

    Attributes:
        seconds: Of all epochs, validation included.
        clock: ``CPU`` or ``wall``: what kind of seconds.
        epochs: Number of them.
        speech: Seconds of speech in an epoch.
        memory_mib: Peak of the process, on a GPU of what its allocator kept.
    """

    seconds: float | None = None
    clock: str = WALL
    epochs: int | None = None
    speech: float | None = None
    memory_mib: float | None = None

    @property
    def throughput(self) -> float | None:
        """Seconds of speech trained on in a second."""
        if not self.seconds or not self.epochs or not self.speech:
            return None
        return self.speech * self.epochs / self.seconds


def of_recipe(path: Path, speech: float | None, ngpu: int) -> Costs:
    """Read the costs of a recipe's job; on a GPU the wall clock counts, else CPU seconds."""
    if not path.is_file():
        return Costs(speech=speech)
    found = json.loads(path.read_text(encoding="utf-8"))
    if not found["epochs"]:
        return Costs(speech=speech, memory_mib=found["peak_memory_mib"])
    epochs, clock = max(map(int, found["epochs"])), WALL if ngpu else CPU
    seconds = training_seconds(found, epochs, clock.lower())
    return Costs(seconds, clock, epochs, speech, found["peak_memory_mib"])


def of_espnet(folder: Path, speech: float | None) -> Costs:
    """Read ESPnet's logs of a training, those of stopped sessions included.

    An epoch that was repeated counts once, with its last time.
    """
    logs = sorted(folder.glob("train*.log"), key=lambda path: path.stat().st_mtime)
    times: dict[int, float] = {}
    memory: list[float] = []
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := _EPOCH.search(line):
                times[int(found[1])] = sum(map(spoken_seconds, _TIME.findall(found[2])))
                memory += [1024 * float(size) for size in _MEMORY.findall(found[2])]
    if not times:
        return Costs(speech=speech)
    epochs = max(times)
    # Epochs whose log is gone took as long as the others.
    seconds = sum(times.values()) * epochs / len(times)
    return Costs(seconds, WALL, epochs, speech, max(memory, default=None))


def spoken_seconds(text: str) -> float:
    """Return the seconds of a time as ESPnet writes it: ``1 hour, 2 minutes and 3.4 seconds``."""
    amounts = _AMOUNT.findall(text.replace(" and ", ", "))
    return sum(float(number) * _UNITS[unit] for number, unit in amounts)


def speech_of_espnet(config: Mapping[str, Any], places: Iterable[Path]) -> float | None:
    """Return the seconds of speech in an epoch of ESPnet's, by the shapes it sorts batches by.

    Args:
        config: Its configuration.
        places: Folders in which the training may have run, whose paths may be relative.
    """
    names = config.get("train_shape_file") or []
    if not names or config.get("num_iters_per_epoch") or config.get("input_size"):
        return None  # part of the corpus, or features of an unknown rate
    found = next((path for place in places if (path := place / names[0]).is_file()), None)
    if found is None:
        return None
    total, dims = 0, set[int]()
    for number, line in enumerate(found.read_text(encoding="utf-8").splitlines(), 1):
        shape = line.split()[-1].split(",") if line.split() else ["?"]
        if not shape[0].isdigit():
            raise DataError(str(found), [f"line {number}: must be a key and a shape, got '{line}'"])
        total, dims = total + int(shape[0]), dims | {len(shape)}
    samples = dims == {1}
    return (
        total / sample_rate("espnet", config) if samples else total * frame_shift("espnet", config)
    )


def speech_of_manifest(config: Mapping[str, Any]) -> float | None:
    """Return the seconds of speech in an epoch of a NeMo model's ``train_ds``."""
    data = section(config, "train_ds")
    path, longest = data.get("manifest_filepath"), data.get("max_duration") or float("inf")
    if not isinstance(path, str) or not Path(path).is_file():
        return None
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    durations = [float(json.loads(line)["duration"]) for line in lines if line.strip()]
    shortest = data.get("min_duration") or 0.0
    return sum(duration for duration in durations if shortest <= duration <= longest)
