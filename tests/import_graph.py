"""Every import of the project's own modules, read from their sources, and circles among them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREES = ("nas_encoder", "hydra_plugins", "tools", "recipes")


@dataclass(frozen=True)
class Import:
    """One import: the full module name, the line, whether it runs with the module, or never."""

    module: str
    line: int
    at_import: bool
    for_types: bool = False


def module_name(path: Path, root: Path = ROOT) -> str:
    """``.../nas_encoder/ops/norm.py`` -> ``nas_encoder.ops.norm``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(source: str, module: str, is_package: bool) -> tuple[Import, ...]:
    """Return every import of a module's source."""

    def walk(node: ast.AST, at_import: bool, for_types: bool = False) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = at_import
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inside = False
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    yield from walk(ast.Module([part], []), False, True)
                for part in child.orelse:
                    yield from walk(ast.Module([part], []), at_import)
                continue
            for name in names(child):
                line: int = child.lineno  # type: ignore[attr-defined]
                yield Import(name, line, at_import, for_types)
            yield from walk(child, inside, for_types)

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
            return [f"{base}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).split(".")[-1]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                return [str(first.value)]
        return []

    return tuple(walk(ast.parse(source), True))


@cache
def files() -> dict[str, Path]:
    """Return every module of the trees by its name."""
    return {module_name(path): path for tree in TREES for path in (ROOT / tree).rglob("*.py")}


def resolve(name: str, known: Mapping[str, object]) -> str:
    """Return the module that an imported name is or stands in; as it is for others' modules."""
    found = name
    while found and found not in known:
        found = found.rpartition(".")[0]
    return found or name


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return every strongly connected group of more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in number:
            visit(node)
    return sorted(found)


def import_graph(sources: Mapping[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Return which modules each module imports, wherever in its source.

    Args:
        sources: Module -> its source, and whether it is a package's ``__init__``.
    """
    graph: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        targets = {resolve(i.module, sources) for i in imports_of(source, module, is_package)}
        graph[module] = {t for t in targets if t in sources and t != module}
    return graph


@cache
def present_graph() -> dict[str, set[str]]:
    """Return the graph of all modules; nobody changes it."""
    return import_graph(
        {
            name: (path.read_text(encoding="utf-8"), path.name == "__init__.py")
            for name, path in files().items()
        }
    )
