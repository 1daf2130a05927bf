"""Building tables: training, scoring, resuming after a kill, shards."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
import torch
from data_samples import timit
from preloaded import fork
from search_samples import tone_corpus
from tabular_samples import QUICK, config, numbers

from nas_encoder.cli.main import main
from nas_encoder.data import PrepareOptions, prepare_corpus
from nas_encoder.errors import CheckpointError, DataError, GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces import get_space
from nas_encoder.tabular import Table, TableFile, load_table
from nas_encoder.tabular.build import TableBuilder
from nas_encoder.tabular.config import load_table_config
from nas_encoder.tabular.contents import model_hash
from nas_encoder.tabular.merge import merge_tables


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tones")
    return {
        "train": tone_corpus(root / "train", 12),
        "valid": tone_corpus(root / "valid", 4, seed=1),
        "test": tone_corpus(root / "test", 4, seed=2),
    }


@pytest.fixture(scope="module")
def whole(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that was built without a stop."""
    output = tmp_path_factory.mktemp("whole") / "table.sqlite"
    TableBuilder(config(), **data, output=output).run()
    return output


def test_a_table_holds_everything(whole: Path) -> None:
    table = load_table(whole)
    assert (table.space, len(table)) == ("nasbench_asr", 3)
    assert table.targets == [1, 2] and table.seeds == [3, 4]
    assert table.hashes() != [] and len(numbers(table)) == 3 * 2 * 2
    for key in table.hashes():
        found = table.full_info(key, seed=3, include_static_info=True)
        assert found is not None
        assert len(found["val_per"]) == 2
        assert all(0 <= value <= 2 for value in [*found["val_per"], found["test_per"]])
        short = table.full_info(key, seed=3, target=1)
        assert short is not None and short["val_per"] == found["val_per"][:1]
        assert found["seconds"] > 0 and "thread" in found["device"]
        genotype = table.genotype(key)
        assert genotype.architecture.graph_hash == key
        encoder = build_encoder(genotype, input_size=12, **QUICK["network"])
        tokens = len(table.about["tokens"])
        assert found["info"]["params"] == count_parameters(encoder) + 13 * tokens
        assert found["info"]["macs"] > 0
        assert all(found[device]["latency"] > 0 for device in table.devices)
        assert len(table.devices) == 1
    assert table.about["environment"]["torch"] == torch.__version__
    assert not list(whole.parent.glob("*.ckpt")) and not list(whole.parent.glob("*.lock"))
    values = {value for value, _ in numbers(table).values()}
    assert len(values) > 6  # seeds and architectures make a difference


def test_networks_of_different_frame_rates_are_trained_on_the_same_data(
    data: dict[str, Path], tmp_path: Path
) -> None:
    """Those of 4 and of 16 frames per output frame, which cannot place every transcript."""
    space = get_space("blocks")
    small = [0] * len(space.bounds)
    coarse = list(small)
    names = list(space.kinds)
    fronts, schedules = space.table["front end"], space.table["schedule"]
    coarse[names.index("front end")] = [front.factor for front in fronts].index(8)
    coarse[names.index("schedule")] = [own[-1] for own in schedules].index(2)
    files = []
    for name, vector in (("small", small), ("coarse", coarse)):
        files.append(tmp_path / f"{name}.yaml")
        space.decode(vector).save(files[-1])
    changes = {"space": "blocks", "network": {"dropout": 0.0}}
    listed = {"kind": "list", "genotypes": [str(path) for path in files]}
    recipe = {**QUICK["recipe"], "seeds": [3], "epochs": [1]}
    chosen = config(**changes, architectures=listed, recipe=recipe)
    TableBuilder(chosen, **data, output=tmp_path / "table.sqlite").run()
    table = load_table(tmp_path / "table.sqlite")
    assert len(table) == 2
    for key in table.hashes():
        found = table.full_info(key, seed=3)
        assert found is not None and "diverged_in_epoch" not in found


