"""Budgets of a search: what the network that is found may cost."""

from __future__ import annotations

from dataclasses import dataclass

from nas_encoder.common.problems import Problems, show

# quantity -> (unit, factor from the unit of a budget to that of people)
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
class ObjectiveConfig:
    """Budgets of the network that is to be found, and the size at which it will be used.

    The encoder alone is counted, without an output layer over tokens.

    Attributes:
        parameters: At most so many; null for no budget.
        macs: At most so many multiply-adds for ``seconds`` of speech.
        latency_ms: At most so many milliseconds for ``seconds`` of speech, one utterance at a
            time, by ``table``.
        weight: Of the penalty, in units of the loss for each natural logarithm by which a budget
            is exceeded.
        margin: The penalty begins this part below a budget, so that the last change of an
            operation does not end just above it.
        table: File of measured latencies, made by ``nas-encoder bench --operations``.
        layers: L, cells of the target network; null for 17, the smallest of He et al. 2020. A
            chain has as many blocks as its space. Of NAS-Bench-ASR: its cells, spread over the
            blocks as in the paper; null for those of the last stage.
        channels: C, its initial channels, null for 24; of a chain its width, of NAS-Bench-ASR
            the filters of its first block, null for those of the last stage. What else the
            network has is as in ``network``.
        seconds: Of speech, for multiply-adds and latency.
    """

    parameters: float | None = None
    macs: float | None = None
    latency_ms: float | None = None
    weight: float = 1.0
    margin: float = 0.03
    table: str | None = None
    layers: int | None = None
    channels: int | None = None
    seconds: float = 10.0

    @property
    def cell_size(self) -> tuple[int, int]:
        """Cells and initial channels of the target, in a space of cells."""
        return self.layers or 17, self.channels or 24

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are given, by quantity."""
        given = {name: getattr(self, name) for name in UNITS}
        return {name: float(value) for name, value in given.items() if value is not None}

    def problems(self) -> list[str]:
        """Return one line for each rule that is broken, led by the field's name."""
        found = Problems()
        for name, high in (("parameters", 1e12), ("macs", 1e18), ("latency_ms", 1e9)):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= high):
                found.add(name, f"must be a number above 0, at most {high:g}, got {show(value)}")
        for name, low, high in (
            ("weight", 0.0, 1e6),
            ("margin", 0.0, 0.9),
            ("seconds", 0.1, 3600.0),
        ):
            value = getattr(self, name)
            if not (_is_number(value) and low <= value <= high):
                found.add(name, f"must be a number in {low:g}..{high:g}, got {show(value)}")
        if self.layers is not None:
            found.integer(self.layers, "layers", 3, 1024)
        if self.channels is not None:
            found.integer(self.channels, "channels", 1, 4096)
        if self.table is not None and not (isinstance(self.table, str) and self.table):
            found.add("table", f"must be a file's path or null, got {show(self.table)}")
        return found.lines


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
