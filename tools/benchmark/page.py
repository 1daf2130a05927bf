"""BENCHMARK.md: the table of each test set, what it supports, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nas_encoder.bench.page import aligned, count
from tools.benchmark.scores import FEWEST
from tools.results.bootstrap import RESAMPLES

Row = Mapping[str, Any]
Column = Callable[[Row], str]

_READING = f"""\
- **Errors** are aligned as NIST's sclite does, and so ESPnet's result pages: the columns agree with
  those, but for <unk>, which is one character here. Brackets: 95 % bootstrap interval over test
  utterances ({RESAMPLES} resamples); for differences both systems on the same resamples.
- **p** is of the matched-pairs test (Gillick and Cox 1989) with utterances as segments, two-sided,
  adjusted for all tests of the table (Holm 1979). Of fewer than {FEWEST} utterances there is none.
  Neither covers the choice of speakers, nor of the training's seed: each was trained once.
- **Parameters**: of the encoder; in brackets those of the whole model. **MACs**: of the encoder
  for so much speech, each with the features that it was trained on.
- **RTF** and **step**: of the encoder alone, all in one process in turns, at the same speech. A
  step is forward and backward without optimizer. The decoder's search is not in it.
- **Training**: time of all epochs with their validation, CPU seconds of the process or by the wall
  clock, as marked. **Speed**: seconds of speech in a second of it. **Memory**: peak of inference,
  tensors only; of training, of the whole process (on a GPU, what its allocator kept).
