"""The benchmark as one document of plain values: what the table, pictures and JSON show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError
from tools.benchmark.scores import NAMES, System, Versus, interval_of
from tools.benchmark.trained import Trained

PUBLISHED = Path(__file__).with_name("published.yaml")
# Names of encoders of the toolkits that are compared with, if nobody says with which.
REFERENCES = ("transformer", "dfsmn_san")


def published(corpus: str | None, unit: str) -> dict[str, Any]:
    """Return what others published for a corpus in this unit; nothing for other corpora."""
    table: dict[str, Any] = read_yaml(PUBLISHED, ConfigError)
    found = table.get(str(corpus))
    return found if found is not None and found["unit"] == unit else {"differs": "", "rows": []}


def published_for(rows: Sequence[Mapping[str, Any]], test: str) -> list[Mapping[str, Any]]:
    """Return the published rows of a test set, and those that are of none of the corpus's."""
    apart = not test.startswith("dev")
    return [row for row in rows if test in row["errors"] or (apart and "shown" in row)]


def references_of(
    systems: Sequence[System], wanted: Sequence[str], toolkit_names: Sequence[str] = REFERENCES
) -> list[str]:
    """Return the names of the systems that others are compared with.

    Raises:
        ConfigError: One that is wanted was not decoded.
    """
    names = [system.name for system in systems]
    if unknown := [name for name in wanted if name not in names]:
        rule = f"must be of {', '.join(sorted(names))}, got {', '.join(unknown)}"
        raise ConfigError("--against", [rule])
    if wanted:
        return list(wanted)
    order = {name: place for place, name in enumerate(toolkit_names)}
    chosen = [system for system in systems if system.trained.encoder in order]
    chosen.sort(key=lambda system: (order[system.trained.encoder], system.name))
    return [system.name for system in chosen]


def row_of(
    system: System,
    comparisons: Sequence[Versus],
    seed: int,
    measured: Mapping[str, Any],
    parameters: int | None,
    boundaries: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the row of a system; rates are no percent.

    Args:
        system: The system.
        comparisons: With the reference systems.
        seed: Of the bootstrap.
        measured: Of its encoder, by device: its row of ``nas-encoder bench``.
        parameters: Of the whole model.
        boundaries: Figures of its boundary errors, if it was aligned.
    """
    one, score = system.trained, system.score
    first: Mapping[str, Any] = next(iter(measured.values()), {})
    return {
        "name": system.name,
        "training": one.name,
        "toolkit": one.toolkit,
        "encoder": one.encoder,
        "decoding": system.decoding.way,
        "tokens": one.token_type,
        "error": asdict(interval_of(system, seed)),
        "errors": {
            "substitutions": score.substitutions,
            "deletions": score.deletions,
            "insertions": score.insertions,
            "units": sum(score.lengths),
            "wrong_utterances": sum(error > 0 for error in score.errors),
            "utterances": len(score.utterances),
        },
        "against": [
            {
                "reference": versus.reference,
                "difference": asdict(versus.difference),
                "matched_pairs": None if versus.test is None else asdict(versus.test),
                "p_holm": versus.adjusted,
            }
            for versus in comparisons
        ],
        "parameters": {"encoder": first.get("parameters"), "model": parameters},
        "macs": first.get("macs"),
        "macs_of_seconds": first.get("speech_seconds"),
        "measured": {device: _short(row) for device, row in measured.items()},
        "training_cost": {**asdict(one.costs), "throughput": one.costs.throughput},
        "boundaries": boundaries,
    }


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: row[name] for name in ("inference", "step", "memory_mib", "features", "frame_shift")
    }


def title_of(corpus: str | None, found: Sequence[Trained]) -> str:
    """Return the heading."""
    toolkits = sorted({"ESPnet" if one.toolkit == "espnet" else "NeMo" for one in found})
    return f"{corpus or 'Encoders'}: {' and '.join(toolkits)}"


def metric_of(unit: str) -> str:
    """Return what the error rate of a unit is called."""
    return NAMES[unit]
