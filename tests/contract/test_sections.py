"""Rooms own and receive sections; few know a whole configuration of a search or of a table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "nas_encoder"
WHOLE = {"SearchConfig", "TrialsConfig", "TableConfig"}
# Who begins searches and who reads what the user gives.
FREE = ("cli/", "search/config/", "search/run.py", "tabular/")
MOST = 8  # other modules that name a whole configuration, the public nas_encoder.search included


def named(source: str) -> set[str]:
    """Return which whole configurations a module's code names, in annotations too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found & WHOLE


def knowing() -> Iterator[str]:
    """Yield the modules that should be given sections but name a whole configuration."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(FREE) and named(path.read_text(encoding="utf-8")):
            yield name


def test_few_modules_know_a_whole_configuration() -> None:
    found = list(knowing())
    assert len(found) <= MOST, found
    outside = [name for name in found if not name.startswith("search/")]
    assert outside == [], "training, data, deploy and the spaces are handed sections"


@pytest.mark.parametrize("room", ["gradient/loop.py", "gradient/stage.py", "gradient/recorder.py"])
def test_the_loop_is_handed_sections(room: str) -> None:
    assert named((PACKAGE / "search" / room).read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "source",
    [
        "from nas_encoder.search.config.gradient import SearchConfig",
        "from nas_encoder.search.config import gradient\ndef f(c: gradient.SearchConfig): ...",
        "def f():\n    from nas_encoder.search.config.trials import TrialsConfig as C",
    ],
)
def test_the_checker_finds_them(source: str) -> None:
    assert len(named(source)) == 1
    assert not named('"""Like SearchConfig."""\nfrom x import StageConfig')
