"""Exported models say what the toolkit says: in onnxruntime, and in the real sherpa-onnx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from nemo_tones import (
    BLOCKS,
    MODULES,
    RATE,
    WARNINGS,
    Tones,
    build,
    teach,
    teach_transducer,
    toolkit,
)
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


def sherpa(recognizer: Any, paths: list[str]) -> list[str]:
    """Return what sherpa-onnx says, alone and in a batch."""
    streams = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32")
        stream = recognizer.create_stream()
        stream.accept_waveform(rate, samples)
        streams.append(stream)
    for stream in streams:
        recognizer.decode_stream(stream)
    alone = [stream.result.text.strip() for stream in streams]
    recognizer.decode_streams(streams)
    assert [stream.result.text.strip() for stream in streams] == alone
    return alone


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_nemo_onnxruntime_and_sherpa_say_the_same(
    head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        "highfreq": 7600 if head == "transducer" else None,  # as sherpa-onnx has it
        "dither": 0.0,
        "pad_to": 0,
    }
    options: dict[str, Any] = {"preprocessor": preprocessor}
    kind = "ctc_bpe"
    if head == "transducer":
        kind = "hybrid_bpe"
        options["decoding"] = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
    model = build(kind, tones.config(kind, encoder, **options))
    teach(model, tones, steps=120)
    if head == "transducer":
        teach_transducer(model, tones)
    expected = nemo_texts(model, tones.paths)
    said = [recording.text for recording in tones.recordings]
    assert sum(a == b for a, b in zip(expected, said, strict=True)) > 6  # it has learned to speak
    saved = tmp_path / "model.nemo"
    model.save_to(str(saved))
    for takes in ("audio", "features"):
        words = ["export", str(saved), str(tmp_path / takes), "--input", takes, "--head", head]
        assert main([*words, "--data", tones.manifest, "--lengths", "30", "--license", "mit"]) == 0
    name = {"ctc": "model.onnx", "transducer": "encoder.onnx"}[head]
    assert transcribed(capsys, str(tmp_path / "audio" / name), *tones.paths) == expected
    folder = tmp_path / "features"
    report = json.loads((folder / "export.json").read_text("utf-8"))
    window = "window is 'hann', and sherpa-onnx has 'povey'"
    assert report["sherpa_onnx"] == ([window] if head == "transducer" else [])
    assert report["checked"]["utterances"] == 12
    assert report["metadata"]["license"] == "mit"
    assert json.loads(report["metadata"]["genotype"])["name"] == "hourglass"
    given = {"tokens": str(folder / "tokens.txt"), "feature_dim": BINS}
    if head == "ctc":
        recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(str(folder / name), **given)
    else:
        graphs = {part: str(folder / f"{part}.onnx") for part in ("encoder", "decoder", "joiner")}
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            **graphs, **given, model_type="nemo_transducer"
        )
    assert sherpa(recognizer, tones.paths) == expected


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


@pytest.mark.espnet
def test_a_transducer_says_in_onnxruntime_what_espnet_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that never learned anything: its search visits all classes."""
    import argparse
    import sys
    from types import ModuleType

    import espnet2.tasks.asr
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer
    from espnet2.asr.transducer.rnnt_multi_blank.rnnt_multi_blank import RNNTLossNumba

    from nas_encoder.espnet.registration import register

    register(espnet2.tasks.asr)
    # warp-transducer has to be compiled and is on no index; ESPnet has the same loss.
    compiled: Any = ModuleType("warprnnt_pytorch")
    compiled.RNNTLoss = RNNTLossNumba
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", compiled)
    torch.manual_seed(2)
    tokens = ["<blank>", "<unk>", "<space>", "A", "B", "C", "D", "<sos/eos>"]
    task = espnet2.tasks.asr.ASRTask
    config = {
        **task.get_default_config(),
        "token_list": tokens,
        "token_type": "char",
        "encoder": "nas",
        "encoder_conf": {key: BLOCKS[key] for key in ("genotype", "dropout")} | {"output_size": 16},
        "decoder": "transducer",
        "decoder_conf": {"num_layers": 2, "hidden_size": 12},
        "joint_net_conf": {"joint_space_size": 10},
        "frontend_conf": {"n_mels": 16, "fs": "16k"},
        "normalize": "utterance_mvn",
        "normalize_conf": {},
        "specaug": None,
        "model_conf": {"ctc_weight": 0.0, "report_cer": False, "report_wer": False},
    }
    model = task.build_model(argparse.Namespace(**config)).eval()
    paths = list(spoken(tmp_path))

    def encode(path: str) -> torch.Tensor:
        samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        with torch.no_grad():
            encoded, _ = model.encode(samples[None], torch.tensor([len(samples)]))
        return encoded[0]  # type: ignore[no-any-return]

    with torch.no_grad():  # each class wins somewhere
        joint, frames = model.joint_network, encode(paths[0])
        joint.lin_enc.weight.mul_(6 / frames.std())
        joint.lin_out.weight.mul_(8)
        joint.lin_out.bias.sub_(joint(frames, torch.zeros(12)).mean(0))
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(config), "utf-8")
    torch.save(model.state_dict(), folder / "model.pth")
    search = BeamSearchTransducer(model.decoder, model.joint_network, beam_size=1)
    expected = []
    for path in paths:
        with torch.no_grad():
            (found,) = search(encode(path))
        names = [tokens[i] for i in found.yseq[1:] if i not in (0, len(tokens) - 1)]
        expected.append("".join(" " if n == "<space>" else n for n in names).strip())
    assert all(len({*text}) > 2 for text in expected)
    exported = tmp_path / "exported"
    assert main(["export", str(folder), str(exported), "--lengths", "20"]) == 0
    assert "transducer over 7 tokens and the blank" in capsys.readouterr().out
    assert transcribed(capsys, str(exported / "encoder.onnx"), *paths) == expected
    config["model_conf"] |= {"transducer_multi_blank_durations": [2]}
    (folder / "config.yaml").write_text(json.dumps(config), "utf-8")
    assert main(["export", str(folder), str(tmp_path / "refused")]) == 2
    assert "transducer_multi_blank_durations: big blanks" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
