"""The NeMo recipes of AISHELL, LibriSpeech and TIMIT, as far as they need no NeMo."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from nas_encoder import load_genotype
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.interchange.files import Archive, load_tensors, write_tar
from nas_encoder.nemo.options import build_network
from nas_encoder.nemo.rnnt_loss import NAME
from nas_encoder.network.complexity import count_parameters
from tools.espnet_recipes.configs import table as espnet_table
from tools.experiments.recipe import PROFILES, read_options
from tools.nemo_recipes import average, configs, training, write
from tools.nemo_recipes.configs import choice_of, choices, loss_name, table
from tools.nemo_recipes.genotypes import choices_with, with_genotype
from tools.nemo_recipes.manifests import manifest_of, read_manifest, take
from tools.nemo_recipes.results import rows_of, table_of
from tools.nemo_recipes.training import Options, training_config

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {path.parent.parent.name: path.parent for path in ROOT.glob("recipes/*/nemo/Snakefile")}
CORPORA = sorted(set(FOLDERS) - {"mini"})
# What --tiny plans with a genotype more: data for each test set; a head of a hybrid decodes by
# itself.
JOBS = {
    "aishell": {"data": 1, "training_config": 3, "train": 3, "average": 3, "decode": 3},
    "librispeech": {"data": 2, "training_config": 3, "train": 3, "average": 3, "decode": 4},
    "timit": {"data": 1, "training_config": 2, "train": 2, "average": 2, "decode": 2},
}


@pytest.mark.slow
def test_what_is_shipped_is_what_the_table_says() -> None:
    assert write.stale() == []
    assert set(CORPORA) == set(JOBS) == {name.partition("_")[0] for name in table()["corpora"]}
    for corpus in table()["corpora"]:
        lengths = espnet_table()["corpora"][corpus]["config"]
        for choice in choices(corpus):
            config = read_yaml(ROOT / choice.file, ConfigError)
            trainer, batch = config["trainer"], config["model"]["train_ds"]["batch_size"]
            # As many epochs as in ESPnet, and every encoder sees as many utterances in an update.
            assert trainer["max_epochs"] == lengths["max_epoch"]
            update = trainer["accumulate_grad_batches"] * batch
            assert update == table()["corpora"][corpus]["update"]
            tokens = {"labels": "model.labels", "tokenizer": "model.tokenizer.dir"}
            (given,) = (name for key, name in tokens.items() if key in config["model"])
            whole = OmegaConf.create(config)
            if given == "model.labels":
                OmegaConf.update(whole, given, ["a"], merge=False)
                given = ""
            data = {f"model.{part}.manifest_filepath" for part in ("train_ds", "validation_ds")}
            assert OmegaConf.missing_keys(whole) == data | ({given} if given else set())
            OmegaConf.to_container(whole, resolve=True)  # every name leads somewhere


def test_defaults_and_tiny_runs_name_encoders_that_there_are() -> None:
    for corpus in CORPORA:
        recipe = read_yaml(FOLDERS[corpus] / "recipe.yaml", ConfigError)
        assert len(recipe["stages"]) == 7
        for part in (recipe["options"], recipe["tiny"]):
            for name in part["encoders"].split():
                choice_of(corpus, name)
    with pytest.raises(ConfigError, match=r"must be of nas_ctc, .*; got 'nas'"):
        choice_of("timit", "nas")


@pytest.mark.slow
@pytest.mark.parametrize("corpus", CORPORA)
def test_every_stage_is_planned(corpus: str, tmp_path: Path) -> None:
    folder, expdir = FOLDERS[corpus], tmp_path / "two words"
    write_yaml(tmp_path / "found.yaml", load_genotype("synth_pdarts").to_dict())
    arguments = ["--tiny", "true", "--genotype", f"mine={tmp_path / 'found.yaml'}"]
    options = read_options(folder, [*arguments, "--expdir", str(expdir)])
    options |= {"datadir": str(tmp_path / "data"), "downloads": str(tmp_path / "downloads")}
    expdir.mkdir()
    write_yaml(tmp_path / "options.yaml", options, ConfigError)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", folder / "Snakefile"]
        + ["--directory", expdir, "--configfile", tmp_path / "options.yaml"]
        + ["--profile", PROFILES / "local", "--jobs", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
    expected = JOBS[corpus] | {"corpus": 1, "tokens": 1, "results": 1, "all": 1}
    assert {rule: int(counts[rule]) for rule in expected} == expected


def tokens_of(folder: Path, characters: str) -> Path:
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{one}\n" for one in characters))
    return folder


def manifest(path: Path, *rows: tuple[str, float]) -> Path:
    lines = [
        {"utt_id": f"u{n}", "audio_filepath": f"u{n}.wav", "duration": seconds, "text": text}
        for n, (text, seconds) in enumerate(rows)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_a_training_gets_the_recipes_options(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "tokens", "不 T")
    paths = Path("train.json"), Path("dev.json"), tokens
    choice = choice_of("aishell", "nas_hybrid")
    made = training_config(choice, Options("char", speed=True, ngpu=2, seed=7), *paths)
    model, trainer = made["model"], made["trainer"]
    assert made["target"] == "EncDecHybridRNNTCTCModel" and made["seed"] == 7
    assert model["labels"] == ["不", " ", "T"] and model["aux_ctc"]["use_cer"]
    assert model["train_ds"]["labels"] == model["aux_ctc"]["decoder"]["vocabulary"]
    # Each of three speeds a third of the time, for three times as many epochs.
    speed = model["train_ds"]["augmentor"]["speed"]
    assert speed["prob"] == 1.0 and speed["num_rates"] == 3 and trainer["max_epochs"] == 180
    assert (trainer["accelerator"], trainer["devices"]) == ("gpu", 2)
    plain = training_config(choice_of("aishell", "nas_ctc"), Options("bpe"), *paths)
    assert plain["target"] == "EncDecCTCModelBPE" and plain["trainer"]["max_epochs"] == 60
    assert plain["model"]["tokenizer"] == {"dir": str(tokens), "type": "bpe"}
    assert plain["trainer"]["accelerator"] == "cpu"
    assert not {"labels", "use_cer", "loss"} & set(plain["model"])
    assert "augmentor" not in plain["model"]["train_ds"]
    small = training_config(choice, Options("char", tiny=True), *paths)
    assert small["model"]["encoder"]["layers"] == 4 and small["trainer"]["max_epochs"] == 1


@pytest.mark.slow
def test_genotypes_take_the_place_of_encoders(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "tokens", "ab ")
    paths = Path("train.json"), Path("dev.json"), tokens
    found = choices_with("timit", ["nas_ctc"], {"cells": False, "mine": True}, "rnnt")
    assert [choice.name for choice in found.values()] == ["nas_ctc", "nas_rnnt", "blocks_rnnt"]
    for name, genotype in (("cells", "synth_pdarts"), ("mine", {"known": "hourglass"})):
        config = training_config(found[name], Options("char"), *paths)
        made = with_genotype(config, load_genotype(genotype), 3_000_000)["model"]["encoder"]
        assert made["_target_"] == "nas_encoder.nemo.NASEncoder" and "output_size" not in made
        assert made["genotype"]["name"] == load_genotype(genotype).name
        options = {k: v for k, v in made.items() if k not in ("_target_", "feat_in")}
        bins = config["model"]["preprocessor"]["features"]
        network, warnings = build_network("nas", {**options, "feat_in": bins})
        assert not warnings and network.output_size == made["d_model"]
        assert count_parameters(network) == pytest.approx(3_000_000, rel=0.1)
    with pytest.raises(ConfigError, match="must not be a name of --encoders: nas_ctc"):
        choices_with("timit", ["nas_ctc"], {"nas_ctc": True}, "ctc")
    with pytest.raises(ConfigError, match="must name one"):
        choices_with("timit", [], {}, "ctc")


def test_losses_are_refused_where_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, expected in ((False, "default"), (True, "warp_rnnt")):
        monkeypatch.setattr(configs, "find_spec", lambda _, found=installed: found or None)
        assert loss_name("auto", 0) == "default" and loss_name("auto", 1) == expected
    assert loss_name("warp_rnnt", 1) == "warp_rnnt" == NAME
    with pytest.raises(ConfigError, match="runs on GPUs only"):
        loss_name("warp_rnnt", 0)
    with pytest.raises(ConfigError, match="must be of auto"):
        loss_name("tdt", 1)
    monkeypatch.setattr(configs, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="is not installed"):
        loss_name("warp_rnnt", 1)


def test_texts_too_long_for_ctc_are_counted_and_refused(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path / "tokens", "ab ")
    # At 40 ms an output and the fastest speed, 0.44 s are 10 outputs; aa needs a blank between.
    rows = [("ab" * 5, 0.441), ("ab" * 5 + "b", 0.441), ("a" * 6, 0.441), ("a", 0.05), ("b", 20.0)]
    path = manifest(tmp_path / "train.json", *rows)
    choice, options = choice_of("aishell", "blocks_ctc"), Options("char", speed=True, tiny=True)
    other = manifest(tmp_path / "dev.json", ("ab c", 1.0))
    config = training_config(choice, options, path, other, tokens)
    found, known = read_manifest(path), training.known_tokens(config, tokens)
    assert training.infeasible(config, found, known, speed=True) == 2
    assert training.left_out(config, found) == 2
    with pytest.raises(DataError, match="2 of 5 texts have more tokens than the encoder"):
        training.check(choice, config, options, tokens)
    transducer = choice_of("aishell", "blocks_rnnt")
    assert training.check(transducer, config, options, tokens) == [
        "2 of 5 training utterances are left out: too long or too short",
        "1 of 4 tokens of development texts are unknown",
    ]
    for corpus, outputs in (("timit", [3, 3, 4]), ("aishell", [2, 2, 2])):
        fast = training_config(choice_of(corpus, "fastconformer_ctc"), options, path, path, tokens)
        assert training.output_frames(fast["model"]["encoder"], 80, [10, 12, 13]) == outputs


def nemo_folder(folder: Path, part: str, texts: dict[str, str]) -> Path:
    """Write a manifest as NeMo's scripts for LibriSpeech and AISHELL write it."""
    folder.mkdir(exist_ok=True)
    with manifest_of(folder, part).open("w", encoding="utf-8") as lines:
        for name, text in texts.items():
            audio = folder / f"{name}.wav"
            soundfile.write(audio, np.zeros(8000), 16000)
            row = {"audio_filepath": str(audio), "duration": 0.5, "text": text}
            lines.write(json.dumps(row) + "\n")
    return folder


