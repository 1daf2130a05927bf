"""Exports in the real OpenVINO: checked in it, the same texts, and measured beside onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import openvino
import pytest
import soundfile
import torch
from export_samples import ENCODERS, model, with_transducer

from nas_encoder.bench.sources import read_source
from nas_encoder.bench.subjects import build
from nas_encoder.cli.main import main
from nas_encoder.deploy import engines
from nas_encoder.deploy.engines import OPENVINO, open_session
from nas_encoder.errors import CheckpointError, ConfigError, MissingDependencyError
from nas_encoder.export import control
from nas_encoder.export.control import HALF, INT8, add_bfloat, add_half, add_int8, reducer
from nas_encoder.export.export import ExportOptions, export_model
from nas_encoder.export.material import generated
from nas_encoder.export.runtime import open_model
from nas_encoder.export.streaming.export import export_stream
from nas_encoder.export.transducer.export import export_transducer

RATE = 16000
OPTIONS = ExportOptions(lengths=3, engine=OPENVINO)


def wav_files(folder: Path, count: int = 2) -> list[str]:
    paths = [folder / f"{number}.wav" for number in range(count)]
    for path, one in zip(paths, generated(RATE, count), strict=True):
        soundfile.write(path, one.samples.numpy(), RATE, subtype="FLOAT")
    return [str(path) for path in paths]


def openvino_capabilities() -> list[str]:
    found: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def heard(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return the texts of both engines, which must be the same."""
    texts = []
    for engine in engines.EXACT:
        assert main(["transcribe", *words, "--json", "--runtime", engine]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        texts.append([line["text"] for line in lines if "text" in line])
    assert texts[0] == texts[1]
    return texts[0]


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_every_family_is_equal_in_openvino(encoder: str) -> None:
    # The check compares every length, alone and in padded batches, with torch.
    exported = export_model(model(encoder, "nemo per feature"), OPTIONS)
    assert exported.runtime.engine == exported.report["engine"] == OPENVINO
    assert isinstance(exported.runtime.session, engines.OpenVINOSession)
    assert exported.report["checked"]["worst"] < 1e-3


def test_smaller_forms_and_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control, "_SECONDS", 1.0)
    files, out = wav_files(tmp_path), tmp_path / "out"
    for encoder in ("conformer", "cells"):
        exported = export_model(model(encoder), OPTIONS)
        rows = [{"audio_filepath": name, "duration": 1.0, "text": "A B C"} for name in files]
        (tmp_path / "data.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = reducer(exported, str(tmp_path / "data.json"), increase=500.0)
        add_int8(given)
        add_half(given)
        exported.write(out)
        report = json.loads((out / "export.json").read_text())
        assert report["engine"] == OPENVINO
        for form, file in (("int8", INT8), ("fp16", HALF)):
            again = open_model(out / file, engine=OPENVINO)
            errors = control._rates(given, again)["cer"].to_dict()["errors"]
            assert errors == report[form]["after"]["cer"]["errors"]
            assert report[form]["milliseconds_for_10_s"][form] > 0
        if engines.BFLOAT in openvino_capabilities():
            add_bfloat(given)
            assert exported.report["bf16"]["after"]["cer"]["errors"] > 0
            again = open_model(out / "model.onnx", engine=engines.BF16)
            exact, rounded = (one.run(given.inputs[:1])[0] for one in (exported.runtime, again))
            assert 1e-3 < float((exact - rounded).abs().max()) < 1e3  # it is another precision
        else:
            with pytest.raises(CheckpointError, match="does not compute in bfloat16"):
                add_bfloat(given)
        heard(capsys, str(out / "model.onnx"), *files)


def test_streams_and_transducers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = wav_files(tmp_path)
    export_stream(model("streaming"), OPTIONS).write(tmp_path / "live")
    heard(capsys, str(tmp_path / "live" / "model.onnx"), "--stream", *files)
    export_transducer(with_transducer(2), OPTIONS).write(tmp_path / "greedy")
    assert any(heard(capsys, str(tmp_path / "greedy" / "encoder.onnx"), *files))


def test_it_is_measured_beside_onnxruntime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(model("hourglass"), ExportOptions("features", lengths=1)).write(tmp_path)
    path = str(tmp_path / "model.onnx")
    sources = [f"a={path}", f"b={path}{{runtime: openvino}}"]
    first, second = (build(read_source(source)) for source in sources)
    x, lengths = torch.randn(2, 40, first.features), torch.tensor([40, 33])
    for one, other in zip(first.encode(x, lengths), second.encode(x, lengths), strict=True):
        torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other))
    assert (first.note.split(";")[0], second.note.split(";")[0]) == engines.EXACT
    assert (first.features, first.shift, first.parameters) == (
        *(second.features, second.shift, second.parameters),
    )
    assert second.setup is not None
    second.setup(2)
    assert len(list(second.encode(x, lengths))) == 2
    bfloat = read_source(f"{path}{{runtime: openvino-bf16}}")
    if engines.BFLOAT in openvino_capabilities():
        assert build(bfloat).note.startswith(engines.BF16)
    else:
        with pytest.raises(CheckpointError, match="does not compute in bfloat16"):
            build(bfloat)
    with pytest.raises(ConfigError, match="openvino is measured on CPUs only"):
        build(read_source(sources[1]), device="cuda")
    for wrong in ("{runtime: tensorrt}", "{threads: 2}"):
        with pytest.raises(
            ConfigError, match="takes the option runtime, onnxruntime or openvino or openvino-bf16"
        ):
            read_source(path + wrong)


