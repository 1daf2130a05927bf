"""``nas-encoder bench`` of whole encoders: what is measured, at what speech, what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nas_encoder.bench import measure
from nas_encoder.bench.measure import EncoderSettings, batch_for, benchmark
from nas_encoder.bench.page import markdown
from nas_encoder.bench.sources import Source, read_source
from nas_encoder.bench.subjects import Subject, build, of_module
from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError, ConfigError, NasEncoderError
from nas_encoder.genotype import load_genotype
from nas_encoder.network.complexity import count_macs, count_parameters

SMALL = "conformer{width: 8, blocks: 1, hidden: 16, heads: 2}"
FAST = ["--seconds", "0", "--repeats", "3"]
QUICK = EncoderSettings(speech=(0.3,), seconds=0.0, repeats=3)


def espnet_config(folder: Path, **more: Any) -> Path:
    config = {
        "encoder": "nas_encoder",
        "encoder_conf": {
            "genotype": load_genotype("asrnet_b").to_dict(),
            **{"layers": 3, "channels": 1, "output_size": 8, "interctc_layer_idx": [1]},
        },
        "frontend": "default",
        "frontend_conf": {"n_mels": 12, "fs": "16k", "hop_length": 128},
    }
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config | more))
    return folder


def nemo_file(path: Path, encoder: dict[str, Any]) -> Path:
    config = {"preprocessor": {"features": 24, "window_stride": 0.02}, "encoder": encoder}
    data = yaml.safe_dump(config).encode()
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("./model_config.yaml")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


def onnx_file(
    path: Path, shapes: tuple[list[Any], list[Any]], features_first: bool = True, **metadata: str
) -> Path:
    """A file whose output is the sum of its features plus a weight of three values."""
    import onnx
    from onnx import TensorProto, helper

    first = helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])
    second = helper.make_tensor_value_info("n", TensorProto.INT64, shapes[1])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1 if features_first else 2])
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"]),
        helper.make_node("ReduceSum", ["w"], ["k"], keepdims=0),
        helper.make_node("Add", ["s", "k"], ["y"]),
        helper.make_node("Identity", ["n"], ["m"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("m", TensorProto.INT64, None),
    ]
    graph = helper.make_graph(nodes, "g", [first, second], outputs, [weight, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def test_sources_of_all_kinds(tmp_path: Path) -> None:
    folder = espnet_config(tmp_path / "exp")
    found = build(read_source(f"mine={folder}"))
    assert (found.label, found.features, found.shift) == ("mine", 12, 0.008)
    assert found.genotype == load_genotype("asrnet_b").hash
    assert found.module is not None and found.parameters == count_parameters(found.module)

    block = {"_target_": "nas_encoder.nemo.NASEncoder", "genotype": "asrnet_b", "feat_in": 24}
    path = nemo_file(tmp_path / "m.nemo", block | {"d_model": 8, "layers": 3, "channels": 1})
    found = build(read_source(str(path)))
    assert (found.label, found.features, found.shift) == ("m.nemo", 24, 0.02)

    config = tmp_path / "nemo.yaml"
    interpolated = block | {"feat_in": "${model.preprocessor.features}", "layers": 3}
    document = {"model": {"preprocessor": {"features": 20}, "encoder": interpolated}}
    config.write_text(yaml.safe_dump(document))
    found = build(read_source(f"{config}{{channels: 1}}"))
    assert (found.features, found.shift) == (20, 0.01)

    known = build(read_source(SMALL), features=16)
    assert known.features == 16 and known.label == SMALL
    other = build(read_source("conformer{width: 16, blocks: 1, hidden: 16, heads: 2}"), features=16)
    assert known.parameters is not None and other.parameters is not None
    assert known.parameters < other.parameters
    found = build(read_source("asrnet_b{layers: 3}"), {"channels": 1, "layers": 9}, 8)
    assert found.parameters == count_parameters(build(read_source("asrnet_b"),
        {"channels": 1, "layers": 3}, 8).module or torch.nn.Identity())  # fmt: skip

    assert read_source("espnet:conformer{num_blocks: 2}").options == {"num_blocks": 2}
    ours = read_source("espnet:nas{genotype: asrnet_b, block_size: 40, hop_size: 9, look_ahead: 9}")
    assert ours.options == {"genotype": "asrnet_b"}
    source = read_source("S=nemo.collections.asr.modules.ConformerEncoder{feat_in: 80}")
    assert (source.kind, source.label, source.features) == ("nemo", "S", 80)


def test_the_speech_is_as_long_for_all_whatever_their_frames() -> None:
    source = Source("a", "a", "own", "a")
    short = Subject(source, 4, 0.01, lambda x, n: x, None, 1)
    long = Subject(source, 5, 0.04, lambda x, n: x, None, 1)
    settings = EncoderSettings(speech=(2.0, 1.0), batch=3)
    batch, other = batch_for(short, settings), batch_for(long, settings)
    assert batch.lengths.tolist() == [200, 100, 200] and other.lengths.tolist() == [50, 25, 50]
    assert batch.seconds == other.seconds == pytest.approx(5.0)
    assert batch.x.shape == (3, 200, 4) and other.x.shape == (3, 50, 5)
    assert not batch.x[1, 100:].any() and batch.x[1, :100].all()
    wave = Subject(source, 0, 1 / 16000, lambda x, n: x, None, 1, waveform=True)
    assert batch_for(wave, settings).x.shape == (3, 32000)


def test_a_benchmark_and_its_page() -> None:
    subjects = [
        build(read_source(f"a={SMALL}"), features=8),
        build(read_source("b=asrnet_b{layers: 3, channels: 1}"), features=8),
    ]
    found = benchmark(subjects, QUICK, "b")
    first, second = found["networks"]
    assert subjects[0].module is not None
    assert first["macs"] == count_macs(subjects[0].module, 30, 8)
    assert first["speech_seconds"] == pytest.approx(0.3)
    for row in (first, second):
        for what in ("inference", "step"):
            times = row[what]["1"]
            assert len(times["each_ms"]) == 3 and times["ms"] > 0
            assert times["rtf"] == pytest.approx(times["ms"] / 300)
        assert 0 < row["memory_mib"]["inference"] < row["memory_mib"]["step"]
    assert second["inference"]["1"]["ratio"] == second["step"]["1"]["ratio"] == 1.0
    assert first["inference"]["1"]["ratio"] < 1
    page = markdown(found)
    assert "ratios to b in each round" in page and "| a " in page and "step MiB" in page


def test_ratios_are_medians_of_rounds_not_ratios_of_medians(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other work slows both encoders in a round: the second takes twice the first's time."""
    # a, b in three rounds: 1 and 2, 100 and 200 (busy), 4 and 8.
    clock = iter([0, 1, 1, 3, 3, 103, 103, 303, 303, 307, 307, 315])
    monkeypatch.setattr(measure, "quiet_clock", lambda device: lambda: float(next(clock)))
    monkeypatch.setattr(measure, "_WARM_UP", 0)
    source = Source("a", "a", "own", "a")
    subjects = [
        Subject(source, 4, 0.01, lambda x, n: x, None, 1),
        Subject(Source("b", "b", "own", "b"), 4, 0.01, lambda x, n: x, None, 1),
    ]
    rows = benchmark(subjects, QUICK)["networks"]
    assert [row["inference"]["1"]["ms"] for row in rows] == [4000.0, 8000.0]
    assert [row["inference"]["1"]["ratio"] for row in rows] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("shape", "first"), [(["b", 8, "t"], True), (["b", "t", 8], False), (["b", "n"], True)]
)
def test_exported_files(tmp_path: Path, shape: list[Any], first: bool) -> None:
    path = onnx_file(tmp_path / "m.onnx", (shape, ["b"]), first)
    found = build(read_source(str(path)))
    assert found.parameters == 3 and found.features == (8 if len(shape) == 3 else 0)
    size = (2, 50) if found.waveform else (2, 50, 8)
    x, lengths = torch.rand(size), torch.tensor([50, 30])
    output, seen = found.encode(x, lengths)
    wanted = x.sum(1, keepdim=True) if found.waveform else x.sum(-1)[:, None]
    torch.testing.assert_close(torch.from_numpy(output).reshape(wanted.shape), wanted + 6)
    assert seen.tolist() == [50, 30]
    assert found.shift == (1 / 16000 if found.waveform else 0.01)
    about = {"sample_rate": "8000", "hop_length": "160"}
    onnx_file(path, (shape, ["b"]), first, **about)
    assert build(read_source(str(path))).shift == (1 / 8000 if found.waveform else 0.02)
    ours = build(read_source(SMALL), features=8)
    rows = benchmark([ours, found], QUICK)["networks"]
    assert rows[1]["macs"] is None and not rows[1]["step"] and rows[1]["inference"]["1"]["ratio"]