def test_a_finished_table_is_not_built_again(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="already exists; add --resume"):
        TableBuilder(config(), **data, output=whole).run()
    before = whole.read_bytes()
    TableBuilder(config(), **data, output=whole, resume=True).run()
    assert whole.read_bytes() == before
    with TableFile(whole) as file:  # as an earlier version would have written it
        about = file.about()["config"]
        older = {**about, "architectures": {"kind": "sample", "count": 3, "seed": 2}}
        file.set_about(config=older)
        TableBuilder(config(), **data, output=whole, resume=True).run()
        file.set_about(config=about)
    other = config(recipe={**QUICK["recipe"], "lr": 0.02})
    with pytest.raises(CheckpointError) as caught:
        TableBuilder(other, **data, output=whole, resume=True).run()
    assert caught.value.problems == ("config.recipe.lr: was 0.01, now 0.02",)
    with pytest.raises(CheckpointError, match=r"shard: was \[1, 1\], now \[1, 2\]"):
        TableBuilder(config(), **data, output=whole, shard=(1, 2), resume=True).run()
    foreign = tmp_path / "foreign.sqlite"  # as 'table convert' leaves it
    with TableFile(foreign) as file:
        file.add_table(Table("nasbench_asr", load_table(whole).trainings))
    before = foreign.read_bytes()
    with pytest.raises(CheckpointError, match="its trainings were not made by this command"):
        TableBuilder(config(), **data, output=foreign, resume=True).run()
    assert foreign.read_bytes() == before


