"""Budgets of a search: what the derived network may cost."""

from __future__ import annotations

from dataclasses import dataclass

from nas_encoder.common.fields import Declared, integer, number, option, text

# quantity -> (unit, factor from a budget's unit to the displayed one)
UNITS: dict[str, tuple[str, float]] = {
    "parameters": ("M", 1e-6),
    "macs": ("G", 1e-9),
    "latency_ms": ("ms", 1.0),
}
TITLES = {"parameters": "parameters", "macs": "multiply-adds", "latency_ms": "latency"}


def readable(name: str, value: float) -> str:
    """Return a cost with its unit: ``6.56 M``, ``14.7 k``, ``81.2 ms``."""
    if name == "latency_ms":
        return f"{value:.3g} ms"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class ObjectiveConfig(Declared):
    """Budgets of the derived network, and the size at which it will be used.

    Only the encoder counts, without an output layer over tokens.

    Attributes:
        parameters: Largest number of parameters; null for no budget.
        macs: Largest number of multiply-adds for ``seconds`` of speech.
        latency_ms: Largest number of milliseconds for ``seconds`` of speech, one utterance at a
            time, according to ``table``.
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

    parameters: float | None = option(None, number(0, 1e12, above=True))
    macs: float | None = option(None, number(0, 1e18, above=True))
    latency_ms: float | None = option(None, number(0, 1e9, above=True))
    weight: float = option(1.0, number(0, 1e6))
    margin: float = option(0.03, number(0, 0.9))
    table: str | None = option(None, text("a file's path or null"))
    layers: int | None = option(None, integer(3, 1024))
    channels: int | None = option(None, integer(1, 4096))
    seconds: float = option(10.0, number(0.1, 3600))

    @property
    def budgets(self) -> dict[str, float]:
        """The given budgets, by quantity."""
        given = {name: getattr(self, name) for name in UNITS}
        return {name: float(value) for name, value in given.items() if value is not None}
