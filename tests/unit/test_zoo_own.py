"""The user's own zoo: ``nas-encoder zoo add``, ``remove``, ``--gallery``, and who finds it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from nas_encoder import Genotype, build_encoder, list_genotypes, load_genotype
from nas_encoder.cli import zoo_gallery
from nas_encoder.cli.main import main
from nas_encoder.cli.zoo_gallery import write_gallery
from nas_encoder.common.documents import read_yaml
from nas_encoder.common.sealed import SealedFolder
from nas_encoder.errors import GenotypeError
from nas_encoder.genotype.catalog import list_own_genotypes, own_zoo
from nas_encoder.genotype.publishing import publish
from nas_encoder.tables import KNOWN

FOUND = {
    "kind": "search",
    "strategy": "evolution",
    "config": "blocks",
    "seed": 1,
    "data": "data/train",
    "version": "0.1.0",
    "commit": "34495c11503a",
    "validation": {"token_error_rate": 12.5},
}


def searched(name: str = "found", **changes: Any) -> Genotype:
    known = load_genotype({"known": "hourglass", "width": 16})
    provenance = {key: v for key, v in {**FOUND, **changes}.items() if v is not None}
    return Genotype(name, known.space, known.architecture, provenance)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my zoo"
    monkeypatch.setenv("NAS_ENCODER_ZOO", str(folder))
    return folder


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "genotype.yaml"
    searched().save(path)
    return str(path)


def test_added_is_found_by_name_everywhere_until_removed(
    zoo: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--name", "mine", "--data", "LibriSpeech-100", "--note", "a first try"]
    assert main(["zoo", "add", file, *words]) == 0
    said = capsys.readouterr().out
    assert str(zoo / "mine.yaml") in said and "data LibriSpeech-100, seed 1" in said
    assert "validation error 12.50 %" in said
    found = load_genotype("mine")
    assert found.hash == searched().hash and found.name == "mine"
    told = {"data": "LibriSpeech-100", "note": "a first try"}
    assert found.provenance == {**FOUND, **told}
    assert build_encoder("mine", 20).output_size == 16
    assert main(["zoo"]) == 0 and re.search("^mine +blocks", capsys.readouterr().out, re.M)
    assert main(["zoo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[-1]["name"] == "mine"
    assert main(["show", "mine", "--seconds", "0.2"]) == 0
    assert "mine   space blocks" in capsys.readouterr().out
    assert list_own_genotypes() == ["mine"] and "mine" not in list_genotypes()
    with pytest.raises(GenotypeError, match="did you mean 'mine'"):
        load_genotype("minee")
    assert main(["zoo", "remove", "mine"]) == 0
    assert list(zoo.iterdir()) == []
    with pytest.raises(GenotypeError, match="unknown name 'mine'"):
        load_genotype("mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": None, "seed": None}, "provenance.strategy: is missing.*\n.*seed: is missing"),
        ({"data": ""}, "provenance.data: is missing: on which data"),
        ({"commit": None, "version": None}, "provenance.commit: is missing, as is version"),
        ({"validation": None}, "validation.token_error_rate: must be a number"),
        ({"validation": {"token_error_rate": float("nan")}}, "token_error_rate: must be a number"),
        ({"kind": "handwritten"}, "provenance.source: is missing"),
        ({"kind": "sampled"}, "provenance.kind: is 'sampled'"),
    ],
)
def test_what_is_not_known_of_its_origin_is_refused_by_name(
    zoo: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(GenotypeError, match=message):
        publish(searched(**changes))
    assert not zoo.exists()


def test_paths_of_this_machine_are_not_published(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = [{"seed": 1, "table": "/mnt/tables/asr.sqlite"}]
    changes = {"data": "/mnt/data/train", "config": "~/mine.yaml", "candidates": candidates}
    with pytest.raises(GenotypeError) as caught:
        publish(searched(**changes))
    assert list(caught.value.problems) == [
        "provenance.config: is a path of this machine, '~/mine.yaml'; say what it is with --config",
        "provenance.data: is a path of this machine, '/mnt/data/train'; say what it is with --data",
        "provenance.candidates.0.table: is a path of this machine, '/mnt/tables/asr.sqlite'; "
        "change it in the file, by hand",
    ]
    searched(**changes | {"candidates": None}).save(tmp_path / "one.yaml")
    words = ["--data", "100 h, read", "--config", "conf/mine.yaml of https://a.org/b"]
    assert main(["zoo", "add", str(tmp_path / "one.yaml"), *words]) == 0
    assert load_genotype("found").provenance["config"] == words[-1]
    assert "/mnt" not in (zoo / "found.yaml").read_text() + capsys.readouterr().out


def test_origins_that_suffice(zoo: Path, file: str) -> None:
    publish(searched("of_a_wheel", commit=None))
    publish(searched("by_hand", kind="handwritten", source="drawn on a napkin"))
    assert list_own_genotypes() == ["by_hand", "of_a_wheel"]


@pytest.mark.parametrize("name", [list_genotypes()[0], next(iter(KNOWN)), "taken", "a.yaml", "é"])
def test_names_that_are_taken_or_no_names_are_refused(
    zoo: Path, file: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    publish(searched("taken"))
    before = (zoo / "taken.yaml").read_bytes()
    assert main(["zoo", "add", file, "--name", name]) == 2
    assert f"name: '{name}' is taken" in (said := capsys.readouterr().err) or "must be lett" in said
    assert [path.name for path in zoo.iterdir()] == ["taken.yaml"]
    assert (zoo / "taken.yaml").read_bytes() == before


def test_of_two_at_once_one_gets_the_name(zoo: Path) -> None:
    zoo.mkdir()
    results: list[str] = []
    start = threading.Barrier(8)

    def add(seed: int) -> None:
        start.wait()
        try:
            publish(searched("raced", seed=seed))
            results.append(f"seed {seed}")
        except GenotypeError:
            results.append("refused")

    threads = [threading.Thread(target=add, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("refused") == 7
    assert f"seed {load_genotype('raced').provenance['seed']}" in results
    assert [path.name for path in zoo.iterdir()] == ["raced.yaml"]


def test_a_file_that_was_changed_in_a_run_folder_is_not_published(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SealedFolder(tmp_path)
    folder.seal()
    folder.write_yaml("genotype.yaml", searched().to_dict())
    file = tmp_path / "genotype.yaml"
    file.write_text(file.read_text().replace("12.5", "2.5"))
    assert main(["zoo", "add", str(file)]) == 2
    assert "is not as it was written" in capsys.readouterr().err
    assert not zoo.exists()


def test_into_another_zoo(zoo: Path, tmp_path: Path, file: str) -> None:
    other = tmp_path / "other"
    assert main(["zoo", "add", file, "--into", str(other)]) == 2  # a typing error, perhaps
    other.mkdir()
    assert main(["zoo", "add", file, "--into", str(other)]) == 0
    assert read_yaml(other / "found.yaml") == searched().to_dict()
    assert main(["zoo", "add", file, "--into", str(other)]) == 2
    assert main(["zoo", "remove", "found"]) == 2
    assert main(["zoo", "remove", "found", "--from", str(other)]) == 0
    assert not list(other.iterdir()) and not zoo.exists()


def test_a_name_with_two_meanings_is_refused_and_a_damaged_file_told(
    zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(searched("fine"))
    shutil.copy(zoo / "fine.yaml", zoo / "darts_v2.yaml")  # as an upgrade would make it
    (zoo / "broken.yaml").write_text("schema: 1\nname: [", encoding="utf-8")
    with pytest.raises(GenotypeError, match="the package ships a genotype of that name too"):
        load_genotype("darts_v2")
    assert main(["zoo"]) == 2
    said = capsys.readouterr()
    assert "fine: your own" in said.out and "asrnet_b" in said.out
    assert "broken.yaml: is not valid YAML" in said.err and "of that name too" in said.err


def test_the_folder_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NAS_ENCODER_ZOO")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert own_zoo() == tmp_path / "nas_encoder" / "zoo"
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", value)
        assert own_zoo() == tmp_path / ".local/share/nas_encoder/zoo"


@pytest.mark.slow  # builds networks and draws them
def test_gallery_has_all_with_pictures_and_numbers(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are given to the page, which is then made of one that ships and two known encoders."""
    told: list[str] = []

    def write(path: str, shipped: list[Genotype], *others: Any) -> None:
        told.extend(genotype.name for genotype in shipped)
        write_gallery(path, [found for found in shipped if found.name == "asrnet_b"], *others)

    assert zoo_gallery.KNOWN is KNOWN
    known = ["conformer", "fast_conformer"]
    monkeypatch.setattr(zoo_gallery, "KNOWN", {name: KNOWN[name] for name in known})
    monkeypatch.setattr(zoo_gallery, "write_gallery", write)
    publish(searched("mine", note="<b>bold"))
    publish(searched("scaled", scaled={"from": "0123", "parameters": 2_000_000}))
    assert main(["zoo", "--gallery", str(tmp_path / "zoo.html")]) == 0
    page = (tmp_path / "zoo.html").read_text(encoding="utf-8")
    assert told == list_genotypes()
    names = ["mine", "scaled", "asrnet_b", *known]
    assert re.findall("<h2>(.*)</h2>", page) == ["Numbers", *names]
    assert page.count("data:image/png;base64,") == len(names)
    rows = dict(re.findall(r"<tr><td>([a-z_0-9]+)</td><td>\w+</td>(.*)</tr>", page))
    assert list(rows) == names
    assert "<td>12.50 %</td>" in rows["mine"] and "<td>25</td>" in rows["mine"]
    assert "<td>6.03 M</td>" in rows["asrnet_b"] and "<td>4,270 ms</td>" in rows["asrnet_b"]
    assert "the whole utterance" in rows["conformer"] and "<td>12.5</td>" in rows["fast_conformer"]
    assert "&lt;b&gt;bold" in page and "<b>" not in page
    assert "%" not in rows["scaled"] and "scaled to 2.0 M parameters afterwards" in page
