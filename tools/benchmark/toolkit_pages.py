"""The results in the toolkits' own forms: ESPnet's RESULTS.md, NeMo's table of scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from tools.benchmark.scores import System
from tools.espnet_recipes.results import UNITS, Row, row_of, table_of
from tools.results.scoring import Score, score

_LONG = {"aishell": "AISHELL-1", "librispeech": "Librispeech", "librispeech_100": "Librispeech"}


def espnet_page(
    systems: Mapping[str, Sequence[System]],
    versions: Mapping[str, str | None],
    parameters: Mapping[str, int | None],
    unit: str,
) -> str:
    """Return all systems of ESPnet in the form of ``show_asr_result.sh``, as its recipes publish.

    Args:
        systems: Test set -> its systems.
        versions: What the environment is, for its section.
        parameters: Training -> number of all parameters.
        unit: What is counted; folded phones are the words of this page.
    """
    lines = ["# RESULTS", "## Environments"]
    lines += [f"- {name}: `{value}`" for name, value in versions.items() if value is not None]
    trained = dict.fromkeys(
        system.trained.name
        for own in systems.values()
        for system in own
        if system.trained.toolkit == "espnet"
    )
    for name in trained:
        size = parameters.get(name)
        lines += ["", f"## {name}"]
        lines += [f"- Params: {size / 1e6:.2f}M"] if size is not None else []
        for metric, counted in UNITS.items():
            rows = [
                _row(test, system, metric, unit if metric == "WER" and unit != "char" else counted)
                for test, own in systems.items()
                for system in own
                if system.trained.name == name
            ]
            lines += [f"### {metric}", "", table_of(rows)]
    return "\n".join(lines) + "\n"


def _row(test: str, system: System, metric: str, unit: str) -> Row:
    found = system.score if unit == system.unit else _scored(system, unit)
    way = system.decoding.way or "decode"
    return row_of(system.name, f"{way}/{test}", metric, found)


def _scored(system: System, unit: str) -> Score:
    return score(system.reference, system.recognised, unit, sclite=True)


def nemo_table(systems: Mapping[str, Sequence[System]], corpus: str | None, language: str) -> str:
    """Return all systems as a CSV of NeMo's documentation: a row a model, a column a test set."""
    names = dict.fromkeys(system.name for own in systems.values() for system in own)
    title = _LONG.get(str(corpus), (corpus or "").upper())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["Model Name", "Language", *(f"{title} {test.title()}".strip() for test in systems)]
    )
    for name in names:
        rates = [
            next((f"{100 * s.score.rate:.1f}" for s in own if s.name == name), "")
            for own in systems.values()
        ]
        writer.writerow([name, language, *rates])
    return text.getvalue()