@pytest.mark.parametrize(
    ("shape", "lengths", "problems"),
    [
        (["b", "f", "t"], ["b"], ["exactly one of its last two sizes must be fixed"]),
        (
            ["b", 8, "t", 2],
            ["b", "t"],
            ["input x: must be float", "input n: must be integers (batch,)"],
        ),
    ],
)
def test_exported_files_that_do_not_fit(
    tmp_path: Path, shape: list[Any], lengths: list[Any], problems: list[str]
) -> None:
    path = onnx_file(tmp_path / "m.onnx", (shape, lengths))
    with pytest.raises(CheckpointError) as caught:
        build(read_source(str(path)))
    assert len(caught.value.problems) == len(problems)
    assert all(problem in str(caught.value) for problem in problems)
    onnx_file(path, (["b", 8, "t"], ["b"]), sample_rate="x", hop_length="0")
    with pytest.raises(CheckpointError, match=r"(?s)sample_rate: must be.*hop_length: must be"):
        build(read_source(str(path)))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="onnxruntime refuses it"):
        build(read_source(str(path)))


def test_the_command_writes_all_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [tmp_path / name for name in ("b.json", "b.md", "b.png", "b.svg")]
    words = [word for path in outputs for word in ("--output", str(path))]
    command = ["bench", f"a={SMALL}", "b=asrnet_b", "--layers", "3", "--channels", "1"]
    sizes = ["--input-size", "8", "--frames", "20", "--no-training", *FAST]
    assert main([*command, *sizes, *words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(outputs[0].read_text()) == printed
    assert [row["lengths"] for row in printed["networks"]] == [[20], [20]]
    assert printed["networks"][1]["genotype"] == "asrnet_b"
    assert outputs[1].read_text().startswith("| encoder")
    assert all(path.stat().st_size > 1000 for path in outputs[2:])


def test_everything_wrong_is_named_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    espnet_config(tmp_path / "exp", frontend="s3prl")
    target = nemo_file(tmp_path / "m.nemo", {"_target_": "os.system"})
    command = [
        "bench",
        str(tmp_path / "exp"),
        str(target),
        "asrnet_c",
        "m.onnx",
        "zipformers{a: 1}",
    ]
    assert main([*command, "--batch", "0", "--output", "b.txt", "--repeats", "1"]) == 2
    said = capsys.readouterr().err
    for problem in (
        "frontend: how many features it has is known only of 'default', got 's3prl'",
        "encoder._target_: must be a class of NeMo's",
        "asrnet_c: genotype",
        "m.onnx: no such file",
        "batch: must be in 1..4096, got 0",
        "--output: must end in one of .json, .md",
        "repeats: must be in 3..1000000, got 1",
        "zipformers",
    ):
        assert problem in said
    assert main(["bench", "asrnet_a", "asrnet_a", "--reference", "x", *FAST]) == 2
    said = capsys.readouterr().err
    assert "asrnet_a twice; give labels" in said and "reference: must be one of asrnet_a" in said


def test_outputs_that_cannot_be_written_are_named_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    (tmp_path / "is.md").mkdir()
    outputs = ["gone/x.md", "is.md", "x.png", "gone/y.svg"]
    words = [word for path in outputs for word in ("--output", path)]
    assert main(["bench", "asrnet_c", *words, *FAST]) == 2
    said = capsys.readouterr()
    for problem in (
        "--output: there is no folder 'gone' for 'x.md'; make it",
        "--output: must be a file, 'is.md' is a folder",
        "--output: the plot of a benchmark needs the package 'matplotlib'",
        "--output: there is no folder 'gone' for 'y.svg'; make it",
        "asrnet_c: genotype",
    ):
        assert problem in said.err
    assert "inference" not in said.err and not said.out


def test_what_was_measured_is_printed_even_if_a_file_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    words = [word for name in ("b.md", "b.png") for word in ("--output", str(tmp_path / name))]
    sizes = ["--input-size", "8", "--frames", "20", "--no-training", *FAST]
    assert main(["bench", SMALL, *sizes, *words]) == 2
    said = capsys.readouterr()
    assert said.out.startswith("| encoder")
    for name in ("b.md", "b.png"):
        problem = "cannot be written: No space left on device"
        assert f"--output: {tmp_path / name}: {problem}" in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("conformer{width: 64", "the brace of its options is not closed; end it with '}'"),
        ("a=conformer width: 64}", "has a '}', but no '{' that its options begin with"),
        ("conformer{width: 64}, x", "must end with the '}' of its options, has ', x' after it"),
        ("conformer" * 50, "unknown name"),
    ],
)
def test_texts_that_name_no_encoder(text: str, problem: str) -> None:
    with pytest.raises(NasEncoderError) as caught:
        build(read_source(text))
    assert problem in str(caught.value)


