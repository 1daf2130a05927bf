"""``nas-encoder align`` with one trained model in both toolkits, on speech with known times."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet
from nemo_tones import WARNINGS, toolkit

from nas_encoder import autoload
from nas_encoder.alignment.boundaries import Interval, boundary_differences, summarize
from nas_encoder.alignment.model import open_model
from nas_encoder.alignment.timing import measure_timing
from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import CheckpointError
from nas_encoder.interchange.convert import convert
from nas_encoder.nemo import catalog

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.nemo,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    *(pytest.mark.filterwarnings(f"ignore:{warning}") for warning in WARNINGS),
]

RATE = 16000
SENTENCES = (
    "after the thunder the village was white",
    "a black horse walked with her baker",
    "susan opened five apples after the rain",
    "the mother and the sheep sang slowly",
)
SHIPPED = catalog.SHIPPED / "synth_ctc_char.nemo"


def write_talk(folder: Path) -> list[list[Interval]]:
    """Write one recording of all sentences and its text; return the true times of the words."""
    from tools.synth.audio import Conditions, record
    from tools.synth.espeak import Espeak, Voice
    from tools.synth.phones import phone_segments, word_segments

    pieces, truth, at = [], [], 0
    with Espeak() as espeak:
        for number, sentence in enumerate(SENTENCES):
            words = tuple(sentence.split())
            speech = espeak.say(words, Voice("gmw/en-US+m3", 130, 50, 50), number)
            recording = record(speech, Conditions(), np.random.default_rng(number))
            rows = word_segments(phone_segments(speech)[0], words)
            times = [[recording.position(s) + at for s in (row.start, row.end)] for row in rows]
            truth.append(
                [
                    Interval(start / RATE, end / RATE, word.upper())
                    for (start, end), word in zip(times, words, strict=True)
                ]
            )
            pieces += [recording.samples, np.zeros(RATE, np.int16)]
            at += len(recording.samples) + RATE
    soundfile.write(folder / "talk.wav", np.concatenate(pieces), RATE, subtype="PCM_16")
    (folder / "talk.txt").write_text("\n".join(SENTENCES) + "\n")
    return truth


def align(model: Path, folder: Path, output: Path, *more: str) -> list[list[Interval]]:
    files = ["--audio", str(folder / "talk.wav"), "--text", str(folder / "talk.txt")]
    words = ["align", str(model), *files, "--output", str(output), "--case", "upper", *more]
    assert main(words) == 0
    cuts = CutSet.from_file(output / "cuts.jsonl.gz")
    return [
        [
            Interval(cut.start + one.start, cut.start + one.start + one.duration, one.symbol)
            for one in cut.supervisions[0].alignment["word"]
        ]
        for cut in sorted(cuts, key=lambda cut: str(cut.id))
    ]


def test_both_toolkits_align_alike_and_close_to_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toolkit()
    autoload.install()
    truth = write_talk(tmp_path)
    folder = tmp_path / "espnet"
    convert(SHIPPED, folder)
    from espnet2.main_funcs.pack_funcs import pack

    packed = tmp_path / "packed.zip"
    pack(
        {"asr_model_file": folder / "model.pth"},
        {"asr_train_config": folder / "config.yaml"},
        packed,
    )
    timings = [measure_timing(open_model(path)) for path in (SHIPPED, folder)]
    assert timings[0] == timings[1]
    assert (timings[0].period, timings[0].first, timings[0].symmetric) == (640, 0.0, True)
    nemo = align(SHIPPED, tmp_path, tmp_path / "nemo", "--threshold", "-3")
    espnet = align(folder, tmp_path, tmp_path / "from_espnet")
    segments = align(packed, tmp_path, tmp_path / "packed", "--method", "ctc-segmentation")
    assert "4 of 4 utterances" in capsys.readouterr().out
    for found in (nemo, espnet, segments):
        errors = summarize(
            {
                str(number): boundary_differences(true, own, str(number))
                for number, (true, own) in enumerate(zip(truth, found, strict=True))
            }
        )
        # The model emits late, by how it was trained; docs/alignment.md has figures.
        assert errors.spread_ms < 40 and errors.within_50 > 0.4
        assert -20 < errors.bias_ms < 80
    assert espnet == nemo
    assert (tmp_path / "nemo" / "espnet" / "segments").read_text() == (
        tmp_path / "from_espnet" / "espnet" / "segments"
    ).read_text()
    refused(folder, tmp_path, capsys)


def refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check what is refused of ESPnet's models, in the process that has it."""
    files = ["--audio", str(tmp_path / "talk.wav"), "--text", str(tmp_path / "talk.txt")]
    assert main(["align", str(folder), *files, "--output", str(tmp_path / "x")]) == 2
    assert "the model has no such token" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    config: Any = read_yaml(folder / "config.yaml")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    attention = {**config, "model_conf": {"ctc_weight": 0.0}, "token_type": "magic"}
    write_yaml(broken / "config.yaml", attention)
    with pytest.raises(CheckpointError, match=r"(?s)no trained CTC layer.*token_type"):
        open_model(broken)
    other = json.loads(json.dumps(config))
    other["encoder_conf"]["channels"] = 6
    write_yaml(broken / "config.yaml", other)
    with pytest.raises(CheckpointError, match="not of this configuration"):
        open_model(broken)
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="no archive of espnet2"):
        open_model(tmp_path / "bad.zip")
    (tmp_path / "bad.nemo").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="NeMo cannot restore"):
        open_model(tmp_path / "bad.nemo")
