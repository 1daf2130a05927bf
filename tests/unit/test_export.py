"""The files of an export: written whole or not at all; hostile ones are refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from export_samples import BINS, CELLS, model
from interchange_samples import espnet_folder

from nas_encoder import build_encoder, load_genotype
from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.export.export import ExportOptions, Written, export_model
from nas_encoder.export.material import generated
from nas_encoder.export.recognizer import parts_of
from nas_encoder.export.runtime import open_model
from nas_encoder.export.transcribe import Transcriber
from nas_encoder.export.vocabulary import Vocabulary, read_vocabulary
from nas_encoder.interchange.model import Head

RATE = 16000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export of a small model that takes audio."""
    folder = tmp_path_factory.mktemp("exported")
    export_model(model("hourglass"), ExportOptions(lengths=2)).write(folder)
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def problems_of(call: Callable[[], Any], error: type[Any] = CheckpointError) -> str:
    with pytest.raises(error) as found:
        call()
    return str(found.value)


# -- tokens --------------------------------------------------------------------------------------


def head_of(tokens: list[str], kind: str) -> Head:
    return Head(tokens, torch.randn(len(tokens), 4), torch.randn(len(tokens)), kind)


def test_text_of_each_kind_of_tokens() -> None:
    for kind, tokens, path, text in (
        ("char", ["<space>", "A", "B"], [1, 1, 3, 1, 0, 0, 2, 3], "AA B"),
        ("word", ["hello", "you"], [0, 2, 1], "hello you"),
        ("bpe", ["\u2581he", "llo"], [0, 1, 2, 0], "hello he"),
    ):
        vocabulary, order = Vocabulary.of_head(head_of(["<blank>", *tokens], kind))
        assert order == [*range(1, len(tokens) + 1), 0]
        assert vocabulary.text(path) == text
        assert vocabulary.blank == len(tokens)


def test_the_end_of_a_sentence_is_not_written_out_and_added_classes_are_left_out() -> None:
    head = head_of(["<blank>", "<unk>", "A", "<sos/eos>"], "char")
    head.weight[1], head.bias[1] = 0.0, -1e4
    vocabulary, order = Vocabulary.of_head(head)
    assert vocabulary.symbols == ("A", "</s>", "<blk>") and order == [2, 3, 0]
    assert vocabulary.text([0, 1, 0]) == "AA"


def test_tokens_are_read_as_written(tmp_path: Path) -> None:
    # A line separator of Unicode is a sign like others in a token.
    vocabulary = Vocabulary(("\u2581", "a\u2063", "1", "<blk>"))
    file = tmp_path / "tokens.txt"
    file.write_bytes(vocabulary.to_bytes())
    assert read_vocabulary(file) == vocabulary
    file.write_bytes(vocabulary.to_bytes().replace(b"\n", b"\r\n"))
    assert read_vocabulary(file) == vocabulary


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1: must be 'SYMBOL 0', got ''"),
        (b"a 0\nb 2\n<blk> 2\n", "line 2: must be 'SYMBOL 1', got 'b 2'"),
        (b"a 0\n<blk> 1\nb 2\n", "the last class must be the blank"),
        (b"a 0\nb 1\n", "must name the blank, <blk>, once"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"a 0\n\nb 1\n", "2 problems"),
    ],
)
def test_other_files_are_no_tokens(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_bytes(content)
    assert words in problems_of(lambda: read_vocabulary(tmp_path / "tokens.txt"))


def test_tokens_that_cannot_be_written_are_refused() -> None:
    head = head_of(["<blank>", "a b", "<blk>", "", "fine"], "char")
    text = problems_of(lambda: Vocabulary.of_head(head))
    assert "3 problems" in text and "'a b': is empty or holds white space" in text
    assert "'<blk>': runtimes take it for the blank" in text


# -- files ---------------------------------------------------------------------------------------


def change(path: Path, edit: Callable[[Any], object]) -> None:
    graph = onnx.load(path)
    edit(graph)
    path.write_bytes(graph.SerializeToString())


def test_truncated_files_are_refused(copied: Path) -> None:
    path = copied / "model.onnx"
    content = path.read_bytes()
    assert open_model(path).takes == "audio"
    for part in (0.0, 0.001, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(len(content) * part)])
        assert str(path) in problems_of(lambda: open_model(path))
    for other in (b"PK\x03\x04", b"\x00" * 1000, b"not a graph\n" * 50):
        path.write_bytes(other)
        assert str(path) in problems_of(lambda: open_model(path))


