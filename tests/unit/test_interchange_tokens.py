"""Conversion between the toolkits' checkpoints: the classes of the CTC layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch
from interchange_samples import assert_equal, config_of, espnet_folder, state_of

from nas_encoder.errors import CheckpointError
from nas_encoder.interchange import tokens
from nas_encoder.interchange.convert import convert
from nas_encoder.interchange.files import Archive
from nas_encoder.interchange.model import SILENT, Head


def head(names: list[str], token_type: str = "char", model: bytes | None = None) -> Head:
    return Head(names, torch.randn(len(names), 3), torch.randn(len(names)), token_type, model)


def test_nemo_labels_get_what_espnet_needs_and_lose_it_again() -> None:
    weight, bias = torch.randn(4, 3, 1), torch.randn(4)
    found = tokens.from_nemo([" ", "a", "b"], weight, bias, None, "char")
    assert found.tokens == ["<blank>", "<unk>", "<space>", "a", "b", "<sos/eos>"]
    assert torch.equal(found.weight[[0, 2, 3, 4]], weight[[3, 0, 1, 2], :, 0])
    assert found.bias[[1, 5]].tolist() == [SILENT, SILENT]
    labels, weight_again, bias_again, lost = tokens.to_nemo(found)
    assert (labels, lost) == ([" ", "a", "b"], [])
    assert torch.equal(weight_again, weight)
    assert torch.equal(bias_again, bias)


def test_words_are_joined_with_spaces() -> None:
    given = head(["<blank>", "<unk>", "sil", "aa", "<sos/eos>"], "word")
    labels, weight, bias, _ = tokens.to_nemo(given)
    assert "".join([labels[1], labels[2]]) == "sil aa "
    assert tokens.guess_type(labels) == "word"
    found = tokens.from_nemo(labels, weight, bias, None, tokens.guess_type(labels))
    assert found.tokens == given.tokens
    assert torch.equal(found.weight, given.weight)
    assert tokens.guess_type([" ", "a"]) == "char"


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "text").write_text("low lower lowest new newer newest\n" * 4, "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "bpe"),
        vocab_size=16,
        model_type="bpe",
        minloglevel=2,
    )
    return (folder / "bpe.model").read_bytes()


def test_bpe_classes(bpe: bytes, tmp_path: Path) -> None:
    pieces = list(tokens.pieces_of(bpe))
    assert pieces[:3] == ["<unk>", "<s>", "</s>"]
    names = ["<blank>", "<unk>", *pieces[3:], "<sos/eos>"]  # as asr.sh writes them
    given = head(names, "bpe", bpe)
    labels, weight, bias, lost = tokens.to_nemo(given)
    assert (labels, lost) == (pieces, [])
    assert torch.equal(weight[2, :, 0], given.weight[-1])  # </s> is <sos/eos>
    assert bias[1] == SILENT  # <s>
    found = tokens.from_nemo(labels, weight, bias, bpe, "bpe")
    assert found.tokens == names
    assert torch.equal(found.weight, given.weight)
    odd = head([*names[:-1], "<laugh>", "<sos/eos>"], "bpe", bpe)
    assert tokens.to_nemo(odd)[3] == ["<laugh>"]
    (tmp_path / "my.model").write_bytes(bpe)
    source = espnet_folder(tmp_path / "exp", token_list=names, token_type="bpe", bpemodel="no/such")
    with pytest.raises(CheckpointError, match="--bpe-model"):
        convert(source, tmp_path / "m.nemo")
    convert(source, tmp_path / "m.nemo", bpe_model=str(tmp_path / "my.model"))
    config = config_of(tmp_path / "m.nemo")
    assert config["target"].endswith(".EncDecCTCModelBPE")
    assert Archive(tmp_path / "m.nemo").read("tokenizer.model") == bpe
    convert(tmp_path / "m.nemo", tmp_path / "back")
    assert (tmp_path / "back" / "bpe.model").read_bytes() == bpe
    assert config_of(tmp_path / "back" / "config.yaml")["token_list"] == names
    assert_equal(
        {n: t for n, t in state_of(tmp_path / "back" / "model.pth").items() if "ctc" in n},
        {n: t for n, t in state_of(source / "valid.acc.ave.pth").items() if "ctc" in n},
    )


def test_what_is_no_bpe_model(tmp_path: Path) -> None:
    (tmp_path / "my.model").write_bytes(b"no model")
    source = espnet_folder(tmp_path / "exp", token_type="bpe", bpemodel=str(tmp_path / "my.model"))
    with pytest.raises(CheckpointError, match="is no SentencePiece model"):
        convert(source, tmp_path / "m.nemo")
