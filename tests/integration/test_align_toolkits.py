"""``nas-encoder align`` with one trained model in both toolkits, on speech with known times."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from nemo_tones import SAN, WARNINGS, Tones, build, toolkit

from nas_encoder import autoload
from nas_encoder.alignment.boundaries import Interval, boundary_differences, summarize
from nas_encoder.alignment.model import open_model
from nas_encoder.alignment.timing import measure_timing
from nas_encoder.alignment.units import words_of
from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import CheckpointError, UtteranceTooShortError
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
    geometry()
    pieces(tmp_path)
    refused(folder, tmp_path, capsys)


class Bare:
    """An untrained encoder of a toolkit behind log-magnitudes; for its timing only."""

    source, sampling_rate, blank, joins = "bare", RATE, 0, "char"
    toolkit, tokens = "", ()

    def __init__(self, encoder: Any, time_axis: int) -> None:
        self.encoder, self.time_axis = encoder.eval(), time_axis

    def log_probs(self, samples: torch.Tensor) -> torch.Tensor:
        window = torch.hann_window(400)
        spectrum = torch.stft(samples, 400, 160, window=window, return_complex=True)
        features = (spectrum[1:81].abs() + 1e-3).log()[None]  # (1, F, T)
        frames = torch.tensor([features.size(2)])
        if self.time_axis == 2:
            out = self.encoder(audio_signal=features, length=frames)[0]
            return out[0].T.log_softmax(dim=1)
        return self.encoder(features.transpose(1, 2), frames)[0][0].log_softmax(dim=1)

    def normalized(self, text: str) -> str:
        return text

    def split(self, text: str) -> list[tuple[str, int | None]]:
        return []


SMALL = {"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 2}
RELATIVE = {"pos_enc_layer_type": "rel_pos", "rel_pos_type": "latest"}
ATTENTION = {"attention_layer_type": "rel_selfattn", **RELATIVE}
CONFORMER = {"selfattention_layer_type": "rel_selfattn", **RELATIVE}
# Encoder, options -> frames per output frame, centre: first + last frame of the front end, halved.
GEOMETRY: list[tuple[str, dict[str, Any], int, float]] = [
    ("transformer", {**SMALL, "input_layer": "conv2d2"}, 2, 3.0),
    ("transformer", {**SMALL, "input_layer": "conv2d8"}, 8, 7.0),
    ("conformer", {**SMALL, **CONFORMER, "input_layer": "conv2d"}, 4, 3.0),
    ("e_branchformer", {**SMALL, **ATTENTION, "input_layer": "conv2d6"}, 6, 5.0),
    ("vgg_rnn", {"num_layers": 1, "hidden_size": 8, "output_size": 8}, 4, 1.5),
    ("nas", {"genotype": {"known": "conformer", "width": 32, "hidden": 32, "blocks": 16}}, 4, 3.0),
    ("nas", {"genotype": {"known": "squeezeformer"}}, 4, 0.0),
    ("dfsmn_san", {"blocks": 3, "output_size": 16, "hidden_size": 16}, 4, 1.5),
]


def geometry() -> None:
    """Check where the output frames of the toolkits' front ends are found to lie."""
    from espnet2.tasks.asr import encoder_choices
    from nemo.collections.asr.modules import ConformerEncoder, ConvASREncoder

    for name, options, factor, centre in GEOMETRY:
        timing = measure_timing(Bare(encoder_choices.get_class(name)(80, **options), 1))
        assert (timing.factor, timing.centre, timing.symmetric) == (factor, centre, True), name
    sizes = {"feat_in": 80, "n_layers": 2, "d_model": 16, "n_heads": 2}
    for how, factor in (("striding", 4), ("dw_striding", 8)):
        encoder = ConformerEncoder(**sizes, subsampling=how, subsampling_factor=factor)
        timing = measure_timing(Bare(encoder, 2))
        assert (timing.factor, timing.centre, timing.symmetric) == (factor, 0.0, True), how
    block = {"filters": 16, "repeat": 1, "kernel": [11], "stride": [2], "dilation": [1]}
    block |= {"dropout": 0.0, "residual": False, "separable": True, "se": True}
    citrinet = ConvASREncoder(jasper=[block, block], activation="relu", feat_in=80)
    timing = measure_timing(Bare(citrinet, 2))
    assert (timing.factor, timing.centre, timing.symmetric) == (4, 0.0, True)


def pieces(tmp_path: Path) -> None:
    """Check NeMo's models with pieces: CTC and hybrids can be aligned, transducers cannot."""
    (tmp_path / "tones").mkdir()
    tones = Tones.create(tmp_path / "tones")
    text = "ab ba"
    for kind in ("ctc_bpe", "hybrid_bpe", "rnnt_bpe"):
        file = tmp_path / f"{kind}.nemo"
        build(kind, tones.config(kind, SAN)).save_to(str(file))
        if kind == "rnnt_bpe":
            with pytest.raises(CheckpointError, match="has no CTC decoder"):
                open_model(file)
            continue
        model = open_model(file)
        scores = model.log_probs(torch.from_numpy(tones.recordings[0].samples()))
        assert scores.shape[1] == len(model.tokens) == model.blank + 1
        assert torch.allclose(scores.exp().sum(dim=1), torch.ones(len(scores)), atol=1e-4)
        tokens = model.split(text)
        assert [model.tokens[number] for _, number in tokens if number is not None] == [
            piece for piece, _ in tokens
        ]
        row = [Interval(n, n + 1, piece) for n, (piece, _) in enumerate(tokens)]
        assert [word.label for word in words_of(row, model)] == text.split()
        assert None in {number for _, number in model.split("ab!")}


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
    too_short(folder, tmp_path)
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="no archive of espnet2"):
        open_model(tmp_path / "bad.zip")
    (tmp_path / "bad.nemo").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="NeMo cannot restore"):
        open_model(tmp_path / "bad.nemo")


def too_short(folder: Path, tmp_path: Path) -> None:
    """Check that a model with ESPnet's own ``conv2d`` says how few frames audio gives."""
    from espnet2.tasks.asr import ASRTask

    config: Any = {**read_yaml(folder / "config.yaml"), "encoder": "transformer"}
    config["encoder_conf"] = {**SMALL, "input_layer": "conv2d"}
    own = tmp_path / "own"
    own.mkdir()
    write_yaml(own / "config.yaml", config)
    absent = dict.fromkeys(("non_linguistic_symbols", "cleaner", "g2p"))
    model = ASRTask.build_model(argparse.Namespace(**{**absent, **config}))
    torch.save(model.state_dict(), own / "model.pth")
    opened = open_model(own)
    for samples, actual, limit in ((100, 100, 257), (300, 2, 7)):  # the STFT's, conv2d's
        with pytest.raises(UtteranceTooShortError) as caught:
            opened.log_probs(torch.zeros(samples))
        assert (caught.value.actual, caught.value.limit) == (actual, limit)
