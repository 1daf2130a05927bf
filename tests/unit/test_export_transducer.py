"""Exported transducers: their search is that of a plain one, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from export_samples import TOKENS, model
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
from nas_encoder.interchange.model import Head, Model, Transducer

EMBEDDING, HIDDEN, JOINT, LAYERS = 5, 6, 7, 2


def with_transducer(most: int, features: str = "espnet global") -> Model:
    found = model("conformer", features)
    width = found.encoder.options["output_size"]
    torch.manual_seed(1)
    lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
    enc, pred, last = nn.Linear(width, JOINT), nn.Linear(HIDDEN, JOINT, bias=False), nn.Linear(7, 7)
    with torch.no_grad():
        enc.weight.mul_(3)
        last.weight.mul_(6)
    found.transducer = Transducer(
        Head(TOKENS, last.weight.detach(), last.bias.detach()),
        torch.randn(len(TOKENS), EMBEDDING),
        {name: value.detach() for name, value in lstm.state_dict().items()},
        {name: value.detach() for name, value in enc.state_dict().items()},
        {name: value.detach() for name, value in pred.state_dict().items()},
        "tanh",
        most,
        set(),
    )
    assert found.transducer.problems(width) == []
    return found


def plain_search(given: Transducer, frames: Tensor) -> list[int]:
    """Greedy search in the order of the toolkits' classes, the blank first; ours has it last."""
    lstm = nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
    lstm.load_state_dict(given.recurrent)
    y, states = lstm(given.embedding[:1])
    found = []
    for frame in frames:
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder")
    written = export_transducer(with_transducer(3), ExportOptions(lengths=30))
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


@pytest.mark.slow
def test_graphs_that_do_not_belong_together_are_refused(exported: Path, tmp_path: Path) -> None:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    runtime = open_model(tmp_path / "encoder.onnx")
    assert Transcriber(runtime, steps=open_search(runtime, tmp_path / "encoder.onnx"))
    (tmp_path / "joiner.onnx").write_bytes((exported / "decoder.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"joiner\.onnx: does not belong to the encoder"):
        open_search(runtime, tmp_path / "encoder.onnx")
    other = with_transducer(3)
    assert other.transducer is not None
    other.transducer.embedding.add_(1)
    export_transducer(other, ExportOptions(lengths=1)).write(tmp_path / "other")
    (tmp_path / "joiner.onnx").write_bytes((tmp_path / "other" / "joiner.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"joiner\.onnx: does not belong to the encoder"):
        open_search(runtime, tmp_path / "encoder.onnx")
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