- **Boundaries**: mean distance of found from true phone boundaries; in brackets the time between
  output frames, a quarter of which is the least that can be expected."""


def columns_of(rows: Sequence[Row], unit: str, references: Sequence[str] = ()) -> dict[str, Column]:
    """Return the columns for which anything is known: title -> cell of a row."""
    found: dict[str, Column] = {f"{unit} % [95 %]": _error}
    for name in references:
        found[f"against {name}"] = partial(_versus, name)
    found["parameters"] = _parameters
    seconds = sorted({row["macs_of_seconds"] for row in rows if row["macs"] is not None})
    found[f"MACs, {' or '.join(f'{value:g}' for value in seconds)} s"] = _macs
    for name in ("toolkit", "tokens"):
        if len({row[name] for row in rows}) > 1:
            found[name] = partial(_told, name)
    for device in dict.fromkeys(device for row in rows for device in row["measured"]):
        own = [row["measured"].get(device, {}) for row in rows]
        for what, title in (("inference", "RTF"), ("step", "step ms")):
            for threads in dict.fromkeys(key for one in own for key in one.get(what, {})):
                at = "GPU" if device == "cuda" else f"{threads} thr."
                found[f"{title}, {at}"] = partial(_measured, device, what, threads)
        found["MiB" + ", GPU" * (device == "cuda")] = partial(_memory, device)
    found["training"] = _training
    found["speed"] = lambda row: _number(row["training_cost"]["throughput"], ".3g", "x")
    found["training MiB"] = lambda row: _number(row["training_cost"]["memory_mib"], ".0f")
    found["boundaries ms"] = _boundaries
    return {title: cell for title, cell in found.items() if any(cell(row) != "-" for row in rows)}


def page(document: Mapping[str, Any]) -> str:
    """Return the whole page."""
    parts = [f"# {document['title']}", *document["notes"]]
    for test, table in document["tests"].items():
        rows = table["rows"]
        columns = columns_of(rows, document["metric"], table["against"])
        cells = [[row["name"], *(of(row) for of in columns.values())] for row in rows]
        cells += [_published_cells(row, test, columns) for row in table["published"]]
        parts += [f"## {test}", _about(table), aligned([["encoder", *columns], *cells])]
        pairs = {frozenset((row["name"], v["reference"])): (row, v)
                 for row in reversed(rows) for v in row["against"]}  # fmt: skip
        if pairs:
            parts.append("\n".join(f"- {_sentence(*pair)}" for pair in reversed(pairs.values())))
        parts += [f"![Error against real-time factor and training time]({name})"
                  for name in table["pictures"][:1]]  # fmt: skip
    if document["published"]["rows"]:
        parts += ["## Published", _published(document["published"])]
    parts += ["## How to read it", _READING, "## Where it comes from"]
    parts.append("\n".join(f"- {k}: {v}" for k, v in document["origin"].items() if v is not None))
    return "\n\n".join(parts) + "\n"


def _about(table: Mapping[str, Any]) -> str:
    errors = table["rows"][0]["errors"]
    return f"{errors['utterances']} utterances, {errors['units']} {table['units']}."


def _error(row: Row) -> str:
    rate = {name: 100 * float(value) for name, value in row["error"].items()}
    return f"{rate['estimate']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]"


def _find(row: Row, reference: str) -> Mapping[str, Any] | None:
    own: Sequence[Mapping[str, Any]] = row["against"]
    return next((versus for versus in own if versus["reference"] == reference), None)


def _versus(reference: str, row: Row) -> str:
    found = _find(row, reference)
    if found is None:
        return "-"
    points = 100 * found["difference"]["estimate"]
    return f"{points:+.1f}, {_p(found)}"


def _p(versus: Mapping[str, Any]) -> str:
    value = versus["p_holm"]
    if value is None:
        return "too few"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _sentence(row: Row, versus: Mapping[str, Any]) -> str:
    """Say what interval and test support together, and no more."""
    ends = {name: 100 * float(value) for name, value in versus["difference"].items()}
    told = f"{ends['estimate']:+.1f} points [{ends['low']:+.1f}, {ends['high']:+.1f}], {_p(versus)}"
    names = f"{row['name']} and {versus['reference']}"
    if versus["p_holm"] is None:
        return f"{names}: too few utterances for a test ({told})."
    shown = versus["p_holm"] < 0.05 and (ends["low"] > 0 or ends["high"] < 0)
    if not shown:
        return f"{names}: no difference shown ({told})."
    verb = "fewer" if ends["estimate"] < 0 else "more"
    return f"{row['name']} makes {verb} errors than {versus['reference']}: {told}."


def _parameters(row: Row) -> str:
    own, whole = row["parameters"]["encoder"], row["parameters"]["model"]
    return count(own) + (f" ({count(whole)})" if whole is not None else "")


def _macs(row: Row) -> str:
    return count(row["macs"])


def _boundaries(row: Row) -> str:
    found = row["boundaries"]
    return "-" if found is None else f"{found['mean_ms']:.1f} ({found['frame_ms']:g})"


def _told(name: str, row: Row) -> str:
    return str(row[name])


def _measured(device: str, what: str, threads: str, row: Row) -> str:
    found = row["measured"].get(device, {}).get(what, {}).get(threads)
    if found is None:
        return "-"
    return f"{found['rtf']:.3g}" if what == "inference" else f"{found['ms']:.4g}"


def _memory(device: str, row: Row) -> str:
    found = row["measured"].get(device, {}).get("memory_mib", {}).get("inference")
    return _number(found, ".3g")


def _training(row: Row) -> str:
    cost = row["training_cost"]
    if cost["seconds"] is None:
        return "-"
    return f"{cost['seconds']:.3g} s {cost['clock']}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _published_cells(row: Row, test: str, columns: Mapping[str, Column]) -> list[str]:
    first = next(iter(columns))
    size = f"({count(row['parameters'])})" if "parameters" in row else "-"
    rate = row["errors"].get(test)
    known = {first: row["shown"] if rate is None else f"{rate:g}", "parameters": size}
    return [f"*published:* {row['name']}", *(known.get(title, "-") for title in columns)]


def _published(found: Mapping[str, Any]) -> str:
    lines = [
        f"Rows marked *published* are others' figures, of other experiments: {found['differs']}."
    ]
    lines.append("Differences to them are no results of a comparison.\n")
    for row in found["rows"]:
        note = f" {row['note']}." if "note" in row else ""
        lines.append(f"- {row['name']}:{note} {row['differs'][:1].upper()}{row['differs'][1:]}. "
                     f"Source: {row['source']}.")  # fmt: skip
    return "\n".join(lines)