@pytest.mark.parametrize("as_node", [False, True])
def test_whole_numbers_that_openvino_would_cut_are_refused(as_node: bool) -> None:
    def graph(number: int) -> bytes:
        far = onnx.helper.make_tensor("far", onnx.TensorProto.INT64, [1], [number])
        place, size = (
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1])
            for name in ("place", "size")
        )
        nodes = [onnx.helper.make_node("Add", ["place", "far"], ["size"])]
        if as_node:
            nodes.insert(0, onnx.helper.make_node("Constant", [], ["far"], value=far))
        made = onnx.helper.make_graph(nodes, "far", [place], [size], [] if as_node else [far])
        opset = [onnx.helper.make_opsetid("", 17)]
        model = onnx.helper.make_model(made, opset_imports=opset, ir_version=8)
        return bytes(model.SerializeToString())

    feed = {"place": torch.tensor([3]).numpy()}
    (found,) = open_session(graph(1 << 30), "near", engine=OPENVINO).run(None, feed)
    assert found.tolist() == [(1 << 30) + 3]
    for number in (1 << 31, 1 << 48, -(1 << 48)):
        with pytest.raises(CheckpointError, match=f"far: openvino .* number {number}, of which"):
            open_session(graph(number), "far", engine=OPENVINO)
    open_session(graph((1 << 63) - 1), "to the end", engine=OPENVINO)  # as slices have it


def test_what_openvino_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"some\.onnx: openvino refuses it: "):
        open_session(b"\x08\x01", "some.onnx", engine=OPENVINO)
    with pytest.raises(ConfigError, match="runtime: must be onnxruntime or openvino, got 'x'"):
        ExportOptions(engine="x")

    def missing(name: str) -> Any:  # as Python does: the package, not what is asked of it
        whole = name.partition(".")[0]
        raise ModuleNotFoundError(f"No module named '{whole}'", name=whole)

    monkeypatch.setattr(engines.importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'nas_encoder\[openvino\]'"):
        open_session(b"", "some.onnx", engine=OPENVINO)
    for part in ("quantization", "transformers.float16"):
        with pytest.raises(MissingDependencyError, match=r"pip install 'nas_encoder\[export\]'"):
            engines.require(f"onnxruntime.{part}", "smaller forms")