def test_what_is_no_export_is_refused(copied: Path, tmp_path: Path) -> None:
    path = copied / "model.onnx"
    content = path.read_bytes()

    def refused(edit: Callable[[Any], object], words: str) -> None:
        path.write_bytes(content)
        change(path, edit)
        assert words in problems_of(lambda: open_model(path))

    def external(graph: Any) -> None:
        external_tensor(graph.graph.initializer[0])

    def external_tensor(tensor: Any) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")

    def external_constant(graph: Any) -> None:
        node = next(n for n in graph.graph.node if n.op_type == "Constant")
        external_tensor(node.attribute[0].t)

    def subgraph(graph: Any) -> None:
        node = graph.graph.node.add(op_type="If", input=["length"], output=["nothing"])
        inner = onnx.helper.make_graph([], "inner", [], [])
        node.attribute.append(onnx.helper.make_attribute("then_branch", inner))

    def meta(key: str, value: str) -> Callable[[Any], None]:
        def edit(graph: Any) -> None:
            next(e for e in graph.metadata_props if e.key == key).value = value

        return edit

    newest = onnx.defs.onnx_opset_version()
    refused(
        lambda g: setattr(g.opset_import[0], "version", newest + 1), f"needs opset {newest + 1}"
    )
    refused(lambda g: setattr(g, "ir_version", 99), "onnxruntime refuses it")
    refused(external, "its values are in another file")
    refused(external_constant, "its values are in another file")
    refused(subgraph, "holds graphs in graphs or functions")
    refused(lambda g: g.ClearField("metadata_props"), "was not written by 'nas-encoder export'")
    refused(meta("nas_encoder_format", "2"), "update nas_encoder")
    refused(meta("sample_rate", "9" * 5000), "must be an integer from 1 to 1000000")
    refused(meta("hop_length", "0"), "hop_length: must be an integer from 1 to 1000000")
    refused(meta("subsampling_factor", "-4"), "must be an integer from 1 to 1024")
    refused(meta("input", "video"), "must be one of audio, features")
    refused(meta("input", "features"), "its inputs (and their dimensions) must be")
    refused(lambda g: setattr(g.graph.node[-1], "op_type", "Teleport"), "onnxruntime refuses it")
    with path.open("wb") as file:
        file.truncate((1 << 31) + 5)  # a hole, which takes no space
    assert "is larger than 2147483647 bytes" in problems_of(lambda: open_model(path))
    assert "cannot be read" in problems_of(lambda: open_model(tmp_path / "absent.onnx"))


def test_tokens_of_another_model_are_refused(copied: Path) -> None:
    path, tokens = copied / "model.onnx", copied / "tokens.txt"
    lines = tokens.read_text("utf-8").splitlines()
    tokens.write_text("\n".join([*lines[1:-1], f"{lines[0][0]} 5", "<blk> 6"]), "utf-8")
    assert "must be 'SYMBOL 0'" in problems_of(lambda: open_model(path))
    order = [line.rpartition(" ")[0] for line in lines]
    order[1], order[2] = order[2], order[1]  # as many, in another order
    tokens.write_text("".join(f"{s} {i}\n" for i, s in enumerate(order)), "utf-8")
    assert "is not the model's" in problems_of(lambda: open_model(path))
    tokens.unlink()
    assert "tokens.txt: cannot be read" in problems_of(lambda: open_model(path))


# -- the command ---------------------------------------------------------------------------------


