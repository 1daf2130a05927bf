"""Budgets of a search: what the derived network, or that of a trial, may cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from nas_encoder.common.fields import Declared, integer, mapping_of, number, option, text
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.modules import Costs

# quantity -> (unit, factor from a budget's unit to the displayed one)
UNITS: dict[str, tuple[str, float]] = {
    "parameters": ("M", 1e-6),
    "macs": ("G", 1e-9),
    "lookahead_ms": ("ms", 1.0),
    "latency_ms": ("ms", 1.0),
    "memory_mb": ("MB", 1.0),
    "train_seconds": ("s per h", 1.0),
    "infeasible": ("%", 1.0),
}
TITLES = {
    "parameters": "parameters",
    "macs": "multiply-adds",
    "lookahead_ms": "lookahead",
    "latency_ms": "latency",
    "memory_mb": "peak memory",
    "train_seconds": "training time",
    "infeasible": "utterances without a CTC path",
}
COUNTED = ("parameters", "macs")  # exact and cheap
KNOWN = (
    *COUNTED,
    "lookahead_ms",
    "infeasible",
)  # without running the network; the others are measured


def readable(name: str, value: float) -> str:
    """Return a cost with its unit: ``6.56 M``, ``14.7 k``, ``81.2 ms``."""
    if name not in COUNTED:
        return f"{value:.3g} {UNITS[name][0]}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Budgets(Declared):
    """The largest costs of an encoder, without an output layer over tokens.

    Attributes:
        parameters: Largest number of parameters; null for no budget.
        macs: Largest number of multiply-adds for ``seconds`` of speech.
        latency_ms: Largest number of milliseconds for ``seconds`` of speech, one utterance at a
            time.
    """

    parameters: float | None = option(None, number(0, 1e12, above=True))
    macs: float | None = option(None, number(0, 1e18, above=True))
    latency_ms: float | None = option(None, number(0, 1e9, above=True))

    @property
    def budgets(self) -> dict[str, float]:
        """The given budgets, by quantity."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: float(given[name]) for name in UNITS if given.get(name) is not None}

    def beyond_reach(self, costs: Costs) -> list[str]:
        """Return which budgets no network with such costs can meet."""
        problems = []
        for name, budget in self.budgets.items():
            if name in costs.quantities and budget < (least := costs.cheapest(name)):
                problems.append(
                    f"{name}: no network of the space and of this size costs less than "
                    f"{readable(name, least)}, the budget is {readable(name, budget)}"
                )
        return problems


@dataclass(frozen=True)
class TrialBudgets(Budgets):
    """What the own encoder of every trial may cost; others are not trained.

    Costs are those of the section ``measure``, whose ``seconds`` of speech they are for.

    Attributes:
        lookahead_ms: Most milliseconds of audio after the beginning of an output frame that it
            depends on, chunks included; see ``docs/streaming.md``. Networks that see the whole
            utterance are outside of any such bound.
        memory_mb: Largest peak of memory during an inference, in MB: the weights, the input and
            all that PyTorch allocates; see :func:`~nas_encoder.deploy.memory.peak_memory`.
        infeasible: Largest share of the training utterances, in %, with more tokens than CTC can
            place in the encoder's output frames. These teach it nothing.
        train_seconds: Largest number of seconds that training takes for an hour of speech,
            forward and backward, measured on a few batches of the training data.
        at_least: Quantity -> the smallest cost, for example parameters of a search among networks
            of equal size.
        table: File of measured latencies, made by ``nas-encoder bench --operations``: latencies,
            also those that are minimized, are then predicted instead of measured.
    """

    lookahead_ms: float | None = option(None, number(0, 1e9))
    memory_mb: float | None = option(None, number(0, 1e9, above=True))
    train_seconds: float | None = option(None, number(0, 1e9, above=True))
    infeasible: float | None = option(None, number(0, 100, above=True))
    at_least: Mapping[str, float] = option(dict, mapping_of(number(0, 1e18)))
    table: str | None = option(None, text("a file's path or null"))

    def conflicts(self, found: Problems) -> None:
        """Check that lower bounds are of known quantities and not above the upper ones."""
        found.mapping(self.at_least, "at_least", (), UNITS)
        for name, least in self.at_least.items():
            most = self.budgets.get(name)
            if most is not None and least > most:
                rule = f"must be at most objective.{name}, {most:g}, got {least:g}"
                found.conflict(f"at_least.{name}", rule, name)

    @property
    def limited(self) -> list[str]:
        """The quantities with a bound, those that are cheap to determine first."""
        return [name for name in UNITS if name in self.budgets or name in self.at_least]

    def excess(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Return the broken bounds of known costs: quantity -> by how much, as |log(cost/bound)|.

        A cost of zero below a bound or an infinite one above it counts as far away, 100.
        """
        found = {}
        for name in self.limited:
            if name not in costs:
                continue
            cost, most, least = costs[name], self.budgets.get(name), self.at_least.get(name)
            if most is not None and cost > most:
                # An infinite cost, or a bound of zero, is no direction for a search.
                found[name] = min(math.log(cost / most), 100.0) if most else 100.0
            elif least is not None and cost < least:
                found[name] = math.log(least / cost) if cost > 0 else 100.0
        return found

    def told(self, name: str) -> str:
        """Return the bounds of a quantity: ``at most 300 k``, ``240 k to 300 k``."""
        most, least = self.budgets.get(name), self.at_least.get(name)
        if most is None or least is None:
            words, value = ("at most", most) if least is None else ("at least", least)
            return f"{words} {readable(name, value or 0.0)}"
        return f"{readable(name, least)} to {readable(name, most)}"


@dataclass(frozen=True)
class ObjectiveConfig(Budgets):
    """Budgets of the derived network, and the size at which it will be used.

    A latency is that according to ``table``.

    Attributes:
        weight: Weight of the penalty, in units of the loss per natural logarithm by which a
            budget is exceeded.
        margin: Fraction below a budget at which the penalty starts, so that the last change of
            an operation does not end just above it.
        table: File of measured latencies, made by ``nas-encoder bench --operations``.
        layers: L, cells of the target network; null for 17, the smallest of He et al. 2020. A
            chain has as many blocks as its space. For NAS-Bench-ASR: its cells, spread over the
            blocks as in the paper; null for those of the last stage.
        channels: C, its initial channels, null for 24; for a chain its width, for NAS-Bench-ASR
            the filters of its first block, null for those of the last stage. Everything else is
            as in ``network``.
        seconds: Seconds of speech for multiply-adds and latency.
    """

    weight: float = option(1.0, number(0, 1e6))
    margin: float = option(0.03, number(0, 0.9))
    table: str | None = option(None, text("a file's path or null"))
    layers: int | None = option(None, integer(3, 1024))
    channels: int | None = option(None, integer(1, 4096))
    seconds: float = option(10.0, number(0.1, 3600))
