"""The Hydra plug-in in applications that have nothing to do with us, and in those that have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nemo  # Hydra comes with it

APPLICATION = """
import sys
import hydra

@hydra.main(version_base=None, config_path={folder!r}, config_name={name!r})
def main(cfg):
    loaded = [name for name in ("torch", "yaml", "nemo", "espnet2") if name in sys.modules]
    print(cfg.get("name"), loaded)

main()
"""


def run_application(
    folder: Path, *arguments: str, own: str | None, name: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Hydra application whose own folder of configurations is ``own``."""
    script = folder / "application.py"
    script.write_text(APPLICATION.format(folder=own, name=name), encoding="utf-8")
    quiet = ["hydra.output_subdir=null", f"hydra.run.dir={folder}", "hydra/job_logging=none"]
    return subprocess.run(
        [sys.executable, str(script), *arguments, *quiet],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_application_of_others_is_as_before_but_for_its_search_path(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "theirs.yaml").write_text("name: theirs\n", encoding="utf-8")
    done = run_application(tmp_path, own="conf", name="theirs")
    assert (done.stdout, done.stderr) == ("theirs ['yaml']\n", "")
    done = run_application(tmp_path, "--info", "searchpath", own="conf", name="theirs")
    providers = [line.split("|")[1].strip() for line in done.stdout.splitlines() if "://" in line]
    assert providers == ["hydra", "main", "nas_encoder", "schema"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-name=nas_rnnt_bpe"],
        ["--config-name", "nas_rnnt_bpe.yaml"],
        ["-cn", "nas_rnnt_bpe", "model.encoder.channels=8"],
    ],
)
def test_our_configs_are_found_where_the_own_folder_is_missing(
    arguments: list[str], tmp_path: Path
) -> None:
    done = run_application(tmp_path, *arguments, own="not/there", name="config")
    assert (done.stdout, done.stderr) == ("NAS-Transducer-BPE ['yaml']\n", "")


@pytest.mark.parametrize("arguments", [[], ["--config-name=theirs"], ["--config-name"]])
def test_a_missing_folder_of_others_stays_their_error(arguments: list[str], tmp_path: Path) -> None:
    done = run_application(tmp_path, *arguments, own="not/there", name="config")
    assert done.returncode != 0 and done.stdout == ""
    assert "Primary config directory not found" in done.stderr or "expected one" in done.stderr


def test_an_own_file_of_our_name_wins(tmp_path: Path) -> None:
    (tmp_path / "nas_ctc_bpe.yaml").write_text("name: theirs\n", encoding="utf-8")
    done = run_application(tmp_path, "--config-name=nas_ctc_bpe", own=".")
    assert (done.stdout, done.stderr) == ("theirs ['yaml']\n", "")


def test_an_application_without_any_argument(tmp_path: Path) -> None:
    code = "import hydra\nwith hydra.initialize(version_base=None, config_path=None):\n"
    code += "    print(hydra.compose('nas_ctc_bpe').name)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("NAS-CTC-BPE\n", "")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], None),
        (["--config-name"], ""),
        (["model.x=--config-name", "--config-path=a"], None),
        (["--config-path", "a", "--config-name=b.yaml", "c=d"], "b"),
        (["-cn", "b", "c=d"], "b"),
    ],
)
def test_config_name_on_a_command_line(arguments: list[str], name: str | None) -> None:
    from hydra_plugins.nas_encoder_searchpath import asked_for

    assert asked_for(arguments) == name


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, hydra.core.plugins, hydra.plugins.search_path_plugin\n"
        "before = set(sys.modules)\n"
        "import hydra_plugins.nas_encoder_searchpath\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == [
        "hydra_plugins",
        "hydra_plugins.nas_encoder_searchpath",
        "nas_encoder",
        "nas_encoder.autoload",
        "nas_encoder.common",
        "nas_encoder.common.resources",
        "nas_encoder.errors",
    ]


def test_doctor_names_a_package_that_hides_all_plug_ins(tmp_path: Path) -> None:
    hiding = tmp_path / "hydra_plugins" / "__init__.py"
    hiding.parent.mkdir()
    hiding.write_text("", encoding="utf-8")
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from nas_encoder.cli.doctor import _toolkit\n"
        "print(json.dumps(_toolkit('hydra', {})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    found = json.loads(done.stdout)
    assert found["problem"] == f"{hiding} hides the plug-ins of all other packages"
    folder = found["todo"].partition("--config-dir=")[2]
    assert (Path(folder) / "nas_ctc_bpe.yaml").is_file()