def test_manifests_of_nemos_scripts_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "nemo"
    nemo_folder(folder, "train-clean-100", {"84-1-0001": "a quick fox", "84-1-0002": "lazy dogs"})
    nemo_folder(folder, "dev-clean", {"1272-1-0000": "mister quilter"})
    nemo_folder(folder, "dev-other", {"116-1-0000": "as i approached"})
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "dev_clean.json",
        "dev_other.json",
        "train_clean_100.json",
    ]
    splits = {"train": ["train-clean-100"], "dev": ["dev-clean", "dev-other"]}
    prepared = take("librispeech", folder, splits, tmp_path / "out", partial=True)
    assert prepared["source"] == "partial"
    assert prepared["parts"]["train-clean-100"]["utterances"] == 2
    train, dev = (read_manifest(tmp_path / "out" / f"{name}.json") for name in splits)
    assert [row["text"] for row in dev] == ["mister quilter", "as i approached"]
    assert train[0]["utt_id"] == "84-1-0001" and train[0]["duration"] == 0.5
    assert train[0]["audio_filepath"] == str(folder / "84-1-0001.wav")
    whole = "train-clean-100: expected 28539 utterances, found 2.*say so with --data_args"
    with pytest.raises(DataError, match="(?s)" + whole):
        take("librispeech", folder, splits, tmp_path / "other", partial=False)
    assert not (tmp_path / "other").exists()
    hanzi = nemo_folder(tmp_path / "data_aishell", "train", {"BAC009S0002W0122": "而对楼市"})
    take("aishell", hanzi, {"train": ["train"]}, tmp_path / "zh", partial=True)
    assert read_manifest(tmp_path / "zh" / "train.json")[0]["text"] == "而对楼市"


