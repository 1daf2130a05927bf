"""Exported transducers: their search is that of a plain one, and what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_samples import EMBEDDING, HIDDEN, JOINT, LAYERS, TOKENS, model, with_transducer
from torch import Tensor, nn

from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError
from nas_encoder.export.export import ExportOptions
from nas_encoder.export.runtime import open_model
from nas_encoder.export.transcribe import Transcriber
from nas_encoder.export.transducer.export import export_transducer
from nas_encoder.export.transducer.greedy import Greedy, recognize
from nas_encoder.export.transducer.parts import TransducerParts
from nas_encoder.export.transducer.runtime import open_search
from nas_encoder.interchange.model import Transducer
from nas_encoder.interchange.transducer import from_espnet, from_nemo


def plain_search(given: Transducer, frames: Tensor) -> list[int]:
    """Greedy search in the order of the toolkits' classes, the blank first; ours has it last."""
    lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
    lstm.load_state_dict(given.recurrent)
    y, states = lstm(given.embedding[:1])
    found = []
    for frame in frames:
        assert given.most is not None
        for _ in range(given.most):
            inner = given.of_encoder["weight"] @ frame + given.of_encoder["bias"]
            inner = torch.tanh(inner + given.of_prediction["weight"] @ y[0])
            token = int((given.classes.weight @ inner + given.classes.bias).argmax())
            if token == 0:
                break
            found.append(token - 1)
            y, states = lstm(given.embedding[token : token + 1], states)
    return found


@pytest.mark.parametrize("most", [1, 4])
def test_the_search_is_a_plain_one(most: int) -> None:
    given = with_transducer(most).transducer
    assert given is not None
    parts = TransducerParts(given)
    frames = torch.randn(40, given.of_encoder["weight"].size(1))
    expected = plain_search(given, frames)
    assert len({*expected}) > 2 and 0 < len(expected) < 40 * most
    assert recognize(parts, [frames]) == [expected]
    parts_of_it = Greedy(parts)
    for piece in frames.split([7, 0, 1, 32]):
        parts_of_it.feed(piece)
    assert parts_of_it.tokens == expected


def test_a_frame_without_end_is_an_error_and_no_text() -> None:
    given = with_transducer(None).transducer
    assert given is not None
    given.classes.bias[0] = -1e3  # never the blank
    search = Greedy(TransducerParts(given))
    frames = torch.randn(2, given.of_encoder["weight"].size(1))
    with pytest.raises(CheckpointError, match="output frame 0 gives 1000 tokens and no blank"):
        search.feed(frames)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder")
    given = with_transducer(3)
    given.obstacles.append("preprocessor.window: is not known here")
    written = export_transducer(given, ExportOptions(lengths=30))
    files = {file.name for file in written.write(folder)}
    graphs = {"encoder.onnx", "decoder.onnx", "joiner.onnx"}
    assert files == graphs | {"tokens.txt", "export.json"}
    return folder


