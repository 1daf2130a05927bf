"""Building tables: training, scoring, resuming after a kill, shards."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from data_samples import timit
from search_samples import tone_corpus

from nas_encoder.cli.main import main
from nas_encoder.data import prepare_corpus
from nas_encoder.data.phones import TIMIT_48_TO_39, fold
from nas_encoder.errors import CheckpointError, ConfigError, DataError, GenotypeError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_parameters
from nas_encoder.network.nasbench_config import PUBLISHED
from nas_encoder.resources import conf_root, list_configs
from nas_encoder.search.tabular import Table, TableFile, list_tables, load_table
from nas_encoder.search.tabular.build import TableBuilder, choose_architectures
from nas_encoder.search.tabular.config import Recipe, TableConfig, load_table_config
from nas_encoder.search.tabular.decoding import greedy, prefix_beam
from nas_encoder.search.tabular.merge import merge_tables
from nas_encoder.search.tabular.table import model_hash
from nas_encoder.search.tabular.training import rate
from nas_encoder.spaces import get_space

QUICK: dict[str, Any] = {
    "name": "quick",
    "architectures": {"count": 3, "seed": 2},
    "network": {"channels": 6, "output_size": 12, "block_cells": [0, 0, 0, 1], "dropout": 0.1},
    "features": {"num_mel_bins": 12},
    "tokens": "char",
    "beam": 2,
    "recipe": {
        "epochs": [1, 2],
        "seeds": [3, 4],
        "batch": 4,
        "lr": 0.01,
        "warm_up": [1.0, 0.1],
        "l2": 0.0001,
    },
    "latency": {"frames": 40, "repeats": 2},
    "device": "cpu",
}


def config(**changes: Any) -> TableConfig:
    return TableConfig.from_dict({**QUICK, **changes})


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


def numbers(table: Table) -> dict[Any, Any]:
    """Return what must not depend on when, where and in how many parts a table was built."""
    return {
        (group, key): (training.val, training.test)
        for group, rows in table.trainings.items()
        for key, training in rows.items()
    }


# -- building -----------------------------------------------------------------------------------


def test_a_table_holds_everything(whole: Path) -> None:
    table = load_table(whole)
    assert (table.space, len(table)) == ("nasbench_asr", 3)
    assert table.targets == [1, 2] and table.seeds() == [3, 4]
    assert table.hashes() != [] and len(numbers(table)) == 3 * 2 * 2
    for key in table.hashes():
        found = table.full_info(key, seed=3)
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
        assert all(seconds > 0 for seconds in found["latency"].values())
    assert table.about["environment"]["torch"] == torch.__version__
    assert not list(whole.parent.glob("*.ckpt")) and not list(whole.parent.glob("*.lock"))
    values = {value for value, _ in numbers(table).values()}
    assert len(values) > 6  # seeds and architectures make a difference


def test_a_finished_table_is_not_built_again(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="is there already; add --resume"):
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
    found = after.full_info(model_hash(new), seed=3)
    assert found is not None and len(found["val_per"]) == 2
    get_space("darts").sample(random.Random(0)).save(tmp_path / "other.yaml")
    with pytest.raises(GenotypeError, match="must be 'nasbench_asr', got 'darts'"):
        TableBuilder(config(), **data, output=output, resume=True, added=[tmp_path / "other.yaml"])


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
    with pytest.raises(DataError, match="is there already"):
        merge_tables(parts, tmp_path / "all.sqlite")
    other = tmp_path / "other.sqlite"
    few = config(architectures={"count": 1, "seed": 2}, recipe={**QUICK["recipe"], "seeds": [3]})
    TableBuilder(few, **data, output=other).run()
    with pytest.raises(DataError, match=r"config.recipe.seeds: was \[3\], now \[3, 4\]"):
        merge_tables([parts[0], other], tmp_path / "mixed.sqlite")


SCRIPT = """
import sys
from pathlib import Path
from nas_encoder.search.tabular.build import TableBuilder
from nas_encoder.search.tabular.config import load_table_config
root, output, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"
TableBuilder(load_table_config(root / "quick.yaml"), root / "train", root / "valid",
             root / "test", output, resume=resume, checkpoint_seconds=0.0).run()
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_to_the_same_numbers(
    whole: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    root = data["train"].parent
    (root / "quick.yaml").write_text(json.dumps(QUICK), encoding="utf-8")
    output = tmp_path / "table.sqlite"
    checkpoint = output.with_name("table.sqlite.ckpt")
    command = [sys.executable, "-c", SCRIPT, str(root), str(output)]
    process = subprocess.Popen([*command, "new"], stderr=subprocess.DEVNULL)
    # Killed while a training is under way: some are finished, one has a checkpoint.
    deadline = time.monotonic() + 120
    seen: set[bytes] = set()
    while time.monotonic() < deadline and len(seen) < 4 and process.poll() is None:
        if checkpoint.is_file():
            seen.add(checkpoint.read_bytes())
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = len(numbers(load_table(output)))
    assert before < 12
    subprocess.run([*command, "resume"], check=True, stderr=subprocess.DEVNULL)
    assert numbers(load_table(output)) == numbers(load_table(whole))
    assert not checkpoint.exists()


def test_two_processes_do_not_build_one_file(data: dict[str, Path], tmp_path: Path) -> None:
    import fcntl

    output = tmp_path / "table.sqlite"
    with open(tmp_path / "table.sqlite.lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process is building it"):
            TableBuilder(config(), **data, output=output).run()


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


def test_the_timit_recipe_runs_on_its_layout(tmp_path: Path) -> None:
    """Everything of the paper's recipe but its size: 48 phones counted as 39, beam 12, warm-up."""
    prepare_corpus("timit", timit(tmp_path / "TIMIT"), tmp_path / "data")
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
    assert table.seeds() == [1234, 1235, 1236] and table.targets == [1, 2]
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


# -- parts --------------------------------------------------------------------------------------


def test_the_rate_falls_from_the_fifth_epoch_on() -> None:
    recipe = Recipe()
    rates = [rate(recipe, epoch) for epoch in (-1, 0, 1, 5, 6, 7, 40)]
    assert rates[:4] == [1e-4] * 4
    assert rates[4:] == pytest.approx([0.9e-4, 0.81e-4, 1e-4 * 0.9**35])


def test_48_phones_fold_to_39() -> None:
    from lhotse.recipes.timit import get_phonemes

    phones = sorted(set(get_phonemes(48).values()) - {""})
    assert len(phones) == 48
    assert len(set(fold(phones, TIMIT_48_TO_39))) == 39
    # lhotse's own 39 are the same ones, made from the 60 at once.
    direct, via = get_phonemes(39), get_phonemes(48)
    for phone, one in via.items():
        if one:
            assert fold([one], TIMIT_48_TO_39) == [direct[phone]], phone


def sum_over_paths(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Return each sequence's probability, by all paths."""
    frames, tokens = log_probs.shape
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(tokens), repeat=frames):
        p = math.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path)))
        key = tuple(token for token, _ in itertools.groupby(path) if token)
        total[key] = total.get(key, 0.0) + p
    return total


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_beam_finds_the_most_probable_sequence(seed: int) -> None:
    torch.manual_seed(seed)
    log_probs = (2 * torch.randn(5, 3, dtype=torch.float64)).log_softmax(1)
    total = sum_over_paths(log_probs)
    assert prefix_beam(log_probs, 500) == list(max(total, key=lambda key: total[key]))


