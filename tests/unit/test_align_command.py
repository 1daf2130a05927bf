"""``nas-encoder align``: what the command refuses, and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas_encoder.alignment.model import open_model
from nas_encoder.cli.main import build_parser, main
from nas_encoder.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of"),
        (["--audio", "a.wav"], "both are needed"),
        (["--audio", "a.wav", "--text", "t", "--data", "d"], "got 2 of them"),
        (["--data", "d"], "--output: is missing"),
        (["--evaluate", "d", "--output", "o"], "writes no files"),
        (["--data", "d", "--output", "o", "--threshold", "3"], "at most 0"),
        (["--data", "d", "--output", "o", "--chunk", "0"], "--chunk: must be at least 1"),
        (["--data", "d", "--output", "o", "--method", "magic"], "--method: must be one of"),
        (["--data", "d", "--output", "o", "--shift-ms", "100000"], "from -1000 to 1000"),
        (["--data", "d", "--output", "o", "--shift-ms", "nan"], "from -1000 to 1000"),
        (["--data", "d", "--output", "o", "--device", "gpu"], "--device: must be cpu, cuda"),
        (["--data", "d", "--output", "o", "--device", "cuda:99"], "CUDA devices, got 'cuda:99'"),
        (["--data", "d", "--output", "o"], "no such file"),
    ],
)
def test_the_command_refuses(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["align", "no_model", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (
            "--evaluate d --method exact --unrelated --padding 0.5 --memory 10 --threshold -1 "
            "--resume --with-ids",
            ["method", "unrelated", "padding", "memory", "threshold", "resume", "with-ids"],
        ),
        (
            "--audio a --text t --output o --unit phone --split nonsense --memory 1000",
            ["unit", "split", "memory"],
        ),
        ("--data d --output o --unrelated --unit word", ["unrelated", "unit"]),
    ],
)
def test_options_that_would_be_ignored_are_refused_together(
    capsys: pytest.CaptureFixture[str], words: str, ignored: list[str]
) -> None:
    assert main(["align", "no_model", *words.split()]) == 2
    said = capsys.readouterr().err
    assert f"{len(ignored)} problems" in said
    for name in ignored:
        assert f"- --{name}: " in said


def test_a_device_that_is_none_is_refused_before_the_toolkit_is_imported(tmp_path: Path) -> None:
    for name in ("gpu", "cuda:99", "cuda:-1", "meta"):
        with pytest.raises(ConfigError, match="device: "):
            open_model(tmp_path, device=name)


def test_a_model_of_another_kind_is_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert main(["align", str(tmp_path / "model.onnx"), "--evaluate", "d"]) == 2
    assert "expected ESPnet's folder" in capsys.readouterr().err


def test_the_help_has_examples() -> None:
    parser = build_parser("align")
    assert (
        "nas-encoder align"
        in parser._subparsers._group_actions[0]
        .choices[  # type: ignore
            "align"
        ]
        .format_help()
    )
