"""What the NeMo recipes of public corpora rely on, with the real NeMo: models, tokens, decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from nemo_tones import marks, toolkit

from nas_encoder.errors import DataError
from tools.nemo_recipes.configs import Choice, choices, encoder_config, table
from tools.nemo_recipes.tokens import learn, make_tokens
from tools.nemo_recipes.training import Options, output_frames, training_config
from tools.nemo_recipes.transcribe import DECODING, choose, transcribe

pytestmark = marks("dropout option adds dropout after all but last recurrent layer")

BINS = {name: about["bins"] for name, about in table()["encoders"].items()}
PHONES = ["sil ah vcl b ih sil", "sil aa sil t ax-h h# sil"]


def make_manifest(folder: Path, texts: list[str]) -> Path:
    rows = []
    for number, text in enumerate(texts):
        audio = folder / f"{number}.wav"
        samples = np.random.default_rng(number).normal(0, 0.1, 16000 + 800 * number)
        soundfile.write(audio, samples, 16000)
        row = {"audio_filepath": str(audio), "duration": len(samples) / 16000, "text": text}
        rows.append(json.dumps(row | {"utt_id": f"u{number}"}))
    path = folder / "data.json"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a manifest of phones, their tokenizer, and characters."""
    toolkit()
    folder = tmp_path_factory.mktemp("recipes")
    manifest = make_manifest(folder, PHONES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # NeMo's command for sentencepiece is split at spaces
        assert make_tokens(manifest, Path("phones"), "phone", 0, "bpe") == 10
    (folder / "characters").mkdir()
    (folder / "characters" / "vocab.txt").write_text(" \na\n不\n", encoding="utf-8")
    return {"manifest": manifest, "bpe": folder / "phones", "char": folder / "characters"}


def build(choice: Choice, kind: str, data: dict[str, Path]) -> tuple[Any, dict[str, Any]]:
    from omegaconf import OmegaConf

    options, manifest = Options(kind, tiny=True), data["manifest"]
    config = training_config(choice, options, manifest, manifest, data[kind])
    model = getattr(toolkit(), config["target"])(cfg=OmegaConf.create(config).model)
    return model, config


def test_every_configuration_builds_its_model(data: dict[str, Path]) -> None:
    for choice in choices("timit"):
        for kind in ("bpe", "char") if choice.encoder == "blocks" else ("bpe",):
            model, config = build(choice, kind, data)
            assert type(model).__name__ == config["target"]
            width = config["model"]["encoder"]["d_model"]
            tiny = table()["encoders"][choice.encoder]["tiny"]
            assert model.encoder._feat_out == width == tiny["d_model"]
            features, lengths = torch.zeros(2, BINS[choice.encoder], 61), torch.tensor([61, 44])
            with torch.no_grad():
                outputs = model.encoder.eval()(audio_signal=features, length=lengths)[1]
            options = config["model"]["encoder"]
            assert output_frames(options, BINS[choice.encoder], [61, 44]) == outputs.tolist()


def test_encoders_have_the_sizes_that_were_meant() -> None:
    """In millions of parameters, as NeMo's configs and ESPnet's table tell them."""
    from omegaconf import OmegaConf

    expected = {"nas": 6.03, "dfsmn_san": 9.03, "blocks": 9.17}
    # FastConformer has 12.60 where it subsamples 8 times.
    expected |= {"conformer": 12.97, "fastconformer": 12.98}
    for name, millions in expected.items():
        options = encoder_config(Choice("timit", name, "ctc"))
        options["feat_in"] = table()["encoders"][name]["bins"]
        encoder = toolkit().EncDecCTCModel.from_config_dict(OmegaConf.create(options))
        count = sum(value.numel() for value in encoder.parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.05), name


def test_phones_are_the_pieces_of_nemos_tokenizer(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(str(data["bpe"] / "tokenizer.model"))
    for text in PHONES:
        ids = tokenizer.text_to_ids(text)
        assert len(ids) == len(text.split()) and 0 not in ids
        assert tokenizer.ids_to_text(ids) == text
    monkeypatch.chdir(tmp_path)
    texts = ["A QUICK FOX", "LAZY DOGS RUN"]
    pieces = learn(texts, Path("tokens"), 19, "bpe")
    assert pieces[0] == "<unk>" and len(pieces) == 19
    assert not any(piece != piece.upper() for piece in pieces[1:])  # the case of the texts
    again = learn([*texts, "AND SO ON"], Path("tokens"), 20, "bpe")
    assert again != pieces  # NeMo alone would keep what is there
    with pytest.raises(DataError, match="ask for fewer"):
        learn(texts, Path("tokens"), 500, "bpe")
    with pytest.raises(DataError, match="1 texts have more than 4192 bytes"):
        learn([*texts, "A " * 3000], Path("tokens"), 19, "bpe")


@pytest.mark.parametrize("loss", table()["losses"])
def test_every_head_decodes_in_every_way(loss: str, data: dict[str, Path]) -> None:
    rows = [json.loads(line) for line in data["manifest"].read_text().splitlines()]
    model, _ = build(Choice("timit", "dfsmn_san", loss), "bpe", data)
    for head in table()["losses"][loss]["heads"]:
        for way in DECODING[head]:
            choose(model, head, way)
            texts = transcribe(model.eval(), rows, 2)
            assert len(texts) == 2 and all(isinstance(text, str) for text in texts)
            known = {"⁇", *" ".join(PHONES).split()}
            assert all(set(text.split()) <= known for text in texts)
    assert torch.isfinite(next(model.parameters())).all()
