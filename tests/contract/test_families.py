"""Nothing outside a space's folder asks which space, architecture or options it holds.

Read from every module of the package, the recipes, the tools and the contract tests. Benchmarks
are left out: each measures one family's own code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_encoder.tables import SPACES

ROOT = Path(__file__).resolve().parents[2]
SPACES_FOLDER = ROOT / "nas_encoder" / "spaces"
FAMILIES = sorted(path.parent.name for path in SPACES_FOLDER.glob("*/space.py"))
CHECKED = ("nas_encoder", "recipes", "tools", "tests/contract")


def classes_of_families() -> set[str]:
    """Return the names of the classes that are defined in a space's folder."""
    return {
        node.name
        for family in FAMILIES
        for path in (SPACES_FOLDER / family).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }


NAMES, CLASSES = set(SPACES), classes_of_families()


def is_in_a_family(module: str) -> bool:
    """Whether a dotted name is that of a module in a space's folder."""
    parts = module.split(".")
    return parts[:2] == ["nas_encoder", "spaces"] and len(parts) > 2 and parts[2] in FAMILIES


def last_name(node: ast.AST) -> str:
    """``a.b.C`` -> ``C``; empty for what is no name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def questions(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what is asked) of everything that asks for a family."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(map(is_in_a_family, names)):
                yield line, f"imports {node.module}"
        elif isinstance(node, ast.Import):
            yield from ((line, f"imports {a.name}") for a in node.names if is_in_a_family(a.name))
        elif isinstance(node, ast.Call) and last_name(node.func) in ("isinstance", "issubclass"):
            named = {last_name(part) for part in ast.walk(node.args[1])} & CLASSES
            yield from ((line, f"asks isinstance of {name}") for name in sorted(named))
        elif isinstance(node, ast.Call) and last_name(node.func) == "import_module":
            found = node.args[0]
            if isinstance(found, ast.Constant) and is_in_a_family(str(found.value)):
                yield line, f"imports {found.value}"
        elif isinstance(node, ast.Compare):
            for part in ast.walk(node):
                yield from ((line, f"compares with {name}") for name in asked(part))
        elif isinstance(node, ast.MatchClass) and last_name(node.cls) in CLASSES:
            yield line, f"matches {last_name(node.cls)}"
        elif isinstance(node, ast.MatchValue):
            yield from ((line, f"matches {name}") for name in asked(node.value))
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
            for key in node.value.keys:
                yield from ((line, f"looks up {name}") for name in asked(key))


def asked(node: ast.AST | None) -> list[str]:
    """Return the space or class that an expression names, if it does."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [repr(node.value)] if node.value in NAMES | CLASSES else []
    return [last_name(node)] if node is not None and last_name(node) in CLASSES else []


def modules() -> list[Path]:
    """Return every module that must not ask."""
    return [
        path
        for folder in CHECKED
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.resolve() != Path(__file__).resolve()
        and not any((SPACES_FOLDER / family) in path.parents for family in FAMILIES)
    ]


def test_the_families_are_found() -> None:
    assert {"cells", "tdnn_chain", "nasbench_asr"} <= set(FAMILIES)
    assert {"CellSpace", "ChainArchitecture", "NasBenchConfig", "Supernet"} <= CLASSES
    assert {"darts", "nasbench_asr"} <= NAMES
    assert len(modules()) > 150


def test_nobody_asks_for_a_family() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {what}"
        for path in modules()
        for line, what in questions(path.read_text(encoding="utf-8"))
    ]
    assert not found, "ask the space instead:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (
            "from nas_encoder.spaces.cells.space import CellSpace",
            "imports nas_encoder.spaces.cells",
        ),
        ("from nas_encoder.spaces import cells", "imports nas_encoder.spaces"),
        ("import nas_encoder.spaces.tdnn_chain.network as n", "imports nas_encoder.spaces.tdnn"),
        ("def f():\n    import nas_encoder.spaces.cells", "imports nas_encoder.spaces.cells"),
        ("import_module('nas_encoder.spaces.cells.costs')", "imports nas_encoder.spaces.cells"),
        ("isinstance(x, CellArchitecture)", "asks isinstance of CellArchitecture"),
        ("isinstance(x, (int, cells.CellSpace))", "asks isinstance of CellSpace"),
        ("isinstance(x, int | ChainConfig)", "asks isinstance of ChainConfig"),
        ("issubclass(x, NasBenchConfig)", "asks isinstance of NasBenchConfig"),
        ("type(x) is CellConfig", "compares with CellConfig"),
        ("config is CellConfig", "compares with CellConfig"),
        ("type(x).__name__ == 'CellConfig'", "compares with 'CellConfig'"),
        ("space.name == 'tdnn_chain'", "compares with 'tdnn_chain'"),
        ("space in ('darts', 'asr_revised')", "compares with 'darts'"),
        ("{'tdnn_chain': 6}[space]", "looks up 'tdnn_chain'"),
        ("match x:\n    case CellArchitecture():\n        pass", "matches CellArchitecture"),
        ("match x:\n    case 'nasbench_asr':\n        pass", "matches 'nasbench_asr'"),
    ],
)
def test_every_question_is_found(source: str, what: str) -> None:
    assert any(found.startswith(what) for _, found in questions(source))


@pytest.mark.parametrize(
    "source",
    [
        "from nas_encoder.spaces import SPACES, get_space",
        "from nas_encoder.spaces.base import SearchSpace",
        "get_space('darts').sample(rng)",
        "def f(space: str = 'nasbench_asr'): ...",
        "isinstance(x, SearchSpace)",
        "LATENCY in space.features",
    ],
)
def test_what_is_allowed_is_not_found(source: str) -> None:
    assert not list(questions(source))
