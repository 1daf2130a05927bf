"""The recipes of AISHELL, LibriSpeech and TIMIT on ESPnet's programs, without running those."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_encoder.common.documents import write_yaml
from nas_encoder.errors import ConfigError, DataError
from tools.espnet_recipes.bpe import tokens, train
from tools.espnet_recipes.configs import choices, table, train_config
from tools.espnet_recipes.results import Row, page, parameters_of, rows, table_of
from tools.espnet_recipes.standalone import averaged, choice_of, decoding, tiny, training_config
from tools.experiments.recipe import PROFILES, read_options

ROOT = Path(__file__).resolve().parents[2]
JOBS = {
    "timit": {"data": 1, "tokens": 1, "training_config": 2, "stats": 2, "train": 2, "decode": 4},
    "aishell": {"data": 1, "tokens": 1, "training_config": 2, "stats": 2, "train": 2, "decode": 4},
    "librispeech": {"data": 2, "tokens": 1, "stats": 2, "train": 2, "decode": 6},
}


def test_every_recipe_of_a_corpus_is_planned_here() -> None:
    found = {path.parent.parent.name for path in ROOT.glob("recipes/*/espnet/Snakefile")}
    assert found == {*JOBS, "mini"}


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
    expected = JOBS[corpus] | {"corpus": 1, "text_shape": 4, "results": 1, "all": 1}
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
            assert (conf / decoding(choice)).is_file()
            if choice.loss != "hybrid":
                assert (conf / decoding(choice, "greedy")).is_file()
            assert re.fullmatch(r"valid\.(acc|cer_ctc|loss)\.ave\.pth", averaged(choice))


def test_pieces_are_listed_between_espnets_symbols() -> None:
    pytest.importorskip("sentencepiece")
    texts = ["the quick brown fox", "a lazy dog runs", "the dog and the fox"] * 4
    listed = tokens(train(texts, 27))
    assert listed[:2] == ["<blank>", "<unk>"] and listed[-1] == "<sos/eos>"
    assert len(listed) == len(set(listed)) == 27
    assert not {"<s>", "</s>"} & set(listed)
    with pytest.raises(DataError, match="5000 pieces of 12 texts"):
        train(texts, 5000)


def test_results_have_the_form_of_espnets(tmp_path: Path) -> None:
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
    text = "\n".join(page("timit", ["A note."], [words, letters], {"blocks": 9_170_000}))
    assert "- Params: 9.17M" in text and text.count("|beam/test|") == 2

    state: dict[str, Any] = {"encoder.weight": torch.zeros(3, 4), "normalize.mean": torch.zeros(5)}
    state["encoder.norm.running_mean"] = torch.zeros(7)
    torch.save(state, tmp_path / "model.pth")
    assert parameters_of(tmp_path / "model.pth") == 12
    with pytest.raises(DataError, match="cannot be read"):
        parameters_of(tmp_path / "none.pth")
