"""Smaller forms of exports: what is in 8 bits, what it costs, and that the cost is bounded."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
import soundfile
import torch
from export_samples import model
from interchange_samples import espnet_folder

from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.export import control
from nas_encoder.export.control import HALF, INT8, add_half, add_int8, reducer
from nas_encoder.export.export import Exported, ExportOptions, export_model
from nas_encoder.export.material import generated
from nas_encoder.export.rates import Rate, rates_of
from nas_encoder.export.runtime import open_model

RATE = 16000


@pytest.fixture(autouse=True)
def short_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are not what is tested here."""
    monkeypatch.setattr(control, "_SECONDS", 1.0)


def spoken(exported: Exported, folder: Path, wrong: str = "", count: int = 2) -> str:
    """Write a manifest whose texts are what the model says, but for ``wrong``."""
    lines = []
    for number, one in enumerate(generated(RATE, count)):
        path = folder / f"{number}.wav"
        soundfile.write(path, one.samples.numpy(), RATE, subtype="FLOAT")
        assert exported.runtime.vocabulary is not None
        text = exported.runtime.vocabulary.text(
            exported.runtime.run([one.samples])[0].argmax(1).tolist()
        )
        line = {"audio_filepath": str(path), "duration": len(one.samples) / RATE}
        lines.append(json.dumps({**line, "text": text + wrong}) + "\n")
    (folder / "data.json").write_text("".join(lines), "utf-8")
    return str(folder / "data.json")


def test_errors_are_counted_in_words_and_characters() -> None:
    rates = rates_of(["a bc d", "e"], ["a bd  d", ""])
    assert rates["wer"] == Rate((1, 1), (3, 1)) and rates["cer"] == Rate((1, 1), (6, 1))
    facts = rates["wer"].to_dict()
    assert facts["percent"] == 50.0 and facts["errors"] == 2
    assert facts["interval"] == [33.33, 100.0]


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "method"), [("conformer", "dynamic"), ("cells", "static")])
def test_int8_and_fp16_cost_no_more_than_allowed(encoder: str, method: str, tmp_path: Path) -> None:
    exported = export_model(model(encoder), ExportOptions(lengths=3))
    data = spoken(exported, tmp_path, wrong=" ABCABCABCABCABCABCABC")
    given = reducer(exported, data, increase=500.0)
    add_int8(given)
    add_half(given)
    exported.write(tmp_path / "out")
    facts = exported.report["int8"]
    assert facts["method"] == method and facts["left_in_float32"] == []
    assert 0.5 < facts["multiply_adds_in_8_bits"] < 1
    graph = onnx.load(tmp_path / "out" / INT8).graph
    counted = Counter(node.op_type for node in graph.node)
    if method == "dynamic":
        assert counted["MatMulInteger"] == facts["layers"] > 15
    else:
        assert counted["QuantizeLinear"] > facts["layers"] > 20
        kernels = {one.name: one for one in graph.initializer}
        kinds = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        weights = [kernels[name] for name in kinds if name in kernels]
        assert any(len(one.dims) == 4 and one.data_type == onnx.TensorProto.INT8 for one in weights)
        assert "audio" in [one.name for one in graph.input]
    for form, file in (("int8", INT8), ("fp16", HALF)):
        facts = exported.report[form]
        before, after = facts["before"]["cer"], facts["after"]["cer"]
        assert after["errors"] <= 6 * before["errors"] and before["errors"] > 20
        runtime = open_model(tmp_path / "out" / file)  # metadata and tokens are the model's
        found = [runtime.run([x])[0].argmax(1).tolist() for x in given.inputs]
        assert runtime.vocabulary is not None
        texts = [runtime.vocabulary.text(path) for path in found]
        assert rates_of(given.texts, texts)["cer"].to_dict() == after
        assert exported.report["bytes"][file] == (tmp_path / "out" / file).stat().st_size
        assert set(facts["milliseconds_for_10_s"]) == {"float32", form}


