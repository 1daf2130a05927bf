"""recipes/install.sh, in a folder laid out like a checkout of ESPnet."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nas_encoder.errors import ConfigError
from tools.espnet_recipes.configs import conf_folder
from tools.espnet_recipes.install import ROOT, install, main, recipes, remove, version

# What the recipes of ESPnet 202511 have in conf/ with names like ours.
OWN = {
    "egs2/aishell/asr1": ("train_asr_transformer.yaml", "train_asr_conformer.yaml"),
    "egs2/librispeech/asr1": ("train_asr_conformer.yaml", "decode_asr.yaml"),
    "egs2/librispeech_100/asr1": ("train_asr.yaml", "decode_asr.yaml"),
    "egs2/timit/asr1": ("train_asr.yaml", "decode_asr.yaml"),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with blanks in its path, with the recipes' folders and no more."""
    root = tmp_path / "two words" / "espnet"
    (root / "espnet").mkdir(parents=True)
    (root / "espnet" / "version.txt").write_text("202511\n")
    for place, names in OWN.items():
        (root / place / "conf" / "tuning").mkdir(parents=True)
        for name in names:
            (root / place / "conf" / "tuning" / name).write_text(f"# {name}\n")
            (root / place / "conf" / name).symlink_to(f"tuning/{name}")
    return root


def state(folder: Path) -> dict[str, str]:
    """Return every path below a folder with its content or target."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_links_lead_to_our_files_and_go_away_again(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(checkout)
    assert main([str(checkout)]) == 0
    printed = capsys.readouterr().out
    linked = state(checkout)
    assert {name: linked[name] for name in before} == before
    for recipe in recipes():
        if recipe.place.parts[0] == "egs3":
            assert f"{recipe.place}: not in this checkout" in printed
            continue
        assert f"{recipe.place}: {len(recipe.links)} links made, 0 were there" in printed
        ours = [path for path in (ROOT / recipe.source).glob("*.yaml")]
        assert len(ours) == 37
        for path in ours:
            assert (checkout / recipe.place / "conf" / path.name).read_text() == path.read_text()
    for line in printed.splitlines():
        if "./run.sh" in line:
            words = line.split()
            for word in words:
                assert (
                    not word.startswith("conf/") or (checkout / "egs2/timit/asr1" / word).exists()
                )
    assert printed.count("./run.sh --asr_config") == 4

    assert main([str(checkout)]) == 0  # again
    assert "0 links made, 38 were there" in capsys.readouterr().out
    assert state(checkout) == linked
    assert main(["--remove", str(checkout)]) == 0
    assert state(checkout) == before
    assert capsys.readouterr().out.count(": 38 links removed") == 4
    assert main(["--remove", str(checkout)]) == 0
    assert state(checkout) == before


def test_nothing_is_replaced_and_then_nothing_made(checkout: Path) -> None:
    conf = checkout / "egs2" / "timit" / "asr1" / "conf"
    (conf / "train_asr_nas.yaml").write_text("mine")
    (conf / "tuning" / "nas_encoder").mkdir()
    (conf / "decode_ctc.yaml").symlink_to("nowhere.yaml")
    before = state(checkout)
    with pytest.raises(ConfigError) as caught:
        install(checkout)
    assert len(caught.value.problems) == 3
    for name in ("train_asr_nas.yaml", "nas_encoder", "decode_ctc.yaml"):
        assert f"{name}: is there already and not ours; move it away" in str(caught.value)
    assert state(checkout) == before
    remove(checkout)
    assert state(checkout) == before


def test_links_of_another_place_and_version_are_brought_up_to_date(
    checkout: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    for recipe in recipes():
        shutil.copytree(ROOT / recipe.source, older / recipe.source)
    (older / conf_folder("timit") / "train_asr_gone.yaml").write_text("encoder: gone\n")
    install(checkout, older)
    shutil.rmtree(older)
    there, _ = install(checkout)
    expected = [["tuning/nas_encoder"]] * 3 + [["train_asr_gone.yaml", "tuning/nas_encoder"]]
    assert [[str(place) for place in recipe.removed] for recipe in there] == expected
    conf = checkout / "egs2" / "timit" / "asr1" / "conf"
    assert not (conf / "train_asr_gone.yaml").is_symlink()
    assert (conf / "train_asr_nas.yaml").read_text().startswith("# ASRNET-B")


def test_a_recipe_that_is_not_there_is_named(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(checkout / "egs2" / "librispeech")
    (checkout / "espnet" / "version.txt").write_text("202609")
    assert main([str(checkout)]) == 0
    printed = capsys.readouterr().out
    assert "egs2/librispeech/asr1: not in this checkout" in printed
    assert "ESPnet 202609" in printed and "tested are 202511 and 202611" in printed


def test_version_and_folder_are_checked(checkout: Path, tmp_path: Path) -> None:
    assert version(checkout) == 202511
    (checkout / "espnet" / "version.txt").rename(checkout / "version.txt")  # as in 202611
    for text, rule in (
        ("202412", "must be 202511 or newer, got 202412"),
        ("latest", "must hold a version like 202511, got 'latest'"),
    ):
        (checkout / "version.txt").write_text(text)
        with pytest.raises(ConfigError, match=rule):
            version(checkout)
    with pytest.raises(ConfigError, match="must be the root of a checkout of ESPnet"):
        version(tmp_path)
    with pytest.raises(ConfigError, match="must hold one of egs2/aishell/asr1, "):
        install(tmp_path)
    with pytest.raises(ConfigError, match="holds none of the recipes"):
        remove(tmp_path)
    shutil.rmtree(checkout / "egs2" / "timit" / "asr1" / "conf" / "tuning")
    with pytest.raises(ConfigError, match=r"timit/asr1/conf/tuning: must be a folder"):
        install(checkout)


def test_after_a_full_disk_the_same_command_goes_on(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, made = Path.symlink_to, []

    def full(self: Path, target: str) -> None:
        if len(made) == 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made.append(self)
        link(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "symlink_to", full)
        with pytest.raises(ConfigError, match="No space left on device; the same command goes on"):
            install(checkout)
    there, _ = install(checkout)
    assert sum(len(recipe.kept) for recipe in there) == 40
    assert sum(len(recipe.made) for recipe in there) == 4 * 38 - 40


def test_the_shell_script_runs_from_anywhere(checkout: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "recipes" / "install.sh"), "espnet"],
        cwd=checkout.parent,
        env={**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"ESPnet 202511 in {checkout}\n" in done.stdout
