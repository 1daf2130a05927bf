"""Exported models say what the toolkit says: in onnxruntime, and in the real sherpa-onnx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from nemo_tones import BLOCKS, MODULES, RATE, WARNINGS, Tones, build, teach, toolkit
from toolkit_texts import alike, espnet_texts, nemo_texts, spoken

from nas_encoder.cli.main import main
from nas_encoder.nemo import catalog

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    *(pytest.mark.filterwarnings(f"ignore:{warning}") for warning in WARNINGS),
]
BINS = 80


def transcribed(capsys: Any, *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["transcribe", *words, "--json"]) == 0
    return [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]


def test_nemo_onnxruntime_and_sherpa_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One model of NeMo's features, through NeMo, the graph with features, and sherpa-onnx."""
    import sherpa_onnx

    toolkit()
    torch.manual_seed(0)
    tones = Tones.create(tmp_path, number=12, silence=0.4)
    encoder = {**BLOCKS, "feat_in": BINS}
    preprocessor = {
        "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
        "features": BINS,
        "window_size": 0.025,  # as in NeMo's own configurations and in sherpa-onnx
        "window_stride": 0.01,
        "n_fft": 512,
        "normalize": "per_feature",
        "sample_rate": RATE,
        "dither": 0.0,
        "pad_to": 0,
    }
    model = build("ctc_bpe", tones.config("ctc_bpe", encoder, preprocessor=preprocessor))
    teach(model, tones, steps=120)
    expected = nemo_texts(model, tones.paths)
    said = [recording.text for recording in tones.recordings]
    assert sum(a == b for a, b in zip(expected, said, strict=True)) > 6  # it has learned to speak
    saved = tmp_path / "model.nemo"
    model.save_to(str(saved))
    for takes in ("audio", "features"):
        words = ["export", str(saved), str(tmp_path / takes), "--input", takes]
        assert main([*words, "--data", tones.manifest, "--lengths", "30", "--license", "mit"]) == 0
    folder = tmp_path / "audio"
    assert transcribed(capsys, str(folder / "model.onnx"), *tones.paths) == expected
    report = json.loads((tmp_path / "features" / "export.json").read_text("utf-8"))
    assert report["sherpa_onnx"] == [] and report["checked"]["utterances"] == 12
    assert report["metadata"]["license"] == "mit"
    assert json.loads(report["metadata"]["genotype"])["name"] == "hourglass"
    recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        model=str(tmp_path / "features" / "model.onnx"),
        tokens=str(tmp_path / "features" / "tokens.txt"),
        feature_dim=BINS,
    )
    streams = []
    for path in tones.paths:
        samples, rate = soundfile.read(path, dtype="float32")
        stream = recognizer.create_stream()
        stream.accept_waveform(rate, samples)
        streams.append(stream)
    for stream in streams:
        recognizer.decode_stream(stream)
    alone = [stream.result.text.strip() for stream in streams]
    assert alone == expected
    recognizer.decode_streams(streams)
    assert [stream.result.text.strip() for stream in streams] == alone


@pytest.mark.espnet
def test_the_shipped_model_says_in_onnxruntime_what_espnet_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ESPnet's features with its corpus's statistics, as ESPnet and NeMo hold them."""
    from nas_encoder import autoload
    from nas_encoder.interchange.convert import convert

    autoload.install()
    convert(catalog.SHIPPED / "synth_ctc_char.nemo", tmp_path / "espnet")
    paths = list(spoken(tmp_path))
    _, expected = espnet_texts(tmp_path / "espnet", paths)
    for source in (tmp_path / "espnet", catalog.SHIPPED / "synth_ctc_char.nemo"):
        folder = tmp_path / f"exported-{source.name}"
        assert main(["export", str(source), str(folder), "--lengths", "20"]) == 0
        assert transcribed(capsys, str(folder / "model.onnx"), *paths) == expected
    # Joined and read in windows: what lies at a border is heard once.
    joined, gap = tmp_path / "long.wav", np.zeros(RATE // 4, dtype=np.float32)
    parts = [np.concatenate((soundfile.read(path, dtype="float32")[0], gap)) for path in paths]
    soundfile.write(joined, np.concatenate(parts * 3), RATE, subtype="PCM_16")
    model = str(tmp_path / "exported-espnet" / "model.onnx")
    (whole,) = transcribed(capsys, model, str(joined))
    (windows,) = transcribed(capsys, model, str(joined), "--window", "4", "--margin", "1")
    assert len(whole) > 250
    assert alike(whole, windows) > 0.98
