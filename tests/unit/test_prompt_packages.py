"""Debian packages of prompts: read without dpkg, fetched by apt or from a folder, counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from data_samples import prompts
from debian_samples import package, prompt_packages

from nas_encoder.cli.main import main as nas_encoder
from nas_encoder.errors import DataError
from tools.experiments.recipe import read_options
from tools.prompts import deb, summary
from tools.prompts import fetch as command
from tools.prompts.fetch import fetch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Packages of English and Italian prompts, and what is known of them."""
    root, folder = prompts(tmp_path_factory.mktemp("root")), tmp_path_factory.mktemp("debs")
    return root, folder, prompt_packages(root, folder)


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_packages_are_read(tmp_path, kind):
    files = {"./usr/a/b.wav": bytes(range(256)) * 9, "./usr/c": b"x"}
    path = package(tmp_path / "some_1_all.deb", files, kind, Description="one\n two")
    assert deb.fields_of(path) == {
        "Package": "some",
        "Version": "1:2.0-1",
        "Description": "one\n two",
    }
    assert deb.unpack(path, tmp_path / "out") == 2
    for name, content in files.items():
        assert (tmp_path / "out" / name).read_bytes() == content


def test_bad_packages(tmp_path):
    path = package(tmp_path / "some_1_all.deb", {"./usr/a": bytes(5000)}, "gz")
    whole = path.read_bytes()
    for damaged, expected in [
        (whole[:-30], "it is cut short"),
        (b"<html>" + whole, "it does not begin as one"),
        (whole[:200], "no control.tar|cut short"),
        (whole.replace(b"\x1f\x8b", b"\x00\x00"), "damaged"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=expected):
            deb.fields_of(path)
            deb.unpack(path, tmp_path / "out")
    package(path, {"../outside": b"x"})
    with pytest.raises(DataError, match=r"names a file outside its folder: \.\./outside"):
        deb.unpack(path, tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def same_files(one: Path, other: Path) -> bool:
    """Whether two trees hold the same files, but for Menardi, who is in no package here."""
    first, second = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (one, other)
    )
    return {key: first[key] for key in first if "it_IT_f_Menardi" not in key.parts} == second


def test_from_a_folder(repository, tmp_path):
    root, folder, known = repository
    out = tmp_path / "out"
    made = fetch(out, folder, known)
    assert same_files(root / "usr", out / "usr")
    assert made["packages"]["asterisk-core-sounds-en"] == {
        **known["asterisk-core-sounds-en"],
        "tested": True,
        "files": 1,
    }
    assert json.loads((out / "corpus.json").read_text()) == made
    assert fetch(out, tmp_path / "none", known) == made  # it is there already
    assert fetch(tmp_path / "again", out / "packages", known) == made  # and can be handed on
    with pytest.raises(DataError, match="holds a corpus made with other arguments"):
        fetch(out, folder, {"asterisk-core-sounds-en": known["asterisk-core-sounds-en"]})


def test_wrong_packages_in_a_folder(repository, tmp_path):
    _, folder, known = repository
    debs = tmp_path / "debs"
    with pytest.raises(DataError, match="debs: no such folder"):
        fetch(tmp_path / "out", debs, known)
    shutil.copytree(folder, debs)
    package(debs / "asterisk-core-sounds-en_1%3a2.0-1_all.deb", {"./usr/x": b""})
    (debs / "asterisk-core-sounds-it_1%3a2.0-1_all.deb").unlink()
    (debs / "asterisk-core-sounds-it-wav_1%3a2.0-1_all.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(DataError) as caught:
        fetch(tmp_path / "out", debs, known)
    text = "\n".join(caught.value.problems)
    assert "is not asterisk-core-sounds-en 1:2.0-1: its SHA-256 is" in text
    assert "asterisk-core-sounds-it_*.deb is missing" in text
    assert "asterisk-core-sounds-it-wav_1%3a2.0-1_all.deb: is no Debian package" in text
    assert not (tmp_path / "out").exists()
    # Another version is accepted, and said to be one.
    shutil.copytree(folder, debs, dirs_exist_ok=True)
    (debs / "asterisk-core-sounds-en_1%3a2.0-1_all.deb").unlink()
    package(debs / "asterisk-core-sounds-en_3_all.deb", {"./usr/x": b""}, Version="3")
    made = fetch(tmp_path / "out", debs, known)["packages"]
    assert made["asterisk-core-sounds-en"]["version"] == "3"
    tested = {name: facts["tested"] for name, facts in made.items()}
    assert tested == {name: name != "asterisk-core-sounds-en" for name in known}


APT = """#!/bin/sh
[ "$1 $2" = "--quiet download" ] || exit 9
shift 2
for name in "$@"; do
    echo "$name" >> {log}
    [ -e {folder}/"$name"_* ] || {{ echo "E: Unable to locate package $name" >&2; exit 100; }}
    cp {folder}/"$name"_* .
done
"""


def test_by_apt(repository, tmp_path, monkeypatch):
    """A stand-in for apt-get that fails first; what it left is used, unless it is damaged."""
    root, folder, known = repository
    served, log = tmp_path / "served", tmp_path / "log"
    shutil.copytree(folder, served)
    last = served / "asterisk-core-sounds-it-wav_1%3a2.0-1_all.deb"
    last.rename(tmp_path / last.name)
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(APT.format(log=log, folder=served))
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt.parent}:/usr/bin:/bin")
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        fetch(out, known=known)
    assert "E: Unable to locate package asterisk-core-sounds-it-wav" in str(caught.value)
    assert "run 'apt-get update' first" in str(caught.value) and not out.exists()
    (tmp_path / last.name).rename(last)
    store = tmp_path / "out.partial" / "packages"
    kept = store / "asterisk-core-sounds-en_1%3a2.0-1_all.deb"
    kept.write_bytes(kept.read_bytes()[:-100])
    log.unlink()
    made = fetch(out, known=known)
    again = ["asterisk-core-sounds-en", "asterisk-core-sounds-it-wav"]
    assert sorted(log.read_text().split()) == again
    assert made["from"] == "apt-get download" and same_files(root / "usr", out / "usr")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-get: is not here; download the .deb files"):
        fetch(tmp_path / "other", known=known)


def test_command_line_and_summary(repository, tmp_path, capsys):
    _, folder, known = repository
    assert command.main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == 11 and set(known) < set(names)
    assert command.main(["--output", str(tmp_path / "o"), "--debs", str(folder)]) == 1
    assert "asterisk-prompt-it-menardi-wav_*.deb is missing" in capsys.readouterr().err
    corpus, data = tmp_path / "corpus", tmp_path / "data"
    fetch(corpus, folder, known)
    assert nas_encoder(["data", "prepare", "prompts", str(corpus), str(data)]) == 0
    arguments = ["--corpus", corpus, "--prepared", data, "--output", tmp_path / "results"]
    assert summary.main([*map(str, arguments), "--command", "run.sh"]) == 0
    found = json.loads((tmp_path / "results" / "results.json").read_text())
    splits = json.loads((data / "prepared.json").read_text())["splits"]
    for split, size in splits.items():
        voices = found["splits"][split]
        assert voices["all"]["utterances"] == size["utterances"]
        assert voices["all"]["minutes"] == pytest.approx(size["hours"] * 60, abs=0.01)
        assert set(voices) == {"en_US_f_Allison", "it_IT_m_Carlo", "all"}
    text = (tmp_path / "results" / "RESULTS.md").read_text()
    assert "| a sound, not speech | 2 | 2 |" in text
    assert f"SHA-256 of all files: {found['corpus']['sha256']}" in text
    folder = corpus / "usr/share/asterisk/sounds/en_US_f_Allison"
    shutil.copy(folder / "vm-02.wav", folder / "vm-unread.wav")  # which has a text
    assert summary.main([*map(str, arguments), "--command", "run.sh"]) == 1
    assert "prepare it again" in capsys.readouterr().err


def test_the_recipe_can_be_read():
    found = read_options(ROOT / "recipes" / "prompts", ["--debs", "here", "--nj", "3"])
    assert found["stop_stage"] == found["last_stage"] == 4 and found["sampling_rate"] == 16000
    assert found["command"] == "recipes/prompts/run.sh --debs here --nj 3"
