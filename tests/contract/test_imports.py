"""Who may import whom: the directions that the architecture fixes, read from every module.

Two things are checked. Statically, every import in ``nas_encoder`` (also inside functions and
under ``TYPE_CHECKING``, also ``import_module("...")`` of a constant) must be allowed by the
tables below. Dynamically, a fresh interpreter shows what an import really loads.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "nas_encoder"

# Part of nas_encoder -> the other parts that it may import. "" is nas_encoder/__init__.py.
BASE = {"", "errors", "registry", "extensions", "tables", "common"}
SPACES = {"genotype", "spaces"}
MAY_IMPORT: dict[str, set[str]] = {
    "": {"genotype", "network"},
    "errors": set(),
    "extensions": set(),
    "registry": {"errors", "extensions"},
    "tables": {"registry", "extensions"},
    "autoload": set(),
    "common": {"", "errors", "registry"},
    "genotype": BASE,
    # Their networks, supernets and costs stand beside them; see TORCH_FREE for what does not
    # import these.
    "spaces": BASE | {"genotype", "ops", "network", "deploy"},
    "ops": BASE | {"genotype"},
    "network": BASE | SPACES | {"ops"},
    "baselines": BASE | {"genotype", "ops", "network"},
    "data": BASE,
    "training": BASE | SPACES | {"ops", "network", "data", "search"},
    "search": BASE | SPACES | {"ops", "network", "data", "training", "deploy"},
    "interchange": BASE | SPACES | {"ops", "network", "baselines"},
    "deploy": BASE | SPACES | {"ops", "network"},
    "espnet": BASE | SPACES | {"ops", "network", "baselines", "interchange"},
    "nemo": BASE | SPACES | {"ops", "network", "baselines", "autoload", "interchange"},
}
MAY_IMPORT["testing"] = BASE | SPACES | {"ops", "network", "baselines"}
MAY_IMPORT["cli"] = set(MAY_IMPORT) | {"cli"}
MAY_IMPORT["__main__"] = {"cli"}

TOOLKITS = {"espnet", "espnet2", "espnetez", "nemo"}
# The only parts that may name a toolkit's module.
TOOLKITS_OF = {"espnet": {"espnet", "espnet2", "espnetez"}, "nemo": {"nemo"}}

# What a base install has. Parts that work on it import anything else inside functions only.
INSTALLED = {"torch", "yaml"}
AT_IMPORT: dict[str, set[str]] = {
    "": set(),
    "errors": set(),
    "extensions": set(),
    "registry": set(),
    "autoload": set(),
    "genotype": {"yaml"},
    "tables": set(),
    "common": {"yaml", "torch", "numpy"},
    "spaces": INSTALLED,
    "ops": INSTALLED,
    "network": INSTALLED,
    "baselines": INSTALLED,
    "interchange": INSTALLED,
    "testing": INSTALLED | {"pytest"},
    "cli": {"yaml"},
    "__main__": set(),
}
# These parts import no torch, at whatever place.
WITHOUT_TORCH = {"", "errors", "registry", "extensions", "tables", "autoload", "genotype"}


@dataclass(frozen=True)
class Import:
    """One import: the full module name, the line, and whether it runs with the module."""

    module: str
    line: int
    at_import: bool


def module_name(path: Path, package: Path) -> str:
    """``.../nas_encoder/ops/table.py`` -> ``nas_encoder.ops.table``."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """``nas_encoder.ops.table`` -> ``ops``; ``nas_encoder`` -> ``""``."""
    return (module.split(".") + [""])[1]


def imports_of(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Yield every import of a module's source."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = at_import
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inside = False
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    yield from walk(ast.Module([part], []), False)
                for part in child.orelse:
                    yield from walk(ast.Module([part], []), at_import)
                continue
            for name in names(child):
                yield Import(name, child.lineno, at_import)  # type: ignore[attr-defined]
            yield from walk(child, inside)

    def names(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")[: None if is_package else -1]
                anchor = anchor[: len(anchor) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            # `from package import name` may import the module package.name.
            return [base] if base != "nas_encoder" else [f"{base}.{a.name}" for a in node.names]
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                return [str(first.value)]
        return []

    yield from walk(ast.parse(source), True)


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return one line for each import of a module that the architecture forbids."""
    part = part_of(module)
    if part not in MAY_IMPORT:
        return [f"{module}: part '{part}' is not in MAY_IMPORT; say there what it may import"]
    found = []
    for item in imports_of(source, module, is_package):
        where = f"{module}:{item.line} imports {item.module}"
        top = item.module.split(".")[0]
        if top == "nas_encoder":
            other = part_of(item.module)
            if other not in MAY_IMPORT:
                other = ""  # a name of nas_encoder/__init__.py
            if other != part and other not in MAY_IMPORT[part]:
                found.append(f"{where}: '{part}' may not import '{other}'")
        elif top in TOOLKITS and top not in TOOLKITS_OF.get(part, set()):
            found.append(f"{where}: '{part}' may not import a toolkit")
        elif top == "torch" and part in WITHOUT_TORCH:
            found.append(f"{where}: '{part}' must work without torch")
        elif (
            item.at_import
            and part in AT_IMPORT
            and top not in sys.stdlib_module_names
            and top not in AT_IMPORT[part]
        ):
            found.append(f"{where}: not in a base install, so import it inside a function")
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_there_are_modules_to_check() -> None:
    names = {module_name(path, PACKAGE) for path in modules()}
    assert {"nas_encoder", "nas_encoder.errors", "nas_encoder.cli.main"} <= names
    assert {part_of(name) for name in names} - {""} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", modules(), ids=lambda path: module_name(path, PACKAGE))
