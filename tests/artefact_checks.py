"""How what an earlier version wrote is compared with what this one makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch


def require_kept(old: Any, new: Any, place: str = "", tolerance: float = 1e-6) -> None:
    """Everything of an old document is in the new one, which may hold more."""
    if isinstance(old, dict):
        assert isinstance(new, dict) and set(old) <= set(new), place
        for key in old:
            require_kept(old[key], new[key], f"{place}/{key}", tolerance)
    elif isinstance(old, list):
        assert isinstance(new, list) and len(old) == len(new), place
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            require_kept(was, now, f"{place}/{index}", tolerance)
    elif isinstance(old, float) and not isinstance(new, str | None):
        assert new == pytest.approx(old, rel=tolerance, abs=tolerance), place
    else:
        assert old == new, place


def require_same_output(old: list[float], new: torch.Tensor) -> None:
    torch.testing.assert_close(new.flatten(), torch.tensor(old), rtol=1e-3, atol=1e-4)


def rows_of(folder: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a run folder, or of each seed's, by the path of their file."""
    return {
        str(path.relative_to(folder)): [
            json.loads(line) for line in path.read_text("utf-8").splitlines()
        ]
        for path in sorted(Path(folder).glob("**/metrics.jsonl"))
    }


def require_near(old: dict[str, Any], new: dict[str, Any]) -> None:
    """An epoch that was resumed in its midst: the same, but for what rounding comes to."""
    for name in ("train_loss", "architecture_loss", "penalty", "valid_loss", "dropout"):
        require_kept(old[name], new[name], name, 0.05)
    for name in ("entropy", "uniform_entropy", "probabilities", "edges", "edge_entropy"):
        # A step of Adam moves an alpha by its rate, however small the gradient is.
        require_kept(old.get(name), new.get(name), name, 0.1)
