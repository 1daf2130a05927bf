"""YAML in and out: only plain data, only our errors, only complete files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nas_encoder.common.problems import one_line
from nas_encoder.errors import DataError, GenotypeError, ProblemsError

MAX_BYTES = 1 << 20
MAX_NUMBER = 128  # characters
MAX_DEPTH = 100  # of brackets


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases, duplicate keys and deep nesting.

    An alias can make a small file expand without bound, or refer to itself; a duplicate key
    silently loses the first value; reading brackets takes time by the square of their depth.
    """

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise RecursionError
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not allowed here", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a scalar", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: yaml.ScalarNode) -> int:
        # YAML 1.1 reads 1:1:1 in base 60, which for a long scalar takes minutes.
        if len(node.value) > MAX_NUMBER:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} characters", node.start_mark
            )
        return self.construct_yaml_int(node)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_number)


class _Dumper(yaml.SafeDumper):
    """SafeDumper without aliases, which the loader refuses."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def plain(value: Any) -> Any:
    """Return a copy in plain YAML types: no tuples, no dataclasses, no shared parts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def differences(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Return (dotted path, value before, value now) of all differences of two documents.

    A missing value counts as null. A list of scalars is one value.
    """
    old, new = dict(_leaves(plain(before))), dict(_leaves(plain(now)))
    paths = sorted(old.keys() | new.keys())
    return [(p, old.get(p), new.get(p)) for p in paths if old.get(p) != new.get(p)]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = enumerate(value)
    else:
        yield path, value
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else str(key))


def parse_yaml(text: str | bytes, subject: str, error: type[ProblemsError] = GenotypeError) -> Any:
    """Parse one YAML document from a string.

    Raises:
        ProblemsError: (the class given as ``error``) it is not one document of plain YAML, is
            larger than 1 MiB, or is nested too deeply.
    """
    if len(text) > MAX_BYTES:
        raise error(subject, [f"is larger than {MAX_BYTES} bytes, got {len(text)}"])
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as problem:
        raise error(subject, [f"is not valid YAML: {_reason(problem)}"]) from None
    except RecursionError:
        raise error(subject, ["is nested too deeply"]) from None
    except Exception as problem:  # PyYAML lets ValueError & co. of bad scalars through
        raise error(
            subject, [f"holds a value that YAML cannot read: {_reason(problem)}"]
        ) from problem


def read_yaml(path: str | Path, error: type[ProblemsError] = GenotypeError) -> Any:
    """Read one YAML file; see :func:`parse_yaml`.

    Raises:
        ProblemsError: (the class given as ``error``) the file cannot be read, or as above.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:  # ValueError: a NUL character in the path
        raise error(str(path), [f"cannot be read: {_reason(problem)}"]) from None
    return parse_yaml(data, str(path), error)


def dump_yaml(document: Any, subject: str, error: type[ProblemsError] = GenotypeError) -> bytes:
    """Return the YAML form of a document.

    Raises:
        ProblemsError: (the class given as ``error``) it has none.
    """
    try:
        text = yaml.dump(
            document, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True
        )
        return text.encode("utf-8")
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError) as problem:
        raise error(subject, [f"cannot be written: {_reason(problem)}"]) from None


def write_yaml(path: str | Path, document: Any, error: type[ProblemsError] = GenotypeError) -> None:
    """Write a document atomically: the old file stays until the new one is on disk.

    Raises:
        ProblemsError: (the class given as ``error``) the file cannot be written.
    """
    write_atomically(path, dump_yaml(document, str(path), error), error)


def write_atomically(
    path: str | Path, data: bytes, error: type[ProblemsError] = GenotypeError, new: bool = False
) -> None:
    """Write bytes through a temporary file in the same folder and a rename.

    Args:
        path: The file.
        data: Its content.
        error: See below.
        new: Whether there must be no such file yet, not even one of another process that has just
            written it.

    Raises:
        ProblemsError: (the class given as ``error``) the file cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private, but results may be shared
        if new:
            os.link(temporary, path)  # unlike a rename, fails if it exists
        else:
            os.replace(temporary, path)
            temporary = None
    except (OSError, ValueError) as problem:  # ValueError: a NUL character in the path
        raise error(str(path), [f"cannot be written: {_reason(problem)}"]) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text lines atomically, and make the folder for them.

    Raises:
        DataError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode(), DataError)


def _reason(problem: Exception) -> str:
    strerror = problem.strerror if isinstance(problem, OSError) else None
    return one_line(strerror or problem)
