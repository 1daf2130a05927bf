"""``nas-encoder config``: every shipped configuration reaches a user who has only the wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_encoder.cli.config import FOLDERS
from nas_encoder.cli.main import main


def files(repository: Path, kind: str) -> dict[str, Path]:
    conf = repository / "conf"
    return {path.stem: path for name in FOLDERS[kind] for path in (conf / name).glob("*.yaml")}


def test_no_configuration_is_left_out(repository: Path) -> None:
    shipped = {path for path in (repository / "conf").rglob("*.yaml")}
    assert shipped == {path for kind in FOLDERS for path in files(repository, kind).values()}


@pytest.mark.parametrize("kind", FOLDERS)
def test_each_is_listed_and_printed_as_it_is(
    kind: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = files(repository, kind)
    for arguments in ([kind], [kind, "--list"]):
        assert main(["config", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert sorted(line.split()[0] for line in lines) == sorted(shipped)
        assert all(len(line.split()) > 3 for line in lines), "each with what it is"
    for name, path in shipped.items():
        assert main(["config", kind, name]) == 0
        assert main(["config", kind, path.name]) == 0
        assert capsys.readouterr().out == 2 * path.read_text(encoding="utf-8")


def test_unknown_names_are_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "espnet", "train_asr_nas_smal"]) == 2
    said = capsys.readouterr()
    assert "unknown config 'train_asr_nas_smal' (did you mean 'train_asr_nas_small'?)" in said.err
    assert not said.out, "what is redirected into a file"
    with pytest.raises(SystemExit):
        main(["config", "espnet", "--list", "decode_ctc"])
    with pytest.raises(SystemExit):
        main(["config", "kaldi"])
