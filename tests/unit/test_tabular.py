"""Tables: questions, SQLite."""

from __future__ import annotations

import random
import sqlite3
import statistics
from contextlib import closing
from pathlib import Path

import pytest
from nasbench_files import (
    DEVICES,
    EPOCHS,
    EXAMPLE,
    EXAMPLE_HASH,
    SEEDS,
    rows_of,
    some_vectors,
    write_published,
)

from nas_encoder.errors import DataError, GenotypeError
from nas_encoder.genotype import load_genotype
from nas_encoder.spaces.nasbench_asr.space import NASBENCH_ASR as SPACE
from nas_encoder.tabular import (
    Table,
    TableFile,
    Training,
    convert,
    load_published,
    load_table,
    model_hash,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nb-asr")
    write_published(path)
    return path


@pytest.fixture
def table(folder: Path) -> Table:
    return load_published(folder)


# -- questions ----------------------------------------------------------------------------------


def vals_of(seed: int) -> list[float]:
    """Return the example's validation errors, from the definition of the files."""
    return [float(str(value)) for value in rows_of(some_vectors(), seed)[0][1]]


def test_validation_errors_have_the_published_meaning(table: Table) -> None:
    vals = vals_of(1235)
    assert table.val_acc(EXAMPLE, seed=1235) == min(vals)
    assert table.val_acc(EXAMPLE, seed=1235, best=False) == vals[-1]
    for epoch in range(1, EPOCHS + 1):
        assert table.val_acc(EXAMPLE, epoch=epoch, seed=1235) == min(vals[:epoch])
        assert table.val_acc(EXAMPLE, epoch=epoch, best=False, seed=1235) == vals[epoch - 1]


def test_a_seed_is_drawn_where_none_is_named(table: Table) -> None:
    each = {min(vals_of(seed)) for seed in SEEDS}
    table.rng = random.Random(1)
    drawn = [table.val_acc(EXAMPLE) for _ in range(40)]
    assert set(drawn) == each
    table.rng = random.Random(1)
    assert [table.val_acc(EXAMPLE) for _ in range(40)] == drawn


def test_seeds_can_be_aggregated(table: Table) -> None:
    each = [min(vals_of(seed)) for seed in SEEDS]
    tests = [float(rows_of(some_vectors(), seed)[0][2]) for seed in SEEDS]
    assert table.val_acc(EXAMPLE, seed="mean") == pytest.approx(statistics.fmean(each), rel=1e-15)
    assert table.val_acc(EXAMPLE, seed="median") == statistics.median(each)
    assert table.val_acc(EXAMPLE, seed="min") == min(each)
    assert table.test_acc(EXAMPLE, seed="max") == max(tests)
    assert table.test_acc(EXAMPLE, seed=1236) == tests[2]


def test_latency_and_static_information(table: Table) -> None:
    first = rows_of(some_vectors(), 0, "benchmarking")[0][1]
    second = rows_of(some_vectors(), 1, "benchmarking")[0][1]
    _, params, flops = rows_of(some_vectors(), 9, "static")[0]
    assert table.latencies_of(EXAMPLE) == {DEVICES[0]: first, DEVICES[1]: second}
    assert table.info(EXAMPLE) == {"params": params, "flops": flops}
    assert (table.params(EXAMPLE), table.flops(EXAMPLE)) == (params, flops)


def test_vectors_genotypes_and_hashes_are_the_same_question(table: Table) -> None:
    genotype = SPACE.from_vector(EXAMPLE)
    assert model_hash(EXAMPLE) == model_hash(genotype) == model_hash(EXAMPLE_HASH) == EXAMPLE_HASH
    answers = {table.test_acc(form, seed=1234) for form in (EXAMPLE, genotype, EXAMPLE_HASH)}
    assert len(answers) == 1
    other = load_genotype("darts_v2")
    assert model_hash(other) == other.hash
    assert EXAMPLE in table and other not in table


@pytest.mark.parametrize("vector", [[1, 2], [[1, 0], 2, 3], 5, [["a"], [{}], [[]]]])
def test_what_is_no_vector_is_refused(vector: object) -> None:
    with pytest.raises(GenotypeError, match="vector"):
        model_hash(vector)  # type: ignore[arg-type]


def test_what_the_table_does_not_have(table: Table) -> None:
    absent = next(v for v in [[[0, 0], [0, 0, 0], [0, 0, 0, 0]]] if v not in table)
    for answer in (
        table.val_acc(absent),
        table.test_acc(absent),
        table.full_info(absent),
        table.latency(absent),
        table.latency(absent, DEVICES[0]),
        table.latencies_of(absent),
        table.info(absent),
        table.params(absent),
        table.flops(absent),
    ):
        assert answer is None
    for question, expected in (
        (lambda: table.val_acc(EXAMPLE, seed=7), "seed: must be one of"),
        (lambda: table.val_acc(EXAMPLE, seed="all"), "seed: a number or one of mean, median"),
        (lambda: table.val_acc(EXAMPLE, epoch=0), "epoch: must be in 1..4, got 0"),
        (lambda: table.val_acc(EXAMPLE, epoch=5), "epoch: must be in 1..4, got 5"),
        (lambda: table.test_acc(EXAMPLE, target=40), r"target: must be one of \[4\], got 40"),
        (lambda: table.latency(EXAMPLE, "tpu"), "no 'tpu' here; known: gtx-1080ti-fp32"),
        (lambda: table.genotype(EXAMPLE), "no genotype of"),
        (lambda: Table("nasbench_asr", {}).latency(EXAMPLE), "no latencies are recorded"),
        (lambda: Table("nasbench_asr", {}).info(EXAMPLE), "no static information"),
    ):
        with pytest.raises(DataError, match=expected):
            question()


def test_the_longest_target_is_the_default_and_ranking_is_by_validation() -> None:
    trainings = {
        (5, 1): {"a": Training((0.5,), 0.6), "b": Training((0.4,), 0.5)},
        (40, 1): {"a": Training((0.3, 0.2), 0.3), "b": Training((0.3, 0.4), 0.4)},
        (40, 2): {"a": Training((0.3, 0.1), 0.2), "b": Training((0.5, 0.45), 0.4)},
    }
    table = Table("any", trainings)
    assert table.targets == [5, 40] and table.seeds == [1, 2] and table.seeds_of(5) == [1]
    assert table.val_acc("a", seed=1) == 0.2 and table.val_acc("a", seed=1, target=5) == 0.5
    assert [key for key, _ in table.ranking()] == ["a", "b"]
    assert [key for key, _ in table.ranking(target=5)] == ["b", "a"]
    assert len(table) == 2


# -- SQLite -------------------------------------------------------------------------------------


def test_conversion_keeps_every_number(tmp_path: Path, folder: Path, table: Table) -> None:
    output = tmp_path / "table.sqlite"
    convert(folder, output)
    again = load_table(output)
    assert again.hashes() == table.hashes() or set(again.hashes()) == set(table.hashes())
    assert (again.space, again.targets, again.seeds) == ("nasbench_asr", [EPOCHS], list(SEEDS))
    for key in table.hashes():
        for seed in SEEDS:
            mine, theirs = (t.full_info(key, seed, None, True) for t in (again, table))
            assert mine == theirs and mine is not None
    assert [path.name for path in tmp_path.iterdir()] == ["table.sqlite"]
    with pytest.raises(DataError, match="already exists"):
        convert(folder, output)
    for nowhere, why in (("no_folder", "No such file or directory"), (output.name, "Not a dir")):
        with pytest.raises(DataError, match=f"cannot be written: {why}"):
            convert(folder, output.with_name(nowhere) / "table.sqlite")
    query = "SELECT MIN(val_per) FROM epochs WHERE model_hash = ? AND seed = 1235"
    with closing(sqlite3.connect(output)) as connection:
        assert connection.execute(query, (EXAMPLE_HASH,)).fetchone()[0] == min(vals_of(1235))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_table(tmp_path / "absent.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("no database at all, but long enough to look at " * 20, encoding="utf-8")
    with pytest.raises(DataError, match="is no table"):
        load_table(text)
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    with pytest.raises(DataError, match="is no table"):
        load_table(other)
    newer = tmp_path / "newer.sqlite"
    with TableFile(newer) as file:
        file.set_about(schema=2)
    with pytest.raises(DataError, match="schema: must be 1, got 2"):
        load_table(newer)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with TableFile(tmp_path / "table.sqlite") as file:
        file.add_trainings("a", 1, {1: Training((0.5,), 0.5)})
        with pytest.raises(TypeError):
            file.add_trainings(
                "b", 1, {1: Training((0.5,), 0.5), 2: Training((0.1,), 0.5, {"x": {1}})}
            )
        with pytest.raises(DataError):
            file.add_trainings("c", 1, {1: Training((0.5,), None)})  # type: ignore[arg-type]
        assert file.finished() == {("a", 1, 1)}
