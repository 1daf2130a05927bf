"""Merging tables, and checking that they were built alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import differences
from nas_encoder.errors import DataError
from nas_encoder.tabular.config import TableConfig
from nas_encoder.tabular.store import TableFile, new_table


def merge_tables(parts: list[str | Path], output: str | Path) -> None:
    """Merge the files of shards, or of a table and its continuation, into one.

    Raises:
        DataError: ``output`` exists, a file is no table, or two of them were built differently or
            have different numbers for the same training.
    """
    with new_table(output) as merged:
        if not parts:
            raise DataError("merge", ["there is nothing to merge"])
        opened = []
        for part in parts:
            with TableFile(part, create=False) as file:
                opened.append((str(part), file.about(), file.read()))
        problems: list[str] = []
        for place, (name, about, table) in enumerate(opened):
            problems += [f"{name}: {line}" for line in conflicts(about, opened[0][1])]
            problems += [
                f"{name}: {key}, {group[0]} epochs, seed {group[1]}: other numbers than {other}"
                for other, _, earlier in opened[:place]
                for group, rows in table.trainings.items()
                for key, training in rows.items()
                if (known := earlier.trainings.get(group, {}).get(key)) is not None
                and (known.val, known.test) != (training.val, training.test)
            ]
        if problems:
            raise DataError("merge", problems)
        for _, _, table in opened:
            merged.add_table(table)
        added = [origin for _, about, _ in opened for origin in about.get("added", [])]
        trained = len({key for key, _, _ in merged.finished()})
        merged.set_about(shard=[1, 1], architectures=trained, merged=len(opened), added=added)


IDENTITY = ("config", "utterances", "tokens", "feature_mean")


def conflicts(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each changed value that affects the numbers."""
    sets = before.get("sets"), now.get("sets")
    keys = IDENTITY if None in sets else (*IDENTITY, "sets")  # not recorded by earlier versions
    old, new = (
        {key: about.get(key) for key in keys} | {"config": _deciding(about)}
        for about in (before, now)
    )
    return [f"{key}: was {was!r}, now {value!r}" for key, was, value in differences(old, new)]


def _deciding(about: Mapping[str, Any]) -> Any:
    """Return the configuration without its note, which affects no number.

    Settings newer than the configuration get their defaults.
    """
    document = TableConfig.completed(about.get("config"))
    if not isinstance(document, dict):
        return document
    return {key: value for key, value in document.items() if key != "note"}
