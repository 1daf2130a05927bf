"""The questions of the published reader, against a plain one written from its documentation.

https://github.com/SamsungLabs/nb-asr, README and the documentation of ``Dataset``; where its code
does otherwise (``include_static_info=None`` adds nothing), as the code does.
"""

from __future__ import annotations

import itertools
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nasbench_files import (
    DEVICES,
    EPOCHS,
    EXAMPLE,
    EXAMPLE_HASH,
    HEADER,
    SEEDS,
    dump_pair,
    rows_of,
    some_vectors,
    write_published,
)

from nas_encoder.errors import DataError
from nas_encoder.spaces.nasbench_asr.architecture import OPERATIONS, Vector, all_vectors
from nas_encoder.spaces.nasbench_asr.space import NASBENCH_ASR as SPACE
from nas_encoder.tabular import Table, convert, from_folder, load_published, load_table

ABSENT = [[0, 0], [0, 0, 0], [0, 0, 0, 0]]


def plain(value: Any) -> Any:
    """Return numbers as Python's own, single precision with its digits."""
    if isinstance(value, np.float32):
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


class Plain:
    """Looks up rows of the files as they are."""

    def __init__(self, folder: Path) -> None:
        self.training, self.bench = {}, {}
        for path in folder.iterdir():
            with path.open("rb") as file:
                header, rows = pickle.load(file), pickle.load(file)
            found = {key: plain(rest) for key, *rest in rows}
            if header["dataset_type"] == "training":
                self.training[header["seed"]] = found
            elif header["dataset_type"] == "benchmarking":
                self.bench[header["device"]] = found
            else:
                self.static = found

    def full(self, key: str, seed: int, devices: list[str], static: bool) -> dict[str, Any]:
        val, test, vector = self.training[seed][key]
        found = {"val_per": val, "test_per": test, "arch_vec": vector}
        found |= {"model_hash": key, "seed": seed}
        found |= {name: {"latency": self.bench[name][key][0]} for name in devices}
        if static:
            found["info"] = dict(zip(("params", "flops"), self.static[key], strict=True))
        return found

    def row(self, key: str, seed: int, devices: list[str], static: bool) -> list[Any]:
        row = [key, *self.training[seed][key], seed, *(self.bench[name][key] for name in devices)]
        return [*row, self.static[key]] if static else row


