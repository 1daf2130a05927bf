"""A comparison of systems: its table, and in words what its numbers support."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nas_encoder.bench.page import aligned
from tools.results.bootstrap import Interval, paired_difference, rate_interval
from tools.results.scoring import Score

_SCORES = ("name", "cer", "wer")  # a System's attributes that are no plain measures
_HEADER = (
    "encoder", "CER % [95 %]", "WER %", "encoder par.", "model par.", "MACs/10 s", "RTF", "epochs",
    "training", "peak memory",
)  # fmt: skip


@dataclass(frozen=True)
class System:
    """One row of the table.

    Attributes:
        name: Its name.
        cer: Character errors.
        wer: Word errors.
        encoder_parameters: Trainable scalars of the encoder.
        parameters: Trainable scalars of the whole model.
        macs_10s: Multiply-adds of the encoder for 10 s of speech.
        rtf: Encoder time over duration, one thread.
        epochs: Epochs of training.
        training_seconds: CPU seconds of all epochs, validation included.
        peak_memory_mib: Largest resident set of the training process.
    """

    name: str
    cer: Score
    wer: Score
    encoder_parameters: int
    parameters: int
    macs_10s: int
    rtf: float
    epochs: float
    training_seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class Pair:
    """How the first system differs from another: CER of the first minus that of the other."""

    first: str
    second: str
    difference: Interval

    def sentence(self) -> str:
        """Say what the interval supports, and no more."""
        points = 100 * self.difference.estimate
        ends = f"[{100 * self.difference.low:+.1f}, {100 * self.difference.high:+.1f}]"
        if not self.difference.excludes_zero:
            return (
                f"{self.first} and {self.second}: no difference shown "
                f"({points:+.1f} points, interval {ends} includes 0)."
            )
        verb = "lower" if points < 0 else "higher"
        return (
            f"{self.first} has a {verb} CER than {self.second}: {points:+.1f} points, "
            f"interval {ends}."
        )


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


@dataclass
class Comparison:
    """Systems that were trained under one condition.

    Args:
        title: The condition, for example "Equal epochs".
        systems: The first one is compared with each of the others.
        seed: Seed of the bootstrap.
    """

    title: str
    systems: Sequence[System]
    seed: int = 0
    intervals: dict[str, Interval] = field(init=False)
    pairs: list[Pair] = field(init=False)

    def __post_init__(self) -> None:
        self.intervals = {
            system.name: rate_interval(system.cer, self.seed) for system in self.systems
        }
        first = self.systems[0]
        self.pairs = [
            Pair(first.name, other.name, paired_difference(first.cer, other.cer, self.seed))
            for other in self.systems[1:]
        ]

    def verdict(self) -> str:
        """Return in one sentence what the first system won, lost, and neither."""
        found: dict[str, list[str]] = {"better": [], "worse": [], "open": []}
        for pair in self.pairs:
            better = "better" if pair.difference.estimate < 0 else "worse"
            found[better if pair.difference.excludes_zero else "open"].append(pair.second)
        words = {"better": "beats", "worse": "does not beat", "open": "is not shown to differ from"}
        parts = [f"{words[kind]} {_listed(names)}" for kind, names in found.items() if names]
        return f"{self.systems[0].name} {'; '.join(parts)}."

    def table(self) -> str:
        """Return a Markdown table that is also aligned as plain text."""
        return aligned([_HEADER, *(self._row(system) for system in self.systems)])

    def _row(self, system: System) -> tuple[str, ...]:
        cer = self.intervals[system.name]
        return (
            system.name,
            f"{100 * cer.estimate:.1f} [{100 * cer.low:.1f}, {100 * cer.high:.1f}]",
            f"{100 * system.wer.rate:.1f}",
            f"{system.encoder_parameters / 1e3:.1f} k",
            f"{system.parameters / 1e3:.1f} k",
            f"{system.macs_10s / 1e6:.0f} M",
            f"{system.rtf:.4f}",
            f"{system.epochs:.4g}",
            f"{system.training_seconds:.0f} s",
            f"{system.peak_memory_mib:.0f} MiB",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; rates, not percent."""
        return {
            "title": self.title,
            "systems": [self._system(system) for system in self.systems],
            "differences": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "cer": asdict(pair.difference),
                    "shown": pair.difference.excludes_zero,
                    "text": pair.sentence(),
                }
                for pair in self.pairs
            ],
        }

    def _system(self, system: System) -> dict[str, Any]:
        measured = {key: value for key, value in vars(system).items() if key not in _SCORES}
        return {
            "name": system.name,
            "cer": asdict(self.intervals[system.name]),
            "cer_errors": {
                "substitutions": system.cer.substitutions,
                "deletions": system.cer.deletions,
                "insertions": system.cer.insertions,
                "characters": sum(system.cer.lengths),
                "utterances": len(system.cer.utterances),
            },
            "wer": system.wer.rate,
            **measured,
        }