def test_a_genotype_is_added_to_a_finished_table(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    """What was there stays as it is, bit for bit; what is there already is not trained again."""
    output = tmp_path / "more.sqlite"
    shutil.copy(whole, output)
    present = load_table(whole).hashes()[0]
    load_table(whole).genotype(present).save(tmp_path / "known.yaml")
    space = get_space("nasbench_asr")
    new = next(
        g
        for g in map(space.decode, ([0] * 9, [1] * 9))
        if model_hash(g) not in load_table(whole).hashes()
    )
    new.save(tmp_path / "new.yaml")
    paths = [tmp_path / "known.yaml", tmp_path / "new.yaml", tmp_path / "new.yaml"]
    TableBuilder(config(), **data, output=output, resume=True, added=paths).run()
    before, after = load_table(whole), load_table(output)
    assert set(after.hashes()) == {*before.hashes(), model_hash(new)}
    assert {k: v for k, v in numbers(after).items() if k in numbers(before)} == numbers(before)
    assert len(numbers(after)) == 4 * 2 * 2 and after.about["architectures"] == 4
    # Where each comes from, also of one that was there.
    added = after.about["added"]
    assert [origin["key"] for origin in added] == [present, model_hash(new)]
    assert [Path(origin["name"]).stem for origin in added] == ["known", "new"]
    once = output.read_bytes()
    TableBuilder(config(), **data, output=output, resume=True, added=paths).run()
    assert output.read_bytes() == once
    found = after.full_info(model_hash(new), seed=3)
    assert found is not None and len(found["val_per"]) == 2
    get_space("darts").sample(random.Random(0)).save(tmp_path / "other.yaml")
    with pytest.raises(GenotypeError, match="must be 'nasbench_asr', got 'darts'"):
        TableBuilder(config(), **data, output=output, resume=True, added=[tmp_path / "other.yaml"])


@pytest.mark.slow
def test_shards_merge_into_the_same_table(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    parts: list[str | Path] = [tmp_path / f"part{part}.sqlite" for part in (1, 2)]
    for part, path in enumerate(parts, 1):
        TableBuilder(config(), **data, output=path, shard=(part, 2)).run()
    sizes = [len(load_table(part)) for part in parts]
    assert sizes == [2, 1]
    merge_tables(parts, tmp_path / "all.sqlite")
    merged = load_table(tmp_path / "all.sqlite")
    assert numbers(merged) == numbers(load_table(whole))
    assert set(merged.static) == set(load_table(whole).static)
    with pytest.raises(DataError, match="already exists"):
        merge_tables(parts, tmp_path / "all.sqlite")
    other = tmp_path / "other.sqlite"
    few = config(architectures={"count": 1, "seed": 2}, recipe={**QUICK["recipe"], "seeds": [3]})
    TableBuilder(few, **data, output=other).run()
    with pytest.raises(DataError, match=r"config.recipe.seeds: was \[3\], now \[3, 4\]"):
        merge_tables([parts[0], other], tmp_path / "mixed.sqlite")


def build(root: str, output: str, resume: bool) -> None:
    """Build the table; for processes that are killed."""
    folder = Path(root)
    data = {name: folder / name for name in ("train", "valid", "test")}
    TableBuilder(config(), **data, output=output, resume=resume, checkpoint_seconds=0.0).run()


@pytest.mark.slow
def test_a_killed_build_goes_on_to_the_same_numbers(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    root = data["train"].parent
    output = tmp_path / "table.sqlite"
    checkpoint = output.with_name("table.sqlite.ckpt")
    process = fork("test_tabular_build:build", str(root), str(output), False)
    # Killed while a training is under way: some are finished, one has a checkpoint.
    deadline = time.monotonic() + 120
    seen: set[bytes] = set()
    while time.monotonic() < deadline and len(seen) < 4 and process.is_alive():
        if checkpoint.is_file():
            seen.add(checkpoint.read_bytes())
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = len(numbers(load_table(output)))
    assert before < 12
    build(str(root), str(output), resume=True)
    assert numbers(load_table(output)) == numbers(load_table(whole))
    assert not checkpoint.exists()


def test_two_processes_do_not_build_one_file(data: dict[str, Path], tmp_path: Path) -> None:
    import fcntl

    output = tmp_path / "table.sqlite"
    with open(tmp_path / "table.sqlite.lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="is in use by another process"):
            TableBuilder(config(), **data, output=output).run()


def test_data_that_changed_under_a_table(
    whole: Path, data: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "table.sqlite"
    shutil.copyfile(whole, output)
    changed = shutil.copytree(data["valid"], tmp_path / "valid") / "text"
    lines = changed.read_text().splitlines()
    texts = [line.split(maxsplit=1)[1] for line in lines]
    moved = zip([line.split()[0] for line in lines], texts[1:] + texts[:1], strict=True)
    changed.write_text("".join(f"{key} {text}\n" for key, text in moved))
    before = output.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        TableBuilder(
            config(), **{**data, "valid": changed.parent}, output=output, resume=True
        ).run()
    assert caught.value.subject == f"cannot go on with {output}, its data have changed"
    first = lines[0].split()[0]
    assert caught.value.problems[0] == f"valid: 4 of 4 texts differ, first: {first}"
    assert "begin anew" in caught.value.problems[-1] and output.read_bytes() == before
    # A table of an earlier version, which recorded no data, goes on, with a word.
    with sqlite3.connect(output) as connection:
        connection.execute("DELETE FROM about WHERE key = 'sets'")
        connection.execute("DROP TABLE utterances")
    connection.close()
    TableBuilder(config(), **data, output=output, resume=True).run()
    assert "that they are the same is not checked" in caplog.text


def test_a_table_whose_start_failed_is_begun_anew(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "table.sqlite"
    output.touch()  # as a full disk leaves it
    with monkeypatch.context() as patch:
        patch.setattr(TableBuilder, "_train", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            TableBuilder(config(), **data, output=output).run()
    other = config(recipe={**QUICK["recipe"], "epochs": [1], "seeds": [0]})
    TableBuilder(other, **data, output=output).run()
    assert load_table(output).targets == [1]
    output.write_bytes(b"no table")
    with pytest.raises(DataError, match="is no table"):
        TableBuilder(other, **data, output=output).run()
    assert output.read_bytes() == b"no table"


@pytest.mark.slow
@pytest.mark.parametrize("space", ["tdnn_chain", "asr_revised"])
def test_tables_of_other_spaces(space: str, data: dict[str, Path], tmp_path: Path) -> None:
    other = config(
        space=space,
        architectures={"count": 1},
        network={"channels": 2, "layers": 3, "output_size": 4},
        recipe={**QUICK["recipe"], "epochs": [1], "seeds": [0], "warm_up": []},
    )
    TableBuilder(other, **data, output=tmp_path / "t.sqlite").run()
    table = load_table(tmp_path / "t.sqlite")
    (key,) = table.hashes()
    assert table.genotype(key).hash == key and table.genotype(key).space == space
    assert table.val_acc(key, seed=0) is not None


def test_a_training_that_diverges_is_recorded_as_that(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = config(
        architectures={"count": 1}, recipe={**QUICK["recipe"], "seeds": [0], "warm_up": []}
    )
    build = TableBuilder._encoder

    def broken(self: TableBuilder, genotype: Genotype) -> torch.nn.Module:
        encoder = build(self, genotype)
        torch.nn.init.constant_(next(encoder.parameters()), float("inf"))
        return encoder

    builder = TableBuilder(bad, **data, output=tmp_path / "t.sqlite")
    monkeypatch.setattr(TableBuilder, "_encoder", broken)
    builder.run()
    table = load_table(tmp_path / "t.sqlite")
    found = table.full_info(table.hashes()[0], seed=0)
    assert found is not None
    assert found["diverged_in_epoch"] == 1
    assert found["val_per"] == [1.0, 1.0] and found["test_per"] == 1.0


@pytest.mark.slow
def test_training_learns_the_tones(data: dict[str, Path], tmp_path: Path) -> None:
    errors = []
    for lr, epochs in ((0.0, 1), (0.005, 20)):
        one = config(
            architectures={"count": 1, "seed": 1},
            network={"channels": 24, "output_size": 48, "block_cells": [0, 0, 0, 1]},
            recipe={"epochs": [epochs], "seeds": [0], "lr": lr, "batch": 3, "warm_up": []},
            beam=1,
        )
        TableBuilder(one, **data, output=tmp_path / f"{epochs}.sqlite").run()
        table = load_table(tmp_path / f"{epochs}.sqlite")
        errors.append(table.test_acc(table.hashes()[0], seed=0))
    untrained, trained = errors
    assert untrained is not None and trained is not None
    assert trained < 0.3 < 0.7 < untrained


@pytest.mark.slow
def test_the_timit_recipe_runs_on_its_layout(tmp_path: Path) -> None:
    """Everything of the paper's recipe but its size: 48 phones counted as 39, beam 12, warm-up."""
    prepare_corpus(
        "timit", timit(tmp_path / "TIMIT"), tmp_path / "data", PrepareOptions(partial=True)
    )
    small = [
        "architectures={kind: sample, count: 1}",
        "network={channels: 6, lstm_size: 4, output_size: 4, dropout: 0.2}",
        "recipe.epochs=[1, 2]",
    ]
    recipe = load_table_config("nasbench_asr_timit", small)
    cuts = {name: tmp_path / "data" / "lhotse" / part / "cuts.jsonl.gz"
            for name, part in (("train", "train"), ("valid", "dev"), ("test", "test"))}  # fmt: skip
    TableBuilder(recipe, **cuts, output=tmp_path / "t.sqlite").run()
    table = load_table(tmp_path / "t.sqlite")
    assert table.seeds == [1234, 1235, 1236] and table.targets == [1, 2]
    # The transcripts have the closure and the folded vowel; scoring counts sil and ih.
    assert {"vcl", "ix", "sil"} <= set(table.about["tokens"])
    assert all(training.val for rows in table.trainings.values() for training in rows.values())


def test_the_command_line(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = load_table(whole)
    best, error = next(table.ranking())
    assert main(["table", "show", str(whole), "--top", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["architectures"] == 3 and len(document["best"]) == 2
    assert document["best"][0]["model_hash"] == best
    assert main(["table", "show", str(whole)]) == 0
    assert f"{best}" in capsys.readouterr().out
    vector = json.dumps(table.genotype(best).architecture.vector)
    for form in (best, vector):
        assert main(["table", "query", str(whole), form, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["val_per"] == error
    assert main(["table", "query", str(whole), "nasbench_asr_example"]) == 2
    assert "it has no architecture 36855332" in capsys.readouterr().err
    assert main(["table", "query", str(whole), "[[1,0]"]) == 2
    with pytest.raises(SystemExit):
        main(["table", "build", "--shard", "3/2"])
    assert "must be I/N" in capsys.readouterr().err