def test_command_line_of_an_espnet_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = espnet_folder(tmp_path / "exp")
    assert main(["export", str(folder), str(tmp_path / "out"), "--lengths", "12"]) == 0
    said = capsys.readouterr().out
    assert "every length from 1 to 12 frames" in said and "generated sounds" in said
    assert "left out   decoder.embed.0.weight" in said
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "model.onnx",
        "tokens.txt",
        "export.json",
    }
    report = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    runtime = open_model(tmp_path / "out" / "model.onnx")
    assert runtime.metadata == report["metadata"]
    assert runtime.metadata["genotype_hash"] == load_genotype("darts_v2").hash
    assert "dump/raw/train/wav.scp" in runtime.metadata["training"]
    assert runtime.metadata["license"] == "unknown"
    # Nothing is written over a file, nor for options that make no sense.
    assert main(["export", str(folder), str(tmp_path / "out" / "model.onnx")]) == 2
    assert main(["export", str(folder), str(tmp_path / "no"), "--lengths", "0"]) == 2
    assert main(["export", str(folder), str(tmp_path / "no"), "--set", "input_size=3"]) == 2
    assert not (tmp_path / "no").exists()


def test_what_another_export_wrote_does_not_stay_beside_this_one(tmp_path: Path) -> None:
    forms = {"model.int8.onnx": b"of other weights", "model.fp16.onnx": b"of other weights"}
    (tmp_path / "tokens.txt").write_text("not of an export")
    Written({}, {"model.onnx": b"1", **forms}).write(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        *("model.onnx", "export.json", "tokens.txt", *forms)
    }
    (tmp_path / "other.txt").write_text("not ours")
    Written({}, {"model.onnx": b"2"}).write(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "export.json", "other.txt"}
    (tmp_path / "model.fp16.onnx").mkdir()
    with pytest.raises(CheckpointError, match="is of an earlier export and cannot be removed"):
        Written({}, {"model.onnx": b"3"}).write(tmp_path)


@pytest.mark.slow
def test_an_encoder_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_encoder("asrnet_b", input_size=BINS, **CELLS)  # type: ignore[arg-type]
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = [f"--set={name}={value}" for name, value in {**CELLS, "input_size": BINS}.items()]
    words = ["export", "asrnet_b", str(tmp_path / "out"), "--weights", str(tmp_path / "weights.pt")]
    assert main([*words, *options, "--lengths", "9"]) == 0  # it takes features
    runtime = open_model(tmp_path / "out" / "model.onnx")
    assert runtime.vocabulary is None and not (tmp_path / "out" / "tokens.txt").exists()
    x = torch.randn(61, BINS)
    with torch.no_grad():
        expected = network.eval()(x[None], torch.tensor([61]))[0][0]
    torch.testing.assert_close(runtime.run([x])[0], expected, rtol=0, atol=1e-4)
    assert main([*words, "--input", "features"]) == 2  # weights of another size
    assert "no CTC layer" in problems_of(lambda: Transcriber(runtime))


def test_parts_that_would_be_lost_are_refused() -> None:
    whole = model("hourglass")
    whole.obstacles.append("preencoder: 'linear': has no counterpart in NeMo before the encoder")
    whole.notes.append("adapters: the encoder has some; without them it gives other outputs")
    text = problems_of(lambda: parts_of(whole))
    assert "preencoder" in text and "adapters" in text


# -- recordings ----------------------------------------------------------------------------------


def test_recordings_are_read_in_windows(exported: Path, tmp_path: Path) -> None:
    runtime = open_model(exported / "model.onnx")
    sound = torch.cat([one.samples for one in generated(RATE)])[: 7 * RATE + 77]
    path = tmp_path / "long.flac"
    soundfile.write(path, sound.numpy(), RATE)
    done: list[float] = []
    sizes: list[int] = []
    transcriber = Transcriber(runtime, window=2.0, margin=0.3)
    run = runtime.run

    class Watched:
        vocabulary = runtime.vocabulary

        @staticmethod
        def run(rows: list[torch.Tensor]) -> list[torch.Tensor]:
            sizes.append(len(rows[0]))
            return run(rows)

    transcriber.runtime = Watched  # type: ignore[assignment]
    text = transcriber.text(path, done.append)
    assert max(sizes) <= 2 * RATE and len(sizes) == 5
    assert math.isclose(sum(done), len(sound) / RATE)
    assert len(text) > 5
    # A recording that fits is not cut.
    sizes.clear()
    transcriber = Transcriber(runtime, window=10.0, margin=1.0)
    transcriber.runtime = Watched  # type: ignore[assignment]
    transcriber.text(path)
    assert sizes == [len(sound)]


