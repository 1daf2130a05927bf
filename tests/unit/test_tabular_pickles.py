"""The published pickles of tables, read without running anything."""

from __future__ import annotations

import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nasbench_files import (
    EPOCHS,
    EXAMPLE_HASH,
    HEADER,
    dump_pair,
    rows_of,
    some_vectors,
    write_published,
)

from nas_encoder.errors import DataError
from nas_encoder.tabular import load_published, read_published


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nb-asr")
    write_published(path)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol_gives_the_same_plain_numbers(tmp_path: Path, protocol: int) -> None:
    write_published(tmp_path, protocol=protocol)
    file = read_published(tmp_path / "nb-asr-e4-1234.pickle")
    assert (file.kind, file.header["seed"]) == ("training", 1234)
    assert file.columns == ["model_hash", "val_per", "test_per", "arch_vec"]
    expected = rows_of(some_vectors(), 1234)
    for row, (key, vals, test, vector) in zip(file.rows, expected, strict=True):
        assert row[0] == key and row[3] == vector
        assert [type(value) for value in [*row[1], row[2]]] == [float] * (EPOCHS + 1)
        # Single precision as it is printed: 0.21245933 and not 0.2124593257904052734375.
        assert row[1] == [float(str(value)) for value in vals]
        assert row[2] == float(test)


def calls(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return an object whose pickle calls a function when it is loaded."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return function, arguments

    return Hostile()


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "os.mkdir": lambda mark: calls(os.mkdir, str(mark)),
    "os.system": lambda mark: calls(os.system, f"mkdir {mark}"),
    "eval": lambda mark: calls(eval, f"__import__('os').mkdir({str(mark)!r})"),
    "getattr": lambda mark: calls(getattr, "text", "upper"),
    "a class": lambda mark: calls(type, "T", (), {}),
    "an instance": lambda mark: Path(mark),
    "numpy's loader": lambda mark: __import__("numpy").array([1.0, 2.0]),
}


@pytest.mark.parametrize("place", ["header", "rows", "value"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_pickle_is_refused_and_nothing_runs(
    tmp_path: Path, what: str, place: str
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "nb-asr-info.pickle"
    header: Any = {**HEADER, "dataset_type": "static", "columns": ["model_hash", "params"]}
    rows: Any = [[EXAMPLE_HASH, 1]]
    hostile = HOSTILE[what](mark)
    if place == "header":
        header = hostile
    elif place == "rows":
        rows = hostile
    else:
        rows = [[EXAMPLE_HASH, hostile]]
    dump_pair(path, header, rows)
    with pytest.raises(DataError, match="is not a pickle of plain data: refers to"):
        read_published(path)
    assert not mark.exists()


def test_the_hostile_pickles_above_do_run_where_pickle_loads_them(tmp_path: Path) -> None:
    for what in ("os.mkdir", "os.system", "eval"):
        mark = tmp_path / what.replace(".", "_")
        pickle.loads(pickle.dumps(HOSTILE[what](mark)))
        assert mark.is_dir()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",  # the oldest protocol
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",  # objects
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'f4'\ntR\x8e\x03\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x00tR.",
        b"cnumpy.core.multiarray\nscalar\n(}S'__defaults__'\nI1\nsb.",  # changes a stand-in
        b"cnumpy.core.multiarray\nscalar\n(N}S'__class__'\nI1\nstb.",
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"Pname\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension code
        b"",
        b"\x80\x09.",
        b"garbage",
        b"(" * 100_000,
    ],
)
def test_broken_and_unusual_pickles_are_our_errors(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "nb-asr-info.pickle"
    path.write_bytes(program)
    with pytest.raises(DataError, match="header: "):
        read_published(path)


def test_what_is_allowed_is_enough_for_numpys_numbers() -> None:
    """So that the allow-list is not longer than it has to be."""
    used = set()
    for protocol in (0, 2, 4):
        for opcode, argument, _ in pickletools.genops(
            pickle.dumps(rows_of(some_vectors(), 1), protocol)
        ):
            if opcode.name == "GLOBAL":
                used.add(tuple(str(argument).split(" ")))
    from nas_encoder.tabular.pickles import _STAND_INS

    assert {(m.replace("._core.", ".core."), n) for m, n in used} == {
        (m.replace("._core.", ".core."), n) for m, n in _STAND_INS
    }


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        ([], [], ["header: must be a dict, got list"]),
        ({"dataset_type": "train", "columns": []}, [], ["unknown kind 'train'", "2 to 64 entries"]),
        (
            {"dataset_type": "training", "columns": ["model_hash", "test_per", "val_per"]},
            {},
            ["must begin with", "header.seed: is missing", "rows: must be a list, got dict"],
        ),
        (
            {"dataset_type": "static", "columns": ["model_hash", "params"]},
            [["a", 1], ["b"], ["c", "7"], [3, 4]],
            ["rows[1]: must have 2 values", "rows[2]: holds values", "rows[3]: holds values"],
        ),
        (
            {
                "dataset_type": "training",
                "seed": 1,
                "columns": ["model_hash", "val_per", "test_per"],
            },
            [["a", [], 0.1], ["b", 0.1, 0.1]],
            ["rows[0]: holds values of other types", "rows[1]: holds values of other types"],
        ),
    ],
)
def test_files_laid_out_otherwise_are_refused(
    tmp_path: Path, header: Any, rows: Any, expected: list[str]
) -> None:
    path = tmp_path / "nb-asr-info.pickle"
    dump_pair(path, header, rows)
    with pytest.raises(DataError) as caught:
        read_published(path)
    assert len(caught.value.problems) == len(expected)
    for problem, text in zip(caught.value.problems, expected, strict=True):
        assert text in problem


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "nb-asr-e4-7.pickle"
    other = {**HEADER, "search_space": {"nodes": 4}, "dataset_type": "training", "seed": 1234}
    dump_pair(
        path,
        {**other, "epochs": EPOCHS, "columns": ["model_hash", "val_per", "test_per"]},
        [row[:3] for row in rows_of(some_vectors(), 7)] * 2,
    )
    with pytest.raises(DataError) as caught:
        load_published([folder / "nb-asr-e4-1234.pickle", path])
    text = str(caught.value)
    assert "different search spaces" in text
    assert "4 epochs, seed 1234 comes twice" in text
    assert "lists an architecture twice" in text
    dump_pair(
        path,
        {**HEADER, "search_space": {"ops": ["conv5", "linear"]}, "dataset_type": "static",
         "columns": ["model_hash", "params"]},
        [],
    )  # fmt: skip
    with pytest.raises(DataError, match="search_space.ops: must be"):
        load_published([path])
    with pytest.raises(DataError, match="holds none of the published files"):
        load_published(tmp_path / "..")
