"""Damaged run folders are refused, or told and repaired; nothing is silently different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from folder_damage import cases

CASES = 520


@pytest.mark.slow
def test_damaged_run_folders(shared_folder: Callable[..., Path]) -> None:
    found = cases(seed=0, count=CASES)
    assert found.total() == CASES
    assert found["refused"] > CASES / 4 and found["told"] and found["as before"]