@pytest.mark.slow
def test_an_exported_transducer_says_what_torch_says(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import soundfile

    from nas_encoder.export.material import generated
    from nas_encoder.export.recognizer import parts_of, reference

    report = json.loads((exported / "export.json").read_text("utf-8"))
    assert report["search"]["differing"] == 0 and report["search"]["worst"] < 1e-4
    assert report["notes"] == ["preprocessor.window: is not known here"]
    source = with_transducer(3)
    assert source.transducer is not None
    parts: Any = parts_of(source)
    parts = type(parts)(parts.network, None, parts.features, None, parts.toolkit)
    names = []
    expected = []
    search = TransducerParts(source.transducer)
    with torch.no_grad():
        for number, sound in enumerate(generated(16000)[:3]):
            path = exported / f"{number}.wav"
            soundfile.write(path, sound.samples.numpy(), 16000, subtype="FLOAT")
            names.append(str(path))
            steps = Greedy(search)
            steps.feed(reference(parts, sound.samples, "audio"))
            expected.append(steps.text)
    assert main(["transcribe", str(exported / "encoder.onnx"), *names, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == expected
    assert any(len(text) > 5 for text in expected)
    samples = np.zeros(16000, np.float32)
    samples[8000] = np.nan  # of which there would be a text, too
    soundfile.write(exported / "nan.wav", samples, 16000, subtype="FLOAT")
    assert main(["transcribe", str(exported / "encoder.onnx"), str(exported / "nan.wav")]) == 2
    assert "nan.wav: sample 8000, at 0.500 s, is NaN or infinite" in capsys.readouterr().err


@pytest.mark.slow
def test_graphs_that_do_not_belong_together_are_refused(exported: Path, tmp_path: Path) -> None:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    runtime = open_model(tmp_path / "encoder.onnx")
    assert Transcriber(runtime, steps=open_search(runtime, tmp_path / "encoder.onnx"))
    (tmp_path / "joiner.onnx").write_bytes((exported / "decoder.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"joiner\.onnx: does not belong to the encoder"):
        open_search(runtime, tmp_path / "encoder.onnx")
    other = with_transducer(None)
    assert other.transducer is not None
    other.toolkit, other.transducer.classes.bias[0] = "nemo", 100  # gives nothing, without a limit
    written = export_transducer(other, ExportOptions(lengths=1))
    written.write(tmp_path / "other")
    assert "any number of tokens come from a frame" in " ".join(written.report["sherpa_onnx"])
    assert "max_symbols: is null" in written.report["notes"][0]
    found = open_model(tmp_path / "other" / "encoder.onnx")
    assert open_search(found, tmp_path / "other" / "encoder.onnx").most is None
    (tmp_path / "joiner.onnx").write_bytes((tmp_path / "other" / "joiner.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"joiner\.onnx: does not belong to the encoder"):
        open_search(runtime, tmp_path / "encoder.onnx")
    model = onnx.load(exported / "joiner.onnx")
    model.graph.output.append(onnx.helper.make_tensor_value_info("encoder_outputs", 1, None))
    onnx.save(model, tmp_path / "joiner.onnx")
    with pytest.raises(CheckpointError, match="must give outputs, gives .*encoder_outputs"):
        open_search(runtime, tmp_path / "encoder.onnx")
    numbers = {**runtime.metadata, "pred_hidden": "6" + "0" * 30, "pred_rnn_layers": "1" * 5000}
    with pytest.raises(CheckpointError, match=r"pred_rnn_layers: must be .*\n.*pred_hidden: must"):
        open_search(replace(runtime, metadata=numbers), tmp_path / "encoder.onnx")
    (tmp_path / "joiner.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"joiner\.onnx: cannot be read"):
        open_search(runtime, tmp_path / "encoder.onnx")
    with pytest.raises(CheckpointError, match="is the decoder of a transducer: give its enc"):
        open_model(tmp_path / "decoder.onnx")


def test_a_graph_that_differs_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = TransducerParts.scores
    monkeypatch.setattr(
        TransducerParts, "scores", lambda self, x, y: forward(self, x, y) + 1e-2 * (x[0] > 0)
    )
    with pytest.raises(CheckpointError, match=r"joiner\.onnx: differs from torch at step"):
        export_transducer(with_transducer(3), ExportOptions(lengths=1))


def test_parts_that_do_not_fit_are_named() -> None:
    given = with_transducer(1).transducer
    assert given is not None
    given.of_encoder["weight"] = torch.zeros(JOINT, 3)
    del given.recurrent["bias_ih_l1"]
    found = "\n".join(given.problems(16))
    assert "joint, layer after the encoder: has shape (7, 3), (7, 16) fits" in found
    assert "missing or unknown: bias_ih_l1" in found


def checkpoint(toolkit: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the tensors of a transducer besides its encoder."""
    torch.manual_seed(0)
    lstm, count = nn.LSTM(EMBEDDING, HIDDEN, LAYERS).state_dict(), len(TOKENS)
    parts = {
        "embed": nn.Embedding(count, EMBEDDING),
        "enc": nn.Linear(4, JOINT),
        "pred": nn.Linear(HIDDEN, JOINT),
        "out": nn.Linear(JOINT, count),
    }
    if toolkit == "espnet":
        places = {part: f"joint_network.lin_{part}" for part in ("enc", "out")}
        places |= {"embed": "decoder.embed", "pred": "joint_network.lin_dec"}
        config = {"decoder": "transducer", "token_list": TOKENS, "token_type": "char"}
        state = {f"decoder.decoder.{n[-1]}.{n[:-1]}0": value for n, value in lstm.items()}
    else:
        places = {part: f"joint.{part}" for part in ("enc", "pred")}
        places |= {"embed": "decoder.prediction.embed", "out": "joint.joint_net.2"}
        config = {
            "decoder": {"_target_": "nemo.RNNTDecoder"},
            "joint": {"_target_": "nemo.RNNTJoint", "vocabulary": TOKENS[1:]},
        }
        state = {f"decoder.prediction.dec_rnn.lstm.{n}": value for n, value in lstm.items()}
    for part, module in parts.items():
        state |= {f"{places[part]}.{n}": value for n, value in module.state_dict().items()}
    return config, state


@pytest.mark.parametrize("toolkit", ["espnet", "nemo"])
def test_checkpoints_that_are_odd_are_refused_by_name(toolkit: str) -> None:
    read = {"espnet": from_espnet, "nemo": from_nemo}[toolkit]
    config, state = checkpoint(toolkit)
    found, problems = read(config, state, None)
    assert found is not None and not problems and not found.problems(4)
    assert TransducerParts(found).vocabulary.symbols[0] == "<unk>"
    embedding, last, first = (
        next(name for name in state if name.endswith(ends))
        for ends in ("embed.weight", ("lin_out.weight", "net.2.weight"), "weight_hh_l0")
    )
    for changed, expected in (
        ({embedding: state[embedding][:3]}, "7"),
        ({embedding: torch.zeros(())}, "embed.weight: must have 2 dimensions, has shape ()"),
        ({last: state[last][:3]}, "7"),
        ({last: state[last][0]}, "lin_out.weight: must have 2 dimensions"),
        ({first: torch.zeros(3)}, "decoder.weight_hh_l0: must have 2 dimensions, has shape (3,)"),
        ({f"{embedding}.lora_A": state[last]}, "embed.weight.lora_A: is not known"),
        ({f"{last}_g": state[last]}, "weight_g: is not known"),
    ):
        found, problems = read(config, {**state, **changed}, None)
        problems = problems if found is None else found.problems(4)
        assert expected in "\n".join(problems), (changed.keys(), problems)


@pytest.mark.parametrize(
    ("toolkit", "changed", "expected"),
    [
        ("espnet", {"token_type": "whisper_en"}, "token_type: must be one of char, word, phn, bpe"),
        ("espnet", {"decoder_conf": ["lstm"]}, "decoder_conf: must be a mapping"),
        ("espnet", {"decoder_conf": {"rnn_type": "gru"}}, "rnn_type: must be lstm, got 'gru'"),
        ("espnet", {"joint_net_conf": {"joint_activation_type": []}}, "must be one of tanh, relu"),
        ("nemo", {"joint": {"jointnet": 1}}, "joint.jointnet: must be a mapping"),
        *(
            (
                "nemo",
                {"decoding": {"greedy": {name: most}}},
                f"null or an integer from 1 to 1000, {got}",
            )
            for name, most, got in (
                ("max_symbols", 5000, "got 5000"),
                ("max_symbols_per_step", -1, "got -1"),
                ("max_symbols", "10", "got '10'"),
            )
        ),
    ],
)
def test_configurations_that_cannot_be_exported_are_refused(
    toolkit: str, changed: dict[str, Any], expected: str
) -> None:
    config, state = checkpoint(toolkit)
    read = {"espnet": from_espnet, "nemo": from_nemo}[toolkit]
    found, problems = read({**config, **changed}, state, None)
    assert found is None and expected in "\n".join(problems)


@pytest.mark.parametrize(
    ("greedy", "most"),
    [
        ({"max_symbols": 7, "max_symbols_per_step": 3}, 7),
        ({"max_symbols": None, "max_symbols_per_step": 3}, 3),
        ({"max_symbols": None}, None),
        ({}, None),
    ],
)
def test_the_limit_is_that_of_nemos_configuration(greedy: dict[str, Any], most: int | None) -> None:
    config, state = checkpoint("nemo")
    found, _ = from_nemo({**config, "decoding": {"greedy": greedy}}, state, None)
    assert found is not None and found.most == most


def test_a_head_that_was_asked_for_is_exported_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = model("conformer")
    assert given.head is not None
    given.head.weight = given.head.weight[:, 1:]  # then an encoder alone is what remains
    given.no_transducer = ["transducer: decoder: durations are not known"]
    monkeypatch.setattr("nas_encoder.cli.export._model", lambda _: given)
    words = ["export", "model.nemo", str(tmp_path / "exported"), "--head"]
    for head, expected in (
        ("ctc", "--head ctc: CTC layer: weight (7, 15) and bias (7,) do not fit"),
        ("transducer", "durations are not known\n"),
    ):
        assert main([*words, head]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "exported").exists()