def test_manifests_that_cannot_be_transcribed_are_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path / "test.json", ("a", 1.0))
    row = json.loads(path.read_text()) | {"offset": 0.5}
    path.write_text(json.dumps(row | {"offset": 0}) + "\n" + json.dumps(row) + "\n{}\n")
    with pytest.raises(DataError, match="(?s)line 2: 'offset' must be 0.*line 3: has no audio"):
        read_manifest(path)
    path.write_text("")
    with pytest.raises(DataError, match="holds no utterance"):
        read_manifest(path)


def test_checkpoints_are_averaged_as_nemos_script_does(tmp_path: Path) -> None:
    states: list[dict[str, Any]] = [
        {"a": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)},
        {"a": torch.tensor([2.0, 4.0]), "n": torch.tensor(4)},
        {"a": torch.tensor([6.0, 3.0]), "n": torch.tensor(6)},
    ]
    for number, state in enumerate(states):
        torch.save({"state_dict": state, "optimizer_states": [1]}, tmp_path / f"m-{number}.ckpt")
    torch.save({"state_dict": states[0]}, tmp_path / "m-0-last.ckpt")
    found = average.checkpoints(tmp_path)
    assert [path.name for path in found] == ["m-0.ckpt", "m-1.ckpt", "m-2.ckpt"]
    weights = tmp_path / "weights"
    torch.save(states[2], weights)
    files = {"./model_config.yaml": b"a: 1", "./model_weights.ckpt": weights.read_bytes()}
    write_tar(tmp_path / "m.nemo", files)
    assert average.main(["--model", str(tmp_path / "m.nemo"), "--output", str(tmp_path / "o")]) == 0
    archive = Archive(tmp_path / "o")
    assert archive.read("model_config.yaml") == b"a: 1"
    state = load_tensors(archive.read("model_weights.ckpt"), "weights")
    assert state["a"].tolist() == [3.0, 3.0] and state["n"] == 6
    with pytest.raises(CheckpointError, match="hold different weights: b"):
        average.average([states[0], states[1] | {"b": torch.zeros(1)}])
    with pytest.raises(CheckpointError, match="has other weights than its checkpoints: b"):
        average.averaged_model(tmp_path / "m.nemo", [state | {"b": torch.zeros(1)}])
    (tmp_path / "m-2.ckpt-unfinished").touch()
    with pytest.raises(CheckpointError, match="was not written to its end"):
        average.checkpoints(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        average.checkpoints(tmp_path / "empty")


def decoded(folder: Path, rates: dict[str, float], *texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text").write_text("".join(f"u{n} {text}\n" for n, text in enumerate(texts)))
    (folder / "nemo.json").write_text(json.dumps({"rates": rates}))
    return folder


def test_errors_are_counted_in_the_units_of_the_corpus(tmp_path: Path) -> None:
    path = manifest(tmp_path / "test.json", ("sil ax t vcl d", 1.0), ("b ih", 1.0))
    # ax is ah of the 39 phones, vcl and sil are one; ah and eh are different.
    folder = decoded(tmp_path / "a", {"timit39": 1 / 7}, "sil ah t sil d", "b eh")
    [(row, rate)] = rows_of("nas_ctc", "ctc_greedy/test", folder, path, "phone")
    assert (row.unit, row.units, row.substitutions, row.wrong) == ("PER", 7, 1, 1)
    assert rate == 1 / 7
    assert table_of([(row, rate)]).splitlines()[-1] == (
        "|ctc_greedy/test|2|7|85.7|14.3|0.0|0.0|14.3|50.0|14.3|"
    )
    folder = decoded(tmp_path / "b", {"word": 3 / 7, "char": 0.0}, "sil ah t sil d", "b eh")
    [(row, rate)] = rows_of("nas_ctc", "ctc_greedy/test", folder, path, "syllable")
    assert (row.unit, row.substitutions, rate) == ("SER", 3, 3 / 7)
    with pytest.raises(DataError, match="NeMo counts 0.000000 errors for each char"):
        rows_of("nas_ctc", "ctc_greedy/test", folder, path, "char")
