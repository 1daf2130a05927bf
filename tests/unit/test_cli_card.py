"""``nas-encoder card``: what it says about models of both toolkits, without either."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from interchange_samples import CELLS, espnet_folder

from nas_encoder import build_encoder
from nas_encoder.cli.main import build_parser, main
from nas_encoder.interchange.card import WHEEL
from nas_encoder.nemo.catalog import SHIPPED
from nas_encoder.network.complexity import count_parameters


def card(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Any], str]:
    """Return a card's metadata and its text."""
    assert main(["card", *map(str, words), "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    _, metadata, _ = text.split("---\n", 2)
    return yaml.safe_load(metadata), text


def size_of(text: str) -> int:
    (found,) = re.findall(r"parameters of the model: ([\d,]+)", text)
    return int(found.replace(",", ""))


def test_card_of_an_espnet_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = espnet_folder(tmp_path / "exp", seed=2020)
    (folder / "RESULTS.md").write_text("# RESULTS\n\n| set | CER |\n", encoding="utf-8")
    metadata, text = card(capsys, folder, "--language", "en", "zh", "--datasets", "a/b", "c")
    assert metadata["language"] == ["en", "zh"] and metadata["datasets"] == ["a/b", "c"]
    assert metadata["tags"][0] == metadata["library_name"] == "espnet" and "license" not in metadata
    network = build_encoder("darts_v2", input_size=10, output_size=6, **CELLS)
    encoder = count_parameters(network)
    assert f"parameters of the encoder: {encoder:,}" in text
    # With the CTC layer and what there is of a decoder.
    assert f"parameters of the model: {encoder + 6 * 6 + 6 + 16:,}" in text
    assert "10 features every 10 ms at 16000 Hz" in text and "### RESULTS" in text
    assert "\n# exp\n" in text and "nonsense" not in text
    assert "Speech2Text('exp/config.yaml', 'exp/valid.acc.ave.pth')" in text
    assert "- seed: 2020\n" in text
    assert "training: dump/raw/train/wav.scp" in text and "--encoder nas_encoder`" in text


def test_how_to_decode_follows_from_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = espnet_folder(tmp_path / "exp", decoder=None, model_conf={"ctc_weight": 1.0})
    _, text = card(capsys, folder, "--repo", "me/x", "--no-timing")
    assert "from_pretrained('me/x', ctc_weight=1.0, lm_weight=0.0, beam_size=1)" in text
    assert "other weights decode nonsense" in text and "model(speech)[0][0])" in text
    config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
    # Two things that a conversion refuses or that need a fence of their own.
    config["encoder_conf"] |= {"interctc_layer_idx": [3], "interctc_use_conditioning": True}
    config["token_list"] = ["<blank>", "`", "```", "<space>", "A", "<sos/eos>"]
    weights = folder / "valid.acc.ave.pth"
    state = torch.load(weights, weights_only=True)
    torch.save(state | {"encoder.conditioning_layer.weight": torch.ones(6, 6)}, weights)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["convert", str(folder), str(tmp_path / "x.nemo")]) == 2
    assert "interctc_use_conditioning" in capsys.readouterr().err
    before = size_of(text)
    _, text = card(capsys, folder, "--no-timing")
    assert "model(speech)[0][0][0])" in text
    assert size_of(text) == before + 36
    block = text.partition("````yaml\n")[2].partition("\n````\n")[0]
    assert yaml.safe_load(block) == config


def test_card_of_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = espnet_folder(tmp_path / "exp", "dfsmn_san", encoder="nas_encoder.dfsmn_san")
    results = tmp_path / "mine.md"
    results.write_text("CER 3 %\n", encoding="utf-8")
    _, text = card(capsys, folder / "valid.acc.ave.pth", "--results", results)
    assert "encoder: dfsmn_san" in text and "genotype: none (a baseline)" in text
    assert "## Genotype" not in text and "## Results\n\nCER 3 %" in text
    assert "real-time factor of the encoder: 0." in text


def test_card_of_a_nemo_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SHIPPED / "synth_ctc_char.nemo", tmp_path / "mine.nemo")
    words = ["--license", "apache-2.0", "--requirement", "https://x/nas_encoder-1.whl"]
    metadata, text = card(capsys, tmp_path / "mine.nemo", *words)
    assert metadata["tags"][0] == metadata["library_name"] == "nemo"
    assert metadata["license"] == "apache-2.0"
    assert "ASRModel.restore_from('mine.nemo')" in text and "multiply-adds of the encoder" in text
    assert "pip install https://x/nas_encoder-1.whl" in text
    assert "unsafe target 'nas_encoder.nemo...' is blocked" in text
    _, text = card(capsys, tmp_path / "mine.nemo", "--repo", "me/mine")
    assert "ASRModel.from_pretrained('me/mine')" in text


def test_the_commands_of_the_document(repository: Path) -> None:
    text = (repository / "docs" / "model_zoo.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in blocks.splitlines() if line]
    cards = [words for words in commands if words[:2] == ["nas-encoder", "card"]]
    assert len(cards) == 2 and cards[0][-1].endswith(WHEEL)
    for words in cards:
        build_parser(only="card").parse_args(words[1:])


def test_all_wrong_metadata_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--language", "English", "en", "--license", "MY OWN", "--repo", "a/b/c"]
    assert main(["card", str(espnet_folder(tmp_path)), *words, "--datasets", "a b"]) == 2
    said = capsys.readouterr().err
    for part in ("--language: must be", "'English'", "--license", "'MY OWN'", "'a/b/c'", "'a b'"):
        assert part in said, part
    assert "'en'" not in said.replace("such as 'en'", "")
    assert main(["card", str(tmp_path), "--results", str(tmp_path / "none.md")]) == 2
    assert "none.md: cannot be read" in capsys.readouterr().err
    assert main(["card", str(tmp_path / "nowhere")]) == 2