def test_module_imports_only_what_the_architecture_allows(path: Path) -> None:
    module = module_name(path, PACKAGE)
    source = path.read_text(encoding="utf-8")
    assert violations(source, module, path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("nas_encoder.genotype.catalog", "import torch", "without torch"),
        ("nas_encoder.common.documents", "from nas_encoder.spaces import get_space", "'spaces'"),
        ("nas_encoder.spaces.cells.cell", "from nas_encoder.search import x", "'search'"),
        ("nas_encoder.network.tapped", "from ..search.gradient import x", "'search'"),
        ("nas_encoder.network.tapped", "from .. import search", "'search'"),
        ("nas_encoder.espnet.encoder", "from nas_encoder import nemo", "'nemo'"),
        ("nas_encoder.espnet.encoder", "import nas_encoder.data.features", "'data'"),
        ("nas_encoder.nemo.encoder", "import nas_encoder.espnet", "'espnet'"),
        ("nas_encoder.nemo.encoder", "from espnet2.tasks.asr import x", "toolkit"),
        ("nas_encoder.cli.doctor", "def f():\n    import nemo.core", "toolkit"),
        ("nas_encoder.search.run", "import_module('espnet2.bin')", "toolkit"),
        ("nas_encoder.search.run", "from nas_encoder.cli import main", "'cli'"),
        ("nas_encoder.ops.table", "import numpy as np", "base install"),
        ("nas_encoder.ops.table", "class A:\n    import lhotse", "base install"),
        ("nas_encoder.ops.table", "try:\n    import lhotse\nexcept ImportError: ...", "base"),
        ("nas_encoder.fresh.part", "", "MAY_IMPORT"),
    ],
)
def test_the_checker_finds_violations(module: str, source: str, reason: str) -> None:
    found = violations(source, module)
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nas_encoder.ops.table", "def f():\n    import lhotse"),
        ("nas_encoder.ops.table", "if TYPE_CHECKING:\n    import lhotse"),
        ("nas_encoder.spaces.cells.cell", "from nas_encoder import __version__"),
        ("nas_encoder.spaces.cells.cell", "from .config import CellConfig"),
        ("nas_encoder.espnet.encoder", "import espnet2"),
        ("nas_encoder.search.run", "import lightning\nfrom nas_encoder.spaces import x"),
        ("nas_encoder.cli.search", "from nas_encoder.search import x"),
    ],
)
def test_the_checker_allows_what_is_right(module: str, source: str) -> None:
    assert violations(source, module) == []


def loaded_after(statement: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import nas_encoder",
        "import nas_encoder.cli.main",
        "import nas_encoder.genotype",
        "import nas_encoder.spaces",
        "import nas_encoder; nas_encoder.load_genotype('darts_v2')",
        "import nas_encoder.spaces; nas_encoder.spaces.get_space('darts')",
    ],
)
def test_import_loads_neither_torch_nor_a_toolkit(statement: str) -> None:
    assert not loaded_after(statement) & {"torch", "numpy", "lightning", "lhotse", *TOOLKITS}


def test_the_network_loads_torch_and_no_toolkit() -> None:
    loaded = loaded_after("import nas_encoder.network, nas_encoder.baselines")
    assert "torch" in loaded  # so the check above can fail
    assert not loaded & {"lightning", "lhotse", "matplotlib", *TOOLKITS}
