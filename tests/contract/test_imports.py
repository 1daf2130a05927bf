"""Who may import whom: the directions that the architecture fixes, read from every module.

Statically, every import in ``nas_encoder`` (also inside functions and under ``TYPE_CHECKING``,
also ``import_module("...")`` of a constant) must be allowed by the table of rooms below, and no
circle may exist among the modules of the package, the tools and the recipes, nor among the rooms.
Dynamically, a fresh interpreter shows what an import really loads.
"""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatchcase

import pytest
from import_graph import (
    ROOT,
    TREES,
    circles,
    files,
    import_graph,
    imports_of,
    present_graph,
    resolve,
)

PACKAGE = ROOT / "nas_encoder"

# What every room may import; "" is nas_encoder/__init__.py.
BASE = {"", "errors", "registry", "extensions", "tables", "common"}
SPACES = BASE | {"genotype", "spaces"}
NETWORK = SPACES | {"ops", "network"}
# Everything that builds on networks without searching.
BUILT = NETWORK | {"baselines", "interchange"}
SEARCH = NETWORK | {"data", "training", "deploy", "search.strategies", "search.config"}
SEARCHED = SEARCH | {"search.records", "search.folder"}

# Room -> the other rooms that it may import.
MAY_IMPORT: dict[str, set[str]] = {
    "": {"genotype", "network"},
    "errors": set(),
    "extensions": set(),
    "registry": {"errors", "extensions"},
    "tables": {"registry", "extensions"},
    "autoload": set(),
    "common": {"", "errors", "registry"},
    "genotype": BASE,
    "spaces": BASE | {"genotype"},
    "ops": BASE,
    "network": SPACES | {"ops"},
    "spaces.networks": NETWORK,
    "baselines": NETWORK,
    "peers": NETWORK | {"baselines"},
    "data": BASE,
    "training": BASE | {"ops", "network", "data"},
    "search.strategies": BASE,
    "search.config": SPACES | {"network", "data", "training", "search.strategies"},
    "search.records": SPACES | {"search.strategies"},
    "search.folder": SPACES | {"data", "training", "search.records"},
    "search.gradient": SEARCHED,
    "search.trials": SEARCHED | {"tabular"},
    "search.report": SEARCHED | {"search.gradient", "search.trials"},
    "search": SEARCHED | {"search.gradient", "search.trials", "search.report"},
    "tabular": NETWORK | {"data", "training", "deploy"},
    "deploy": NETWORK,
    "interchange": NETWORK | {"baselines"},
    "bench": BUILT | {"deploy", "peers", "espnet", "nemo"},
    "export": BUILT | {"data", "deploy"},
    "espnet": BUILT | {"autoload", "peers"},
    "nemo": BUILT | {"autoload", "peers"},
    "alignment": BASE | {"data", "training", "espnet", "nemo"},
    "testing": NETWORK | {"baselines"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT) - {"spaces.networks"}
MAY_IMPORT["__main__"] = {"cli"}

# First pattern that fits -> room; any other module is in the room of its folder.
ROOMS = {
    # Torch-free: what a space is, its architectures, its options and how it is drawn.
    "nas_encoder.spaces": "spaces",
    "nas_encoder.spaces.[!.]*.space": "spaces",
    "nas_encoder.spaces.[!.]*.architecture": "spaces",
    "nas_encoder.spaces.[!.]*.choices": "spaces",
    "nas_encoder.spaces.[!.]*.config": "spaces",
    "nas_encoder.spaces.[!.]*.contexts": "spaces",
    "nas_encoder.spaces.[!.]*.lookaheads": "spaces",
    "nas_encoder.spaces.[!.]*.front_parts": "spaces",
    "nas_encoder.spaces.[!.]*.operations": "spaces",
    "nas_encoder.spaces.[!.]*.part": "spaces",
    "nas_encoder.spaces.[!.]*.parts": "spaces",
    "nas_encoder.spaces.[!.]*.picture": "spaces",
    "nas_encoder.spaces.[!.]*.points": "spaces",
    "nas_encoder.spaces.[!.]*.spans": "spaces",
    "nas_encoder.spaces.[!.]*.stack": "spaces",
    "nas_encoder.spaces.[!.]*.*": "spaces.networks",
    "nas_encoder.search.strategies": "search.strategies",
    "nas_encoder.search.records": "search.records",
    "nas_encoder.search.folder": "search.folder",
    "nas_encoder.search.config*": "search.config",
    "nas_encoder.search.gradient*": "search.gradient",
    "nas_encoder.search.trials*": "search.trials",
    "nas_encoder.search.report*": "search.report",
}
# A family's package is a name only: its modules belong to one of the two rooms above.
FAMILIES = {path.parent.name for path in PACKAGE.glob("spaces/*/space.py")}

TOOLKITS = {"espnet", "espnet2", "espnet3", "espnetez", "nemo"}
# The only rooms that may name a toolkit's module.
TOOLKITS_OF = {"espnet": TOOLKITS - {"nemo"}, "nemo": {"nemo"}}

# What a base install has. Rooms that work on it import anything else inside functions only.
INSTALLED = {"torch", "yaml"}
AT_IMPORT: dict[str, set[str]] = {
    "": set(),
    "errors": set(),
    "extensions": set(),
    "registry": set(),
    "tables": set(),
    "autoload": set(),
    "common": {"yaml", "torch", "numpy"},  # seeding.py; those that have no torch import others
    "genotype": {"yaml"},
    "spaces": {"yaml"},
    "ops": INSTALLED,
    "network": INSTALLED,
    "spaces.networks": INSTALLED,
    "baselines": INSTALLED,
    "peers": INSTALLED,
    "interchange": INSTALLED,
    "bench": INSTALLED,
    "export": INSTALLED,
    "testing": INSTALLED | {"pytest"},
    "cli": {"yaml"},
    "__main__": set(),
}
# These rooms import no torch, not even inside functions (but for type checkers).
WITHOUT_TORCH = BASE - {"common"} | {"autoload", "genotype", "spaces"}


def room_of(module: str) -> str:
    """``nas_encoder.ops.norm`` -> ``ops``; ``nas_encoder.search.config.load`` -> its wing."""
    parts = module.split(".")
    if parts[:2] == ["nas_encoder", "spaces"] and len(parts) == 3 and parts[2] in FAMILIES:
        return "spaces"
    if parts[:2] == ["nas_encoder", "spaces"] and len(parts) == 3:
        return "spaces"  # base, and what all pictures share
    for pattern, room in ROOMS.items():
        if fnmatchcase(module, pattern):
            return room
    return (parts + [""])[1]


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return one line for each import of a module that the architecture forbids."""
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module}: room '{room}' is not in MAY_IMPORT; say there what it may import"]
    known = files()
    found = []
    for item in imports_of(source, module, is_package):
        target = resolve(item.module, known)
        top = target.split(".")[0]
        where = f"{module}:{item.line} imports {target}"
        if top == "nas_encoder":
            other = room_of(target)
            if other != room and other not in MAY_IMPORT[room]:
                found.append(f"{where}: '{room}' may not import '{other}'")
        elif top in TOOLKITS and top not in TOOLKITS_OF.get(room, set()):
            found.append(f"{where}: '{room}' may not import a toolkit")
        elif top == "torch" and room in WITHOUT_TORCH and not item.for_types:
            found.append(f"{where}: '{room}' must work without torch")
        elif (
            item.at_import
            and room in AT_IMPORT
            and top not in sys.stdlib_module_names
            and top not in AT_IMPORT[room]
        ):
            found.append(f"{where}: not in a base install, so import it inside a function")
    return sorted(set(found))


def test_there_are_modules_to_check() -> None:
    names = set(files())
    assert {"nas_encoder", "nas_encoder.errors", "nas_encoder.cli.main"} <= names
    assert {name.split(".")[0] for name in names} == set(TREES)
    rooms = {room_of(name) for name in names if name.startswith("nas_encoder.")}
    assert rooms <= set(MAY_IMPORT)
    assert len(FAMILIES) >= 3


def test_modules_import_only_what_the_architecture_allows() -> None:
    found = [
        line
        for name, path in files().items()
        if name.split(".")[0] == "nas_encoder"
        for line in violations(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(present_graph()) == []


def test_no_rooms_import_each_other_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for module, targets in present_graph().items():
        if module.split(".")[0] != "nas_encoder":
            continue
        own = room_of(module)
        # The top of the package is a door: it names the public functions and imports none.
        others = {room_of(t) for t in targets if t.startswith("nas_encoder.")} - {own, ""}
        rooms.setdefault(own, set()).update(others)
    assert circles(rooms) == []


def test_search_has_walls() -> None:
    tops = sorted(path.name for path in (PACKAGE / "search").glob("*.py"))
    assert len(tops) <= 6, tops
    sizes = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    search = sum(size for path, size in sizes.items() if PACKAGE / "search" in path.parents)
    assert search and 4 * search <= sum(sizes.values())


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("nas_encoder.genotype.catalog", "import torch", "without torch"),
        ("nas_encoder.spaces.cells.space", "def f():\n    from torch import nn", "without torch"),
        ("nas_encoder.spaces.cells.space", "from nas_encoder.spaces.cells import cell", "networks"),
        ("nas_encoder.genotype.catalog", "from nas_encoder.spaces import get_space", "'spaces'"),
        ("nas_encoder.network.tapped", "from nas_encoder.search import x", "'search'"),
        ("nas_encoder.network.tapped", "from ..search.gradient import x", "'search.gradient'"),
        ("nas_encoder.network.tapped", "from .. import search", "'search'"),
        ("nas_encoder.network.tapped", "import nas_encoder.spaces.cells.cell", "spaces.networks"),
        ("nas_encoder.search.config.load", "from nas_encoder.search import run", "'search'"),
        ("nas_encoder.search.gradient.loop", "from nas_encoder.search import report", "report"),
        ("nas_encoder.training.devices", "import nas_encoder.search.folder", "'search.folder'"),
        ("nas_encoder.espnet.encoder", "from nas_encoder import nemo", "'nemo'"),
        ("nas_encoder.espnet.encoder", "import nas_encoder.data.features", "'data'"),
        ("nas_encoder.nemo.encoder", "import nas_encoder.espnet", "'espnet'"),
        ("nas_encoder.nemo.encoder", "from espnet2.tasks.asr import x", "toolkit"),
        ("nas_encoder.cli.doctor", "def f():\n    import nemo.core", "toolkit"),
        ("nas_encoder.search.run", "import_module('espnet2.bin')", "toolkit"),
        ("nas_encoder.search.run", "from nas_encoder.cli import main", "'cli'"),
        ("nas_encoder.ops.norm", "import numpy as np", "base install"),
        ("nas_encoder.ops.norm", "class A:\n    import lhotse", "base install"),
        ("nas_encoder.ops.norm", "try:\n    import lhotse\nexcept ImportError: ...", "base"),
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
        ("nas_encoder.ops.norm", "def f():\n    import lhotse"),
        ("nas_encoder.ops.norm", "if TYPE_CHECKING:\n    import lhotse"),
        ("nas_encoder.spaces.base", "if TYPE_CHECKING:\n    from torch import nn"),
        ("nas_encoder.network.tapped", "from nas_encoder import __version__"),
        ("nas_encoder.network.tapped", "from .deltas import with_deltas"),
        ("nas_encoder.espnet.encoder", "import espnet2"),
        ("nas_encoder.search.run", "import lightning\nfrom nas_encoder.spaces import x"),
        ("nas_encoder.cli.search", "from nas_encoder.search import x"),
    ],
)
def test_the_checker_allows_what_is_right(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_the_checker_finds_circles() -> None:
    sources = {
        "tree": ("", True),
        "tree.a": ("def late():\n    from tree import b", False),
        "tree.b": ("if TYPE_CHECKING:\n    import tree.c", False),
        "tree.c": ("from . import a", False),
        "tree.d": ("from tree.a import name", False),
    }
    assert circles(import_graph(sources)) == [["tree.a", "tree.b", "tree.c"]]
    sources["tree.c"] = ("import json", False)
    assert circles(import_graph(sources)) == []


def loaded_after(statement: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import nas_encoder",
        "import nas_encoder.cli.main",
        "import nas_encoder; nas_encoder.load_genotype('darts_v2')",
        "import nas_encoder.spaces as s; [s.get_space(name) for name in s.list_spaces()]",
    ],
)
def test_import_loads_neither_torch_nor_a_toolkit(statement: str) -> None:
    assert not loaded_after(statement) & {"torch", "numpy", "lightning", "lhotse", *TOOLKITS}


def test_the_network_loads_torch_and_no_toolkit() -> None:
    loaded = loaded_after("import nas_encoder.network, nas_encoder.baselines")
    assert "torch" in loaded  # so the check above can fail
    assert not loaded & {"lightning", "lhotse", "matplotlib", *TOOLKITS}
