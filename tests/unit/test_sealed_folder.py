"""Files with checksums: damage and foreign files are told, a kill at any moment is not damage."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from nas_encoder import list_genotypes, load_genotype
from nas_encoder.common.sealed import ANEW, SEALS, SealedFolder
from nas_encoder.errors import CheckpointError
from nas_encoder.training.lock import held, holder_of, is_held


@pytest.fixture
def folder(tmp_path: Path) -> SealedFolder:
    made = SealedFolder(tmp_path)
    made.write("one.yaml", b"a: 1\n")
    made.write("two.yaml", b"b: 2\n")
    return made


def test_what_was_written_is_read(folder: SealedFolder) -> None:
    assert folder.read_yaml("one.yaml") == {"a": 1}
    assert folder.read("none.yaml", ANEW) is None
    folder.write("one.yaml", b"a: 3\n")
    assert SealedFolder(folder.path).read("one.yaml", ANEW) == b"a: 3\n"


@pytest.mark.parametrize("data", [b"", b"a: 2\n", b"b: 2\n", b"a: 1"])
def test_another_content_is_told(folder: SealedFolder, data: bytes) -> None:
    (folder.path / "one.yaml").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"one\.yaml: is not as it was written .*; do this;"):
        folder.read("one.yaml", "do this")
    (folder.path / SEALS).unlink()  # as the message says
    assert folder.read("one.yaml", "do this") == data


def test_a_missing_and_a_foreign_file_are_told(folder: SealedFolder) -> None:
    (folder.path / "one.yaml").rename(folder.path / "three.yaml")
    with pytest.raises(CheckpointError, match=r"one\.yaml: is missing; "):
        folder.read("one.yaml", ANEW)
    with pytest.raises(CheckpointError, match=r"three\.yaml: is not as it was written"):
        folder.read("three.yaml", ANEW)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {}, "sha256": ""}', "\xff"])
def test_damaged_checksums_are_told(folder: SealedFolder, text: str) -> None:
    (folder.path / SEALS).write_text(text)
    with pytest.raises(CheckpointError, match=r"checksums\.json: is damaged; delete it to use"):
        folder.read("one.yaml", ANEW)


def test_files_of_an_earlier_version_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("x: 1\n")
    made = SealedFolder(tmp_path)
    assert made.read("old.yaml", ANEW) == b"x: 1\n"
    made.write("new.yaml", b"y: 1\n")
    assert made.read("old.yaml", ANEW) == b"x: 1\n"
    (tmp_path / "old.yaml").write_text("x: 2\n")
    with pytest.raises(CheckpointError, match=r"old\.yaml: is not as it was written"):
        made.read("old.yaml", ANEW)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("count", range(6))
def test_a_kill_at_any_moment_is_no_damage(
    folder: SealedFolder, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    replace, calls = os.replace, 0

    def replacing(*names: Any) -> None:
        nonlocal calls
        if calls == count:
            raise Killed
        calls += 1
        replace(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replacing)
        try:
            folder.write("one.yaml", b"a: 7\n")
            folder.write("new.yaml", b"n: 1\n")
        except Killed:
            assert calls == count
    after = SealedFolder(folder.path)
    assert after.read("one.yaml", ANEW) in (b"a: 1\n", b"a: 7\n")
    assert after.read("new.yaml", ANEW) in (None, b"n: 1\n")
    after.write("one.yaml", b"a: 8\n")
    assert after.read("one.yaml", ANEW) == b"a: 8\n"


def test_a_genotype_that_was_altered_is_loaded_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    genotype = load_genotype(list_genotypes()[0])
    SealedFolder(tmp_path).write_yaml("genotype.yaml", genotype.to_dict())
    path = tmp_path / "genotype.yaml"
    with caplog.at_level(logging.WARNING):
        assert load_genotype(path) == genotype
        assert not caplog.records
        path.write_text(path.read_text().replace(genotype.name, "renamed"))
        assert load_genotype(path).name == "renamed"
    assert "genotype.yaml: is not as it was written" in caplog.text


# -- locks ---------------------------------------------------------------------------------------


def test_a_lock_names_its_holder_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.lock"
    with held(path, "the thing"):
        assert is_held(path)
        assert f"process {os.getpid()} on {os.uname().nodename}, running since 20" in holder_of(
            path
        )
        with pytest.raises(
            CheckpointError, match=rf"the thing: is in use by process {os.getpid()}"
        ):
            with held(path, "the thing"):
                raise AssertionError("unreachable")
        assert is_held(path)
    assert not list(path.parent.iterdir()) and not is_held(path)


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    path.with_name("x.lock.json").write_text('{"pid": 1, "host": "elsewhere"}')
    assert not is_held(path) and not list(tmp_path.iterdir())
    path.touch()
    path.with_name("x.lock.json").write_text("damaged")
    with held(path, "the thing"):
        assert is_held(path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_the_folder_never_had_is_the_users(
    folder: SealedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    genotype = load_genotype(list_genotypes()[0])
    genotype.save(folder.path / "mine.yaml")
    assert load_genotype(folder.path / "mine.yaml") == genotype and not caplog.text
    genotype.save(folder.path / "two.yaml")
    assert load_genotype(folder.path / "two.yaml") == genotype
    assert "two.yaml: is not as it was written" in caplog.text