def graph_of(vector: Vector) -> tuple[Any, list[str]]:
    """Return the adjacency matrix and the labels of a vector without 'zero'."""
    matrix = np.zeros((5, 5))
    for node, (_, *bits) in enumerate(vector, 1):
        matrix[node - 1, node] = 1
        for source, bit in enumerate(bits):
            if bit:
                matrix[source, node + 1] = 1
    matrix[3, 4] = 1
    return matrix, ["input", *(OPERATIONS[op] for op, *_ in vector), "output"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nb-asr")
    write_published(path)
    return path


@pytest.fixture(params=["pickles", "sqlite"])
def table(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Table:
    if request.param == "pickles":
        return load_table(folder)
    convert(folder, tmp_path / "table.sqlite")
    return load_table(tmp_path / "table.sqlite")


def test_everything_of_every_architecture(table: Table, folder: Path) -> None:
    reader = Plain(folder)
    asked = [None, *DEVICES, list(DEVICES), list(DEVICES[::-1]), False]
    for vector, seed, devices, static in itertools.product(
        some_vectors(), SEEDS, asked, (None, True, False)
    ):
        names = list(DEVICES) if devices is None else [devices] if devices else []
        names = devices if isinstance(devices, list) else names
        key = SPACE.from_vector(vector).architecture.graph_hash
        how: dict[str, Any] = {"devices": devices, "include_static_info": static}
        found = table.full_info(vector, seed=seed, **how)
        expected = reader.full(key, seed, names, bool(static))
        assert found == expected and list(found) == list(expected)
        row = table.full_info(vector, seed, return_dict=False, **how)
        assert row == reader.row(key, seed, names, bool(static))
        if all(op != len(OPERATIONS) - 1 for op, *_ in vector):
            graph = graph_of(vector)
            assert table.full_info_by_graph(graph, seed, **how) == expected
            assert table.full_info_by_graph((graph, None), seed, **how, return_dict=False) == row


def test_single_questions(table: Table, folder: Path) -> None:
    reader = Plain(folder)
    for vector, seed in itertools.product(some_vectors(), SEEDS):
        key = SPACE.from_vector(vector).architecture.graph_hash
        val, test, _ = reader.training[seed][key]
        assert table.test_acc(vector, seed) == test
        for epoch in (None, *range(1, EPOCHS + 1)):
            assert table.val_acc(vector, epoch, seed=seed) == min(val[:epoch])
            last = val[(epoch or len(val)) - 1]
            assert table.val_acc(vector, epoch, best=False, seed=seed) == last
        params, flops = reader.static[key]
        assert (table.params(vector), table.flops(vector)) == (params, flops)
        both = {name: {"latency": reader.bench[name][key][0]} for name in DEVICES}
        assert table.latency(vector) == [reader.bench[name][key] for name in DEVICES]
        assert table.latency(vector, return_dict=True) == both
        for name in DEVICES:
            for devices in (name, [name]):
                assert table.latency(vector, devices) == [reader.bench[name][key]]
                assert table.latency(vector, devices, return_dict=True) == {name: both[name]}
        assert table.bench_info is not None and table.static_info is not None
        assert table.bench_info.latency(vector, devices=DEVICES[1]) == [reader.bench[name][key]]
        assert table.static_info.params(vector) == params
        assert table.static_info.flops(vector) == flops
        assert vector in table and vector in table.bench_info and vector in table.static_info


def test_what_the_files_say_of_themselves(table: Table) -> None:
    space = HEADER["search_space"]
    for part in (table, table.bench_info, table.static_info):
        assert part is not None
        assert (part.version, part.nodes) == (2, 3)
        assert (part.search_space, part.ops) == (space["shape"], space["ops"])
    assert table.columns == ["model_hash", "val_per", "test_per", "arch_vec"]
    assert (table.epochs, table.seeds) == (EPOCHS, list(SEEDS))
    assert table.bench_info is not None and table.static_info is not None
    assert table.bench_info.columns == ["model_hash", "latency"]
    assert table.bench_info.devices == list(DEVICES)
    assert table.static_info.columns == ["model_hash", "params", "flops"]


def test_a_table_of_ones_own_says_so_too() -> None:
    own = Table("nasbench_asr", {})
    assert (own.search_space, own.nodes) == (HEADER["search_space"]["shape"], 3)
    assert own.ops == list(OPERATIONS)
    assert own.bench_info is None and own.static_info is None
    chain = Table("tdnn_chain", {})
    assert len(chain.search_space) > 1 and len(chain.ops) > 1
    with pytest.raises(DataError, match="nodes: the space 'tdnn_chain' has no such number"):
        _ = chain.nodes
    with pytest.raises(DataError, match="graph: the space 'tdnn_chain' has no published graphs"):
        chain.full_info_by_graph(graph_of(some_vectors()[0]))


def test_what_is_not_there(table: Table) -> None:
    assert ABSENT not in table
    for answer in (
        table.full_info(ABSENT),
        table.full_info(ABSENT, return_dict=False, include_static_info=True),
        table.full_info_by_graph(graph_of(tuple(map(tuple, ABSENT)))),
        table.latency(ABSENT),
        table.latency(ABSENT, [DEVICES[0]], return_dict=True),
        table.params(ABSENT),
        table.flops(ABSENT),
    ):
        assert answer is None
    bare = Table("nasbench_asr", table.trainings)
    assert "info" not in bare.full_info(EXAMPLE, 1234)
    few = Table("nasbench_asr", table.trainings, static={EXAMPLE_HASH: {"params": 1}})
    for question, expected in (
        (lambda: table.latency(EXAMPLE, ["tpu", DEVICES[0]]), "no 'tpu' here; known: gtx-1080ti"),
        (lambda: table.full_info(EXAMPLE, devices="tpu"), "no 'tpu' here"),
        (lambda: table.full_info(EXAMPLE, seed=7), "seed: must be one of"),
        (lambda: bare.full_info(EXAMPLE, devices="tpu"), "no latencies are recorded"),
        (lambda: bare.full_info(EXAMPLE, include_static_info=True), "no static information"),
        (lambda: bare.flops(EXAMPLE), "no static information"),
        (lambda: few.flops(EXAMPLE), "flops: is not recorded; known without training: params"),
        (lambda: table.full_info_by_graph(EXAMPLE), "must be .square adjacency matrix, labels"),
        (lambda: table.full_info_by_graph((np.eye(2), ["input", "conv3"])), "conv3"),
    ):
        with pytest.raises(DataError, match=expected) as caught:
            question()
        assert isinstance(caught.value, ValueError)  # what scripts expect


def test_graphs_have_the_published_hash() -> None:
    """Of all 5 ** 3 * 64 cells without 'zero', whose graphs are complete."""
    vectors = [v for v in all_vectors() if all(op != len(OPERATIONS) - 1 for op, *_ in v)]
    assert len(vectors) == 5**3 * 2**6
    for vector in vectors[::37]:
        own = SPACE.from_vector(vector).architecture.graph_hash
        assert SPACE.key_of_graph(graph_of(vector)) == own
    assert SPACE.key_of_graph(graph_of(tuple(map(tuple, EXAMPLE)))) == EXAMPLE_HASH
    # What 'zero' leaves of a cell: the input, node 2, node 3 and the output in a row.
    left = SPACE.from_vector([[5, 1], [0, 0, 0], [1, 0, 0, 0]]).architecture.graph_hash
    graph = np.eye(4, k=1), ["input", "linear", "conv5", "output"]
    assert SPACE.key_of_graph(graph) == left
    nothing = SPACE.from_vector([[5, 0], [5, 0, 0], [5, 0, 0, 0]]).architecture.graph_hash
    assert SPACE.key_of_graph((np.zeros((0, 0)), [])) == nothing


# -- some of the files ----------------------------------------------------------------------------


def test_a_folder_can_be_read_in_part(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "all")
    header = {**HEADER, "dataset_type": "training", "epochs": 40, "seed": 1234}
    header["columns"] = ["model_hash", "val_per", "test_per", "arch_vec"]
    dump_pair(tmp_path / "all" / "nb-asr-e40-1234.pickle", header, rows_of(some_vectors(), 5))
    full = from_folder(tmp_path / "all")
    assert (full.targets, full.seeds, full.devices) == ([40], [1234], list(DEVICES))
    assert full.static_info is None
    short = from_folder(tmp_path / "all", max_epochs=EPOCHS, include_static_info=True)
    assert (short.targets, short.seeds) == ([EPOCHS], list(SEEDS))
    assert short.static_info is not None
    for seeds in (1235, [1235, 99]):
        assert from_folder(tmp_path / "all", EPOCHS, seeds).seeds == [1235]
    assert from_folder(tmp_path / "all", devices=False).devices == []
    for devices in (DEVICES[1], [DEVICES[1], "tpu"]):
        assert from_folder(tmp_path / "all", devices=devices).devices == [DEVICES[1]]
    with pytest.raises(DataError, match=r"no training nb-asr-e9-SEED.pickle"):
        from_folder(tmp_path / "all", max_epochs=9)
    with pytest.raises(DataError, match="is not a folder"):
        from_folder(tmp_path / "none")


def test_files_of_different_architectures_are_refused_unless_asked_for(tmp_path: Path) -> None:
    write_published(tmp_path)
    header = {**HEADER, "dataset_type": "training", "epochs": EPOCHS, "seed": 1236}
    header["columns"] = ["model_hash", "val_per", "test_per", "arch_vec"]
    short = tmp_path / f"nb-asr-e{EPOCHS}-1236.pickle"
    dump_pair(short, header, rows_of(some_vectors(7), 1236))
    with pytest.raises(DataError, match="seed 1236: 7 architectures that are not the 12 of seed"):
        from_folder(tmp_path, EPOCHS)
    assert len(from_folder(tmp_path, EPOCHS, validate_data=False)) == 12
    assert len(load_published(tmp_path)) == 12
