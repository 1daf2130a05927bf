"""The recipes of AISHELL, LibriSpeech and TIMIT on ESPnet's programs, without running those."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_encoder import build_encoder, load_genotype
from nas_encoder.common.documents import write_yaml
from nas_encoder.errors import ConfigError, DataError, NasEncoderError
from nas_encoder.network.complexity import count_parameters
from tools.espnet_recipes import language_model as language_models
from tools.espnet_recipes.bpe import tokens, train
from tools.espnet_recipes.chunks import main as chunks
from tools.espnet_recipes.configs import choices, table, train_config
from tools.espnet_recipes.language_model import kenlm_tool, language_model, write_texts
from tools.espnet_recipes.lengths import main as lengths
from tools.espnet_recipes.results import Row, lines_on, page, parameters_of, rows, table_of, used_of
from tools.espnet_recipes.standalone import (
    averaged,
    choice_for,
    choice_of,
    choices_of,
    decoding_file,
    require_streaming,
    tiny,
    training_config,
    with_genotype,
)
from tools.experiments.recipe import PROFILES, read_options
from tools.experiments.searched import Source, given, read_genotype, searches
from tools.results.document import write_files
from tools.results.publish import main as main_of_publish

ROOT = Path(__file__).resolve().parents[2]
LM = {"lm_config": 1, "lm_stats": 1, "lm_shape": 2, "lm": 1}
JOBS = {
    "timit": {"data": 1, "tokens": 1, "training_config": 3, "stats": 2, "train": 3, "decode": 6},
    "aishell": {"data": 1, "search": 2, "training_config": 3, "train": 3, "decode": 6, **LM},
    "librispeech": {"data": 2, "tokens": 1, "stats": 2, "train": 2, "decode": 6},
}


def test_every_recipe_of_a_corpus_is_planned_here() -> None:
    found = {path.parent.parent.name for path in ROOT.glob("recipes/*/espnet/Snakefile")}
    assert found == {*JOBS, "mini"}


@pytest.mark.slow
@pytest.mark.parametrize("corpus", JOBS)
def test_the_plan_has_every_stage(corpus: str, tmp_path: Path) -> None:
    folder = ROOT / "recipes" / corpus / "espnet"
    options = read_options(folder, ["--tiny", "true", "--expdir", str(tmp_path / "two words")])
    options |= {"datadir": str(tmp_path / "data"), "downloads": str(tmp_path / "downloads")}
    (tmp_path / "two words").mkdir()
    write_yaml(tmp_path / "options.yaml", options, ConfigError)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", folder / "Snakefile"]
        + ["--directory", tmp_path / "two words", "--configfile", tmp_path / "options.yaml"]
        + ["--profile", PROFILES / "local", "--jobs", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
    expected = JOBS[corpus] | {"corpus": 1, "lengths": 2, "text_shape": 4, "results": 1, "all": 1}
    assert {rule: int(counts[rule]) for rule in expected} == expected


def test_a_training_gets_what_asr_sh_would_give() -> None:
    choice = choice_of("librispeech_100", "blocks")
    made = training_config(
        choice, Path("tokens.txt"), Path("stats.npz"), "bpe", Path("bpe.model"), True
    )
    same = train_config(choice)
    changed = {key: value for key, value in made.items() if same.get(key) != value}
    assert changed == {
        "token_type": "bpe",
        "token_list": "tokens.txt",
        "bpemodel": "bpe.model",
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "stats.npz"},
        # Two thirds of the utterances, half of them slower: as often as in three copies.
        "preprocessor_conf": {
            "fs": 16000,
            "data_aug_prob": 0.667,
            "data_aug_effects": [
                [0.5, "speed_perturb", {"factor": 0.9}],
                [0.5, "speed_perturb", {"factor": 1.1}],
            ],
        },
        "max_epoch": 210,
    }
    plain = training_config(choice, Path("t"), Path("s"), "char", None, False)
    assert plain["max_epoch"] == 70 and "preprocessor_conf" not in plain
    small = tiny(choice_of("timit", "blocks_interctc"), made)
    assert small["encoder_conf"]["interctc_layer_idx"] == [2] and small["max_epoch"] == 1
    with pytest.raises(ConfigError, match="must be of nas, .*; got 'nase'"):
        choice_of("timit", "nase")


def test_every_choice_has_a_decoding_and_a_checkpoint() -> None:
    for corpus in table()["corpora"]:
        for choice in choices(corpus):
            conf = ROOT / "recipes" / corpus / "espnet" / "conf"
            assert (conf / decoding_file(choice)).is_file()
            if choice.loss != "hybrid":
                assert (conf / decoding_file(choice, "greedy")).is_file()
            else:
                with pytest.raises(ConfigError, match="beam, lm, ngram, streaming for .*'greedy'"):
                    decoding_file(choice, "greedy")
            assert re.fullmatch(r"valid\.(acc|cer_ctc|loss)\.ave\.pth", averaged(choice))


def test_lengths_are_those_of_asr_sh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # asr.sh: int(seconds * 16000) < samples < int(seconds * 16000), and a text.
    durations = {"a": 0.1, "b": 0.1 + 1 / 16000, "c": 20 - 1 / 16000, "d": 20.0, "e": 3.0, "f": 2.0}
    utt2dur = "".join(f"{name} {seconds:.6f}\n" for name, seconds in durations.items())
    (tmp_path / "utt2dur").write_text(utt2dur)
    (tmp_path / "text").write_text("a x\nb y z\nc x\nd x\ne \nf x\u2028y\n")
    command = ["--folder", str(tmp_path), "--output", str(tmp_path / "new" / "train")]
    assert lengths([*command, "--least", "0.1", "--most", "20"]) == 0
    kept = (tmp_path / "new" / "train").read_text().splitlines()
    assert kept == ["b 0.100062", "c 19.999938", "f 2.000000"]
    assert capsys.readouterr().out == (
        "3 of 6 utterances; left out: 1 too short (a, ...), 1 too long (d, ...), "
        "1 without a text (e, ...)\n"
    )
    assert lengths([*command, "--least", "3", "--most", "3.5"]) == 1
    assert "none of 6 utterances has a text and 3 to 3.5 s" in capsys.readouterr().err
    (tmp_path / "utt2dur").write_text("a long\n")
    assert lengths([*command, "--least", "0.1", "--most", "20"]) == 1
    assert "a: must have a duration in seconds, got 'long'" in capsys.readouterr().err


def test_results_say_how_much_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = {"splits": {split: {"utterances": 3} for split in ("train", "dev", "test")}}
    assert used_of(prepared) == {"train": (3, 3), "dev": (3, 3)}
    Path("lengths").mkdir()
    Path("lengths", "train").write_text("a 1.0\nb 2.0\n")
    assert used_of(prepared) == {"train": (2, 3), "dev": (3, 3)}


def test_what_is_decoded_in_chunks_must_stream() -> None:
    for name in ("nas_streaming", "nas_streaming_ctc", "blocks"):
        require_streaming(train_config(choice_of("timit", name)))
    for name, reason in (
        ("conformer_ctc", "encoder: conformer takes whole utterances"),
        ("dfsmn_san", "attention_layers: 2, attention sees the whole utterance"),
    ):
        with pytest.raises(ConfigError, match=f"--decoding streaming: {reason}"):
            require_streaming(train_config(choice_of("timit", name)))


def test_utterances_as_short_as_a_chunk_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = ROOT / "recipes" / "timit" / "espnet" / "conf" / "decode_ctc_streaming.yaml"
    folders, out = [tmp_path / "dev", tmp_path / "test"], tmp_path / "out.json"
    for folder, durations in zip(folders, ("a 0.4", "b 0.32\nc 3.0\nd 0.1"), strict=True):
        folder.mkdir()
        (folder / "utt2dur").write_text(f"{durations}\n")
    words = [*map(str, folders), "--config", str(conf), "--output", str(out)]
    assert chunks([*words, "--options="]) == 1 and not out.exists()
    said = capsys.readouterr().err
    assert "test: b: has 5120 samples (0.320 s), and must have more than 5120" in said
    assert "test: d: has 1600 samples" in said and "would lose the audio" in said
    assert "c:" not in said and "dev" not in said
    assert chunks([*words, "--options=--ngpu 0 --sim_chunk_length 1599"]) == 0
    found = json.loads(out.read_text())
    assert found == {"chunk": 1599, "shortest": {str(folders[0]): 6400, str(folders[1]): 1600}}
    assert chunks([*words, "--options=--sim_chunk_length many"]) == 1
    assert "must be samples, 0 or more, got 'many'" in capsys.readouterr().err


def test_pieces_are_listed_between_espnets_symbols() -> None:
    pytest.importorskip("sentencepiece")
    texts = ["the quick brown fox", "a lazy dog runs", "the dog and the fox"] * 4
    listed = tokens(train(texts, 27))
    assert listed[:2] == ["<blank>", "<unk>"] and listed[-1] == "<sos/eos>"
    assert len(listed) == len(set(listed)) == 27
    assert not {"<s>", "</s>"} & set(listed)
    with pytest.raises(DataError, match="5000 pieces of 12 texts"):
        train(texts, 5000)


def test_results_have_the_form_of_espnets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ref").write_text("u1 sil ae t\nu2 b ih g sil\n")
    (tmp_path / "hyp").write_text("u1 sil ae d t\nu2 b eh g sil\n")
    words, letters = rows("blocks", "beam/test", tmp_path / "ref", tmp_path / "hyp")
    assert words == Row("blocks", "beam/test", "WER", 2, 7, 1, 0, 1, 2)
    assert letters.units == len("sil ae t") + len("b ih g sil")
    assert table_of([words]).splitlines() == [
        "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|",
        "|---|---|---|---|---|---|---|---|---|",
        "|beam/test|2|7|85.7|14.3|0.0|14.3|28.6|100.0|",
    ]
    about = {"blocks": ["Params: 9.17M", "Training: 1.0 CPU minutes"]}
    text = "\n".join(page("timit", ["A note."], [words, letters], about))
    assert "- Params: 9.17M\n- Training" in text and text.count("|beam/test|") == 2

    provenance = {"kind": "search", "strategy": "evolution", "seed": 1, "initial": "hourglass"}
    provenance |= {"data": "/mnt/train", "validation": {"token_error_rate": 5.04}}
    known = load_genotype("hourglass").renamed("blocks", **provenance)
    folder = tmp_path / "models" / "searched_blocks"
    folder.mkdir(parents=True)
    write_yaml(folder / "config.yaml", {"encoder_conf": {"genotype": known.to_dict()}}, ConfigError)
    monkeypatch.chdir(tmp_path)
    trained = {"cpu_seconds": 90.0, "wall_seconds": 120.0, "epochs": {"1": {}, "2": {}}}
    assert lines_on("searched_blocks", "blocks_ctc", trained, 9_170_000) == [
        f"ASR config: conf/train_asr_blocks_ctc.yaml with the genotype {known.hash} of the space "
        "blocks",
        "Params: 9.17M",
        "Genotype: blocks, strategy evolution, seed 1, validation error 5.0 %, the known encoder "
        "hourglass, which the search began with",
        "Training: 1.5 CPU minutes, 2.0 minutes by the clock; epochs: 2",
    ]

    state: dict[str, Any] = {"encoder.weight": torch.zeros(3, 4), "normalize.mean": torch.zeros(5)}
    state["encoder.norm.running_mean"] = torch.zeros(7)
    torch.save(state, tmp_path / "model.pth")
    assert parameters_of(tmp_path / "model.pth") == 12
    with pytest.raises(DataError, match="cannot be read"):
        parameters_of(tmp_path / "none.pth")


@pytest.mark.slow
def test_genotypes_are_trained_at_the_size_of_dfsmn_san() -> None:
    for name, about in (("hourglass", "blocks"), ("synth_pdarts", "nas")):
        genotype = load_genotype(name)
        choice = choice_for("timit", name == "hourglass", "ctc")
        assert choice.name == f"{about}_ctc"
        plain = train_config(choice)
        plain["encoder_conf"] |= {"layers": 8, "channels": 8}
        made = with_genotype(choice, plain, genotype, 500_000)
        options = made["encoder_conf"]
        with torch.device("meta"):
            network = build_encoder(**options, input_size=made["frontend_conf"]["n_mels"])
        assert count_parameters(network) == pytest.approx(500_000, rel=0.1)
        assert load_genotype(options["genotype"]).hash == genotype.hash
        same = {key: made[key] for key in made if key != "encoder_conf"}
        assert same == {key: plain[key] for key in plain if key != "encoder_conf"}
        own = with_genotype(choice, plain, genotype, None)["encoder_conf"]
        assert ("channels" in own) == (about == "nas")
    with pytest.raises(ConfigError, match="must not be a name of --encoders: blocks"):
        choices_of("timit", ["blocks"], ["blocks"])
    with pytest.raises(ConfigError, match="must name one, if neither"):
        choices_of("timit", [], [])


def test_language_models_are_those_of_espnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = language_model("librispeech", {"seed": 3}, False)
    assert found["lm_conf"]["layer"] == 16 and found["lm_conf"]["dropout_rate"] == 0.0
    assert (found["batch_bins"], found["optim_conf"], found["seed"]) == (
        500000000,
        {"lr": 0.005},
        3,
    )
    assert language_model("timit", {}, True)["lm_conf"]["layer"] == 1
    (tmp_path / "text").write_text("u1 A DOG\n")
    (tmp_path / "more").write_text("THE CAT\n\nA BIRD\n")
    write_texts(tmp_path / "text", tmp_path / "more", False, tmp_path / "lm" / "text")
    words = [line.split(" ", 1)[1] for line in (tmp_path / "lm" / "text").read_text().splitlines()]
    assert words == ["A DOG", "THE CAT", "A BIRD"]
    with pytest.raises(DataError, match="40,418,261|40418261"):
        write_texts(tmp_path / "text", tmp_path / "more", True, tmp_path / "whole" / "text")
    assert not (tmp_path / "whole" / "text").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="lmplz is not on the PATH.*github.com/kpu/kenlm"):
        kenlm_tool()
    (tmp_path / "lmplz").write_text("#!/bin/sh\n")
    (tmp_path / "lmplz").chmod(0o755)
    monkeypatch.setattr(language_models, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the module kenlm is not installed"):
        kenlm_tool()


@pytest.mark.slow
def test_a_recipe_says_once_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.experiments.recipe", "--decoding", "ngram", "--tiny", "true"]
        + ["--stage", "5", "--stop_stage", "5", "--expdir", str(tmp_path / "exp")],
        cwd=ROOT / "recipes" / "librispeech" / "espnet",
        env={**os.environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    wanted = "error: --decoding ngram: needs KenLM, but lmplz is not on the PATH"
    assert done.stderr.startswith(wanted)
    assert done.stderr.count("github.com/kpu/kenlm") == 1 and 'File "' not in done.stderr


def test_searches_and_genotypes_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{strategy: random, space: tdnn_chain, seeds: [4, 5]}\n")
    words = "--set batch.workers=0 blocks --set trials.count=9 --resume mine --json"
    configs = "cells=he2020_revised blocks=blocks mine=mine.yaml"
    found = searches("cells blocks mine", configs, words, tmp_path)
    assert [search.config for search in found.values()] == [
        "he2020_revised",
        "blocks",
        str(tmp_path / "mine.yaml"),
    ]
    cells, blocks, mine = found.values()
    assert cells.seed_options(1) == "--seeds 1 2 3" and blocks.seed_options(7) == "--seed 7"
    assert mine.seed_options(2) == "--seeds 2 3"
    assert (cells.options, mine.options) == (
        "--set batch.workers=0",
        "--set batch.workers=0 --json",
    )
    assert blocks.options == "--set batch.workers=0 --set trials.count=9 --resume"
    assert blocks.source == Source("search/blocks/genotype.yaml", True) and not cells.source.sized
    load_genotype("asrnet_b").save(tmp_path / "found.yaml")
    small = read_genotype("hourglass(width=64)")
    assert small.hash == load_genotype({"known": "hourglass", "width": 64}).hash
    assert given("a=asrnet_b b=found.yaml c=hourglass(width=64)", tmp_path) == {
        "a": Source("asrnet_b", False),
        "b": Source(str(tmp_path / "found.yaml"), False),
        "c": Source("hourglass(width=64)", True),
    }
    with pytest.raises(ConfigError, match="'searched_cells' is what --search calls its own"):
        given("searched_cells=asrnet_b", tmp_path, {"searched_cells": cells.source})
    for wrong, rule in (
        ("asrnet_b", "must be NAME=VALUE"),
        ("a=asrnet_b a=asrnet_a", "'a' is there twice"),
        ("a=missing.yaml", "missing.yaml"),
        ("a=hourglass(wide=64)", "wide"),
    ):
        with pytest.raises(NasEncoderError, match=rule):
            given(wrong, tmp_path)
    with pytest.raises(ConfigError, match="must be of cells, blocks, mine, .*; got 'cell'"):
        searches("cell", configs, "", tmp_path)
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    with pytest.raises(ConfigError, match="space: is missing"):
        searches("mine", configs, "", tmp_path)


def test_only_what_others_could_get_again_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, results = tmp_path / "timit", tmp_path / "timit" / "exp" / "results"
    results.mkdir(parents=True)
    origin = {"seed": 1, "commit": "34495c11503a", "machine": "2 cores", "command": "run.sh"}

    def published(tiny: bool = False, **changes: Any) -> int:
        known = {key: value for key, value in {**origin, **changes}.items() if value is not None}
        write_files(results, ["# timit"], known, {"origin": known, "tiny": tiny})
        return main_of_publish(["--recipe", str(recipe)])

    for changes, rule in (
        ({"tiny": True}, "run it without --tiny"),
        ({"commit": "34495c11503a-dirty"}, "34495c11503a-dirty says that files differed"),
        ({"commit": None}, "origin.commit: is missing"),
        ({"seed": None}, "origin.seed: is missing"),
        (
            {"command": "run.sh --expdir /tmp/exp"},
            "command.2: is a path of this machine, '/tmp/exp'",
        ),
    ):
        assert published(**changes) == 1
        assert rule in capsys.readouterr().err
    assert not (recipe / "RESULTS.md").exists()
    assert published() == 0
    assert "- seed: 1\n- commit: 34495c11503a" in (recipe / "RESULTS.md").read_text()
    assert (recipe / "results.json").read_bytes() == (results / "results.json").read_bytes()
    write_files(results, ["![it](results.png)"], origin, {"origin": origin, "tiny": False})
    assert main_of_publish(["--recipe", str(recipe)]) == 1
    assert "lacks results.png, which RESULTS.md shows" in capsys.readouterr().err
    (results / "results.png").write_text("it", encoding="utf-8")
    assert main_of_publish(["--recipe", str(recipe)]) == 0
    assert (recipe / "results.png").read_text(encoding="utf-8") == "it"
    (results / "results.json").unlink()
    assert main_of_publish(["--recipe", str(recipe)]) == 1
    assert "lacks results.json; run the recipe first" in capsys.readouterr().err