@pytest.mark.slow
def test_layers_that_cost_too_much_stay_in_float32(tmp_path: Path) -> None:
    """One layer is made such that 8 bits ruin it: channels of very unequal size go into it."""
    broken = model("conformer")
    weights = broken.encoder.weights
    name = "network.blocks.1.layers.1"
    scale = torch.logspace(-4, 4, weights[f"{name}.norm.weight"].numel())
    linear = next(
        key for key in weights if key.startswith(name) and weights[key].shape[1:] == scale.shape
    )
    weights[f"{name}.norm.weight"] = weights[f"{name}.norm.weight"] * scale
    weights[f"{name}.norm.bias"] = weights[f"{name}.norm.bias"] * scale
    weights[linear] = weights[linear] / scale
    exported = export_model(broken, ExportOptions(lengths=1))
    data = spoken(exported, tmp_path, wrong=" ABC")
    tried: list[tuple[int, int]] = []
    given = reducer(exported, data, increase=30.0)
    add_int8(given, lambda *progress: tried.append(progress))
    facts = exported.report["int8"]
    assert tried[-1][0] == tried[-1][1] > facts["layers"]
    assert "layers.1" in facts["left_in_float32"][0]
    assert facts["after"]["cer"]["errors"] <= 1.3 * facts["before"]["cer"]["errors"]


@pytest.mark.slow
def test_too_many_errors_and_no_texts_are_refused(tmp_path: Path) -> None:
    exported = export_model(model("hourglass"), ExportOptions(lengths=1))
    with pytest.raises(ConfigError, match="2 problems"):
        reducer(exported, None, -1.0)
    data = Path(spoken(exported, tmp_path, count=4))
    # The texts are the model's own, so that every difference is an error.
    with pytest.raises(CheckpointError, match="an increase of 0 % is allowed"):
        add_int8(reducer(exported, str(data), 0.0))
    assert not any(name.startswith("model.int8") for name in exported.files)
    data.write_text(data.read_text("utf-8").replace('"text"', '"said"'), "utf-8")
    with pytest.raises(DataError, match="every utterance needs a text"):
        reducer(exported, str(data), 1.0)


def test_the_command_says_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for number, one in enumerate(generated(RATE, 2)):
        soundfile.write(tmp_path / f"{number}.wav", one.samples.numpy(), RATE, subtype="PCM_16")
        row = {"audio_filepath": str(tmp_path / f"{number}.wav"), "text": "AB A"}
        lines.append(json.dumps({**row, "duration": len(one.samples) / RATE}) + "\n")
    (tmp_path / "data.json").write_text("".join(lines), "utf-8")
    folder = espnet_folder(tmp_path / "exp", "dfsmn_san")
    words = ["export", str(folder), str(tmp_path / "out"), "--lengths", "4", "--int8", "--fp16"]
    assert main(words) == 2
    assert "errors are counted on utterances with texts" in capsys.readouterr().err
    assert main([*words, "--data", str(tmp_path / "data.json"), "--max-increase", "900"]) == 0
    said = capsys.readouterr().out
    for form in ("int8", "fp16"):
        found = [line for line in said.splitlines() if line.split()[0] == form]
        assert any("CER" in line and "on 2 utterances" in line for line in found)
        assert any("ms for 10 s, one thread" in line for line in found)
        assert any(line.endswith(" MB") for line in found)
        assert (tmp_path / "out" / f"model.{form}.onnx").is_file()
    # A form with too many errors does not cost the others, nor does an old one stay.

    def ruined(given: object, progress: object) -> None:
        raise CheckpointError("int8", ["makes 9 character errors"])

    monkeypatch.setattr(control, "add_int8", ruined)
    assert main([*words, "--data", str(tmp_path / "data.json"), "--max-increase", "900"]) == 1
    assert "int8       is not written: makes 9 character errors" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert report["not_written"] == {"int8": ["makes 9 character errors"]}
    left = {file.name for file in (tmp_path / "out").iterdir()}
    assert left == {"model.onnx", "model.fp16.onnx", "tokens.txt", "export.json"}


def test_options_are_checked_together_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    def said(*words: str) -> str:
        assert main(["export", str(tmp_path / "absent"), *words]) == 2
        return capsys.readouterr().err

    text = said(str(tmp_path / "file" / "out"), "--int8", "--max-increase", "nan", "--lengths", "0")
    assert "4 problems" in text and "--data: is missing" in text
    assert "--max-increase: must be in 0..1000 percent, got nan" in text
    assert "cannot be made" in text and "--lengths: must be in 1..10000, got 0" in text
    text = said(str(tmp_path / "file"), "--max-increase", "3", "--utterances", "3", "--set", "a=1")
    assert "4 problems" in text and "--max-increase: goes with" in text
    assert "must be a folder" in text and "--utterances: goes with --data" in text
    text = said(
        str(tmp_path / "out"),
        *("--weights", "w.pt", "--checkpoint", "x.pth", "--bpe-model", "m", "--input", "audio"),
        *("--int8", "--fp16", "--data", str(tmp_path / "none.json")),
    )
    assert "6 problems" in text and f"--data: {tmp_path / 'none.json'}: no such file" in text
    assert text.count("does not go with --weights") == 5