def test_a_beam_adds_paths_up_and_greedy_decoding_does_not() -> None:
    log_probs = torch.tensor([[0.4, 0.3, 0.3], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    assert greedy(log_probs) == []
    assert prefix_beam(log_probs, 12) == [1]
    repeated = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.1, 0.9]]).log()
    assert greedy(repeated) == prefix_beam(repeated, 4) == [1, 1]
    assert greedy(torch.zeros(0, 3)) == prefix_beam(torch.zeros(0, 3), 4) == []


def test_architectures_are_different_and_always_the_same() -> None:
    chosen = choose_architectures(config(architectures={"count": 200, "seed": 5}))
    assert len({genotype.architecture.graph_hash for genotype in chosen}) == 200
    assert chosen == choose_architectures(config(architectures={"count": 200, "seed": 5}))
    assert len(choose_architectures(config(architectures={"kind": "all"}))) == 8242
    with pytest.raises(ConfigError, match="too large to be listed"):
        choose_architectures(config(space="darts", architectures={"kind": "all"}))
    with pytest.raises(ConfigError, match="5000 different ones were not found"):
        choose_architectures(config(space="tdnn_chain", architectures={"count": 5000}))


def test_architectures_can_be_listed_by_name(tmp_path: Path) -> None:
    other = choose_architectures(config(architectures={"count": 1}))[0]
    other.save(tmp_path / "other.yaml")
    names = ["nasbench_asr_example", str(tmp_path / "other.yaml"), "nasbench_asr_example"]
    chosen = choose_architectures(config(architectures={"kind": "list", "genotypes": names}))
    assert [genotype.hash for genotype in chosen] == [
        load_genotype("nasbench_asr_example").hash, other.hash
    ]  # fmt: skip
    with pytest.raises(GenotypeError, match="space: must be 'nasbench_asr', got 'darts'"):
        choose_architectures(config(architectures={"kind": "list", "genotypes": ["darts_v2"]}))
    for wrong in ({"kind": "list"}, {"kind": "all", "genotypes": ["darts_v2"]}):
        with pytest.raises(ConfigError, match="architectures.genotypes: belongs to the kind"):
            config(architectures=wrong)