@pytest.mark.slow
def test_windows_hear_what_the_whole_hears(tmp_path: Path) -> None:
    """A network that sees little, and features that no utterance normalizes: the same frames."""
    done = export_model(model("cells", "espnet global"), ExportOptions(lengths=1))
    sound = torch.cat([one.samples for one in generated(RATE)])[: 9 * RATE + 123]
    soundfile.write(tmp_path / "long.wav", sound.numpy(), RATE, subtype="FLOAT")
    whole = Transcriber(done.runtime, window=20.0).text(tmp_path / "long.wav")
    for window, margin in ((3.0, 1.0), (2.5, 1.1)):
        found = Transcriber(done.runtime, window, margin).text(tmp_path / "long.wav")
        assert found == whole
    assert len(whole) > 20


def test_unusable_recordings_are_refused(exported: Path, tmp_path: Path) -> None:
    transcriber = Transcriber(open_model(exported / "model.onnx"))
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.zeros((4000, 2)), 8000)
    text = problems_of(lambda: transcriber.text(stereo), DataError)
    assert "has 8000 Hz, the model needs 16000; resample it" in text and "2 channels" in text
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    assert "no samples" in problems_of(lambda: transcriber.text(tmp_path / "empty.wav"), DataError)
    (tmp_path / "text.wav").write_text("no sound")
    assert "cannot be read" in problems_of(
        lambda: transcriber.text(tmp_path / "text.wav"), DataError
    )
    assert main(["transcribe", str(exported / "model.onnx"), str(tmp_path / "none.wav")]) == 2
    (tmp_path / "samples.raw").write_bytes(bytes(4000))
    assert "cannot be read" in problems_of(
        lambda: transcriber.text(tmp_path / "samples.raw"), DataError
    )
    features = export_model(model("hourglass"), ExportOptions("features", lengths=1))
    assert "takes features" in problems_of(lambda: Transcriber(features.runtime))


def test_recordings_that_are_cut_short_are_refused(exported: Path, tmp_path: Path) -> None:
    """libsndfile opens them, and says that they are shorter than their headers do."""
    transcriber = Transcriber(open_model(exported / "model.onnx"))
    sound = generated(RATE)[1].samples.numpy()
    for name in ("sound.wav", "sound.ogg"):
        path = tmp_path / name
        soundfile.write(path, sound, RATE)
        whole = transcriber.text(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        assert whole and "it is cut short" in problems_of(
            lambda p=path: transcriber.text(p), DataError
        )


def test_all_recordings_are_looked_at_first(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = generated(RATE)[1].samples.numpy()
    paths = [tmp_path / name for name in ("good.wav", "two words.wav", "short.wav", "none.wav")]
    for path, rate in zip(paths, (RATE, 8000, RATE), strict=False):
        soundfile.write(path, sound, rate)
    paths[2].write_bytes(paths[2].read_bytes()[:2000])
    words = ["transcribe", str(exported / "model.onnx"), *map(str, paths)]
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and "3 of 4 files: 3 problems" in said.err
    made = tmp_path / "two words_16000.wav"
    assert f"with: sox '{paths[1]}' -r 16000 -c 1 '{made}'" in said.err
    assert "cut short" in said.err and f"{paths[3]}: cannot be read: does not exist" in said.err
    assert main(words[:3]) == 0
    assert capsys.readouterr().out.startswith(f"{paths[0]}\t")


def test_windows_that_make_no_sense_are_refused(exported: Path) -> None:
    runtime = open_model(exported / "model.onnx")

    def said(window: float, margin: float) -> str:
        return problems_of(lambda: Transcriber(runtime, window, margin), ConfigError)

    assert "window: must be longer than both margins" in said(1.0, 0.5)
    for value in (math.inf, math.nan, -1.0, 1e308):
        assert f"window: must be from 0 to 86400 seconds, got {value:g}" in said(value, 1.0)
        assert f"margin: must be from 0 to 86400 seconds, got {value:g}" in said(60.0, value)
    assert "2 problems" in said(math.inf, math.nan)