@pytest.mark.parametrize("name", ["espnet:conformer", "S=nemo.collections.asr.modules.Conformer"])
def test_options_may_be_longer_than_a_name_of_a_file(name: str) -> None:
    options = {f"option_{number}": number for number in range(40)}
    text = f"{name}{json.dumps(options)}"
    assert len(text) > 255 and read_source(text).options == options
    assert read_source(f"{text} ").options == options


def test_a_file_may_have_braces_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "{mine.yaml"
    load_genotype("asrnet_b").save(path)
    assert read_source(str(path)).name == str(path)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["asrnet_a", "--widths", "8"], "--widths: goes with --operations"),
        (["--operations", "--speech", "3"], "--speech: goes with encoders"),
        (["--operations", "--threads", "1,2"], "--threads: must be one number"),
        (["asrnet_a", "--speech", "3", "2", "--batch", "1"], "batch: must be at least 2"),
        (["asrnet_a", "--precision", "bf16-mixed"], "precision: training steps in bf16 can crash"),
        (["asrnet_a", "--frames", "3"], "fails on a batch of shape (1, 3, 80)"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_an_encoder_that_fails_is_named() -> None:
    tiny = build(read_source(f"a={SMALL}"), features=8)
    with pytest.raises(ConfigError, match=r"a: fails on a batch of shape \(1, 1, 8\)"):
        benchmark([tiny], EncoderSettings(frames=1, seconds=0.0, repeats=3))


def test_whatever_error_a_toolkit_has_is_named() -> None:
    class OwnError(Exception):
        """As ESPnet's TooShortUttError: of no common base."""

    class Encoder(torch.nn.Linear):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
            raise OwnError("it is\ntoo short")

    subject = of_module("a", Encoder(8, 8), 8)
    with pytest.raises(ConfigError, match=r"a: fails on a batch .*: OwnError: it is too short"):
        benchmark([subject], QUICK)
