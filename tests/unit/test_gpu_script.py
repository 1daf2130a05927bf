"""The script for a GPU: each part's end is told apart and kept, and a second run goes on."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with parts that do nothing else than end in different ways."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("gpu")
    bodies = {
        "fine": "print('words {')\nprint('{')\nprint(' \"x\": {\"y\": 1}}')",
        "absent": "sys.stderr.write('no such toolkit'); sys.exit(3)",
        "broken": "raise RuntimeError('it broke')",
        "endless": "import time; time.sleep(60)",
        "late": "print('{}')",
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(f"import sys\n{body}\n", encoding="utf-8")
    parts = {name: (20, "none.py", f"{name}.py --small") for name in bodies}
    parts["endless"] = (1, *parts["endless"][1:])
    monkeypatch.setattr(module, "PARTS", parts)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, file: Path, *words: str
) -> tuple[int, dict[str, Any]]:
    arguments = ["gpu.py", "--device", "cpu", "--tiny", "--json", str(file), *words]
    monkeypatch.setattr(sys, "argv", arguments)
    status = script.main()
    return status, json.loads(file.read_text(encoding="utf-8"))["parts"]


@pytest.mark.slow
def test_every_end_of_a_part_is_told(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "gpu.json"
    monkeypatch.setattr(script, "environment", lambda: {"commit": "0123"})
    status, parts = run(script, monkeypatch, file)
    assert status == 1
    assert {name: own["state"] for name, own in parts.items()} == {
        "fine": "done",
        "absent": "skipped",
        "broken": "failed",
        "endless": "took too long",
        "late": "done",
    }
    assert parts["fine"]["result"] == {"x": {"y": 1}}
    assert parts["fine"]["command"].endswith("fine.py --small --device cpu")
    assert parts["absent"]["why"] == "no such toolkit"
    assert "it broke" in parts["broken"]["why"] and parts["endless"]["why"] == "stopped after 1 s"
    # What is done is kept; the rest is tried again, and not begun where no time is left.
    (tmp_path / "fine.py").unlink()
    status, parts = run(script, monkeypatch, file, "--minutes", "0")
    assert status == 0 and parts["fine"]["result"] == {"x": {"y": 1}}
    assert parts["broken"]["why"] == "the 0 minutes are over"


def test_without_a_gpu_it_says_what_to_do(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert script.main() == 2
    assert "--device cpu --tiny tries the script" in capsys.readouterr().err
