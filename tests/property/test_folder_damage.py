"""Damaged run folders are refused, or told and repaired; nothing is silently different."""

from __future__ import annotations

import random
import re

import pytest
from folder_damage import DAMAGES, Case, Folder, cases, files_of


def every_pair(folders: list[Folder], rng: random.Random) -> list[Case]:
    """Return each kind of damage to each kind of file, for each kind of strategy.

    The kinds of strategy are gradients, several seeds, and trials; numbers in a file's path do not
    make another kind. What reads the folder is in turns the resumed search and one of the other
    actions, so that each of them meets each kind of file. Strategies, finished and half-done
    folders take turns too.
    """
    places: dict[tuple[str, str], list[Case]] = {}
    for folder in folders:
        name = folder.name.split()[0]
        strategy = "trials" if folder.is_trials else "seeds" if name == "seeds" else "gradient"
        for file in files_of(folder.path):
            kind = re.sub(r"\d+", "N", file.as_posix())
            places.setdefault((strategy, kind), []).append((folder, file, "", None))
    plan: list[Case] = []
    for row, found in enumerate(places.values()):
        rng.shuffle(found)
        for number, how in enumerate(DAMAGES):
            folder, file, _, _ = found[number % len(found)]
            turn = number + row % 2
            plan.append((folder, file, how, 0 if turn % 2 else 1 + turn // 2))
    return plan


@pytest.mark.slow
def test_damaged_run_folders() -> None:
    """Few that do not repeat each other; tests/reliability.py tries many more."""
    found = cases(seed=0, count=None, planned=every_pair)
    assert found.total() >= 180
    assert found["refused"] > found.total() / 4 and found["told"] and found["as before"]
