"""The published files of NAS-Bench-ASR: two pickles in a row, read without running their code.

Loading a pickle from somebody else may run anything. These files (see the README of
https://github.com/SamsungLabs/nb-asr) hold a header dict, then a list of rows in the order of its
``columns``. Only plain data and NumPy numbers are admitted; the names that create the latter are
replaced by functions of this module. Everything else is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.problems import Problems, check_plain, one_line, show
from nas_encoder.errors import DataError

MAX_BYTES = 1 << 30
KINDS = ("training", "benchmarking", "static")
_COLUMNS = {
    "training": ["model_hash", "val_per", "test_per"],
    "benchmarking": ["model_hash", "latency"],
    "static": ["model_hash", "params"],
}
_OWN = {"training": "seed", "benchmarking": "device"}
# NumPy's name of a type without its byte order -> struct's.
_NUMBERS = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q",
            "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?"}  # fmt: skip


@dataclass(frozen=True)
class PublishedFile:
    """One published file, in plain types."""

    path: Path
    kind: str  # one of KINDS
    header: dict[str, Any]
    columns: list[str]  # names of the values of a row
    rows: list[list[Any]]


class _NumberType:
    """Stands for ``numpy.dtype`` of a number."""

    def __init__(self, code: object, *_: object) -> None:
        text = str(code).lstrip("<>=|")
        if text not in _NUMBERS:
            raise pickle.UnpicklingError(f"a number of the unknown type {show(code)}")
        self.format = _NUMBERS[text]
        self.order = ">" if str(code).startswith(">") else "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2:
            raise pickle.UnpicklingError("a type of numbers with an unknown state")
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: object, data: object = b"") -> Any:
    if not isinstance(kind, _NumberType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a number that is not written as NumPy writes it")
    try:
        (value,) = struct.unpack(kind.order + kind.format, data)
    except struct.error as error:
        raise pickle.UnpicklingError(f"a number of a wrong size: {error}") from None
    if kind.format == "f":  # with the digits of single precision
        for digits in range(6, 10):
            text = f"{value:.{digits}g}"
            if struct.pack("f", float(text)) == struct.pack("f", value):
                return float(text)
    return value


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes that are not written as pickle writes them")
    return text.encode("latin1")


class _Call:
    """Stand-in for a function of a file: callable, but not modifiable."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:
        return self._function(*arguments)

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("changes a function")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _Call(_number),
    ("numpy._core.multiarray", "scalar"): _Call(_number),
    ("_codecs", "encode"): _Call(_encode),  # with which old pickles write bytes
}


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name without a stand-in here; imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"refers to {show(f'{module}.{name}')}; files of plain data do not, so it was not "
                "loaded and nothing in it was run"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("refers to something outside the file")


def read_published(path: str | Path) -> PublishedFile:
    """Read one published file.

    Raises:
        DataError: It cannot be read, holds anything but plain data, or has another layout than the
            published files.
    """
    subject = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError(subject, [f"cannot be read: {error}"]) from None
    if len(data) > MAX_BYTES:
        raise DataError(subject, [f"is larger than {MAX_BYTES} bytes"])
    stream = io.BytesIO(data)
    parts = []
    for what in ("header", "rows"):
        try:
            parts.append(_PlainUnpickler(stream).load())
        except Exception as error:  # a broken pickle may raise nearly anything
            rule = f"{what}: is not a pickle of plain data: {one_line(error)}"
            raise DataError(subject, [rule]) from None
    header, rows = parts
    kind, columns = _check(subject, header, rows)
    return PublishedFile(Path(path), kind, header, columns, [list(row) for row in rows])


def _check(subject: str, header: Any, rows: Any) -> tuple[str, list[str]]:
    problems = Problems()
    if not isinstance(header, dict):
        raise DataError(subject, [f"header: must be a dict, got {type(header).__name__}"])
    check_plain(header, "header", problems)
    kind = problems.choice(header.get("dataset_type"), "header.dataset_type", "kind", KINDS)
    columns = problems.sequence(header.get("columns"), "header.columns", 2, 64) or []
    if kind and columns[: len(_COLUMNS[kind])] != _COLUMNS[kind]:
        problems.add(
            "header.columns", f"must begin with {_COLUMNS[kind]} in a {kind} file, got {columns}"
        )
    if kind in _OWN and _OWN[kind] not in header:
        problems.add(f"header.{_OWN[kind]}", "is missing")
    if not isinstance(rows, list):
        problems.add("rows", f"must be a list, got {type(rows).__name__}")
    elif not problems:
        for number, row in enumerate(rows):
            if not isinstance(row, (list, tuple)) or len(row) != len(columns):
                problems.add(f"rows[{number}]", f"must have {len(columns)} values, got {show(row)}")
            elif not _is_plain_row(str(kind), row):
                problems.add(f"rows[{number}]", f"holds values of other types: {show(row)}")
            if len(problems.lines) > 20:
                break
    if problems or kind is None:
        raise DataError(subject, problems.lines)
    return kind, [str(column) for column in columns]


def _is_plain_row(kind: str, row: list[Any] | tuple[Any, ...]) -> bool:
    name, *numbers = row[: len(_COLUMNS[kind])]
    if kind == "training":
        vals, test = numbers
        numbers = [*vals, test] if vals and isinstance(vals, (list, tuple)) else [None]
    return isinstance(name, str) and all(isinstance(number, (int, float)) for number in numbers)