def test_everything_wrong_in_a_configuration_is_named() -> None:
    document = {
        "name": "",
        "space": "darst",
        "colour": 1,
        "architectures": {"kind": "some", "count": 0},
        "network": {"input_size": 80},
        "features": {"num_mel_bins": 2},
        "folding": "timit",
        "beam": 0,
        "recipe": {"epochs": [10, 5], "seeds": [], "lr": "fast", "warm_up": [0], "steps": 3},
        "latency": {"repeats": 0},
    }
    with pytest.raises(ConfigError) as caught:
        TableConfig.from_dict(document)
    starts = [
        "colour:", "recipe.steps:", "name:", "space: unknown search space 'darst'", "folding:",
        "beam:", "network.input_size:", "architectures.kind:", "architectures.count:",
        "features.num_mel_bins:", "latency.repeats:", "recipe.seeds:", "recipe.lr:",
        "recipe.warm_up[0]:",
    ]  # fmt: skip
    assert len(caught.value.problems) == len(starts)
    for start in starts:
        assert any(problem.startswith(start) for problem in caught.value.problems), start
    with pytest.raises(ConfigError, match="recipe.epochs: must ascend"):
        config(recipe={"epochs": [10, 5]})
    with pytest.raises(ConfigError, match="lstm: unknown key"):
        bad = config(network={"lstm": 3})
        TableBuilder(bad, "train", "valid", "test", "out.sqlite")


def test_shipped_configurations_are_whole() -> None:
    names = list_configs("table")
    assert {"nasbench_asr_timit", "synth_timit"} <= set(names)
    for name in names:
        assert load_table_config(name).name == name
    paper = load_table_config("nasbench_asr_timit")
    assert paper.recipe == Recipe(l2=0.01)
    assert (paper.beam, paper.folding, paper.features.num_mel_bins) == (12, "timit39", 80)
    options = {**paper.network, "input_size": paper.features.num_mel_bins}
    assert options == PUBLISHED
    assert all((conf_root() / "table" / f"{name}.sqlite").is_file() for name in list_tables())


def test_the_shipped_table_is_what_its_configuration_makes() -> None:
    table = load_table("synth_timit")
    settings = load_table_config("synth_timit")
    assert table.about["config"] == settings.to_dict()
    assert "synthetic" in table.about["note"]
    assert not table.about["environment"]["commit"].endswith("-dirty")
    chosen = choose_architectures(settings)
    assert {genotype.architecture.graph_hash for genotype in chosen} == set(table.hashes())
    assert table.targets == [4, 10] and table.seeds() == [1234, 1235]
    assert len(numbers(table)) == 30 * 2 * 2
    for genotype in chosen:
        encoder: Any = build_encoder(genotype, input_size=24, **settings.network)
        output = (encoder.output_size + 1) * len(table.about["tokens"])
        assert table.params(genotype) == count_parameters(encoder) + output
        assert table.genotype(genotype).architecture == genotype.architecture
        (seconds,) = table.latency(genotype).values()  # type: ignore[union-attr]
        assert 1e-5 < seconds < 0.1
    errors = [table.val_acc(genotype, seed="mean") for genotype in chosen]
    assert len(set(errors)) > 25 and 0.2 < min(errors) < 0.5 < max(errors) <= 1.1  # type: ignore[type-var, operator]
