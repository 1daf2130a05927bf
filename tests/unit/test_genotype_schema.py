"""Genotype documents: reading, writing, and errors that name their place."""

from __future__ import annotations

import copy
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from encoder_samples import MIXED_CELL, ZOO, document, handwritten, sampled

from nas_encoder import Genotype, list_genotypes, load_genotype
from nas_encoder.common.documents import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml, write_yaml
from nas_encoder.errors import GenotypeError

Change = Callable[[Any], None]


def valid() -> Any:
    return document(copy.deepcopy(MIXED_CELL), copy.deepcopy(MIXED_CELL))


def problems(doc: Any) -> list[str]:
    with pytest.raises(GenotypeError) as got:
        Genotype.from_dict(doc)
    return list(got.value.problems)


@pytest.mark.parametrize("source", [*ZOO, *handwritten(), *(sampled(i) for i in range(10))])
def test_what_is_saved_is_what_is_read(source: Any, tmp_path: Path) -> None:
    genotype = load_genotype(source)
    genotype.save(tmp_path / "a.yaml")
    for other in (
        load_genotype(tmp_path / "a.yaml"),
        load_genotype(str(tmp_path / "a.yaml")),
        load_genotype(genotype.to_dict()),
        Genotype.from_dict(yaml.safe_load((tmp_path / "a.yaml").read_text())),
    ):
        assert other == genotype
        assert other.hash == genotype.hash
        assert hash(other) == hash(genotype)
    assert load_genotype(genotype) is genotype


def test_the_document_is_plain_yaml() -> None:
    def check(value: Any) -> None:
        if type(value) is dict:
            assert all(type(key) is str for key in value)
            for item in value.values():
                check(item)
        elif type(value) is list:
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (str, int, float, bool)

    for name in list_genotypes():
        check(load_genotype(name).to_dict())


def at(path: str, value: Any) -> Change:
    """Return a change that sets the place ``a.b.0.c`` of a document."""

    def change(doc: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for parent in parents:
            doc = doc[parent]
        doc[last] = value

    return change


def without(key: str) -> Change:
    return lambda doc: doc.pop(key)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without("schema"), "schema: is missing"),
        (without("name"), "name: is missing"),
        (without("space"), "space: is missing; known: darts, asr_revised"),
        (without("normal"), "normal: is missing"),
        (at("schema", 2), "schema: must be 1, the version that is read here, got 2"),
        (at("schema", True), "schema: must be 1"),
        (at("schema", "1"), "schema: must be 1, the version that is read here, got '1'"),
        (at("name", ""), "name: must be 1 to 128 letters"),
        (at("name", "a/b"), "name: must be 1 to 128 letters"),
        (at("name", "a\n"), "name: must be 1 to 128 letters"),
        (at("name", 7), "name: must be 1 to 128 letters"),
        (at("space", "dart"), "space: unknown search space 'dart' (did you mean 'darts'?)"),
        (at("space", ["darts"]), "space: unknown search space ['darts']"),
        (at("reduced", {}), "reduced: unknown key (did you mean 'reduction'?); known: schema"),
        (at("normal", []), "normal: must be a mapping, got list []"),
        (at("normal", None), "normal: must be a mapping, got NoneType None"),
        (at("normal", {"nodes": []}), "normal.concat: is missing"),
        (at("normal.op", 1), "normal.op: unknown key; known: nodes, concat"),
        (at("normal.nodes", []), "normal.nodes: must have 1 to 8 entries, has 0"),
        (at("normal.nodes", "abc"), "normal.nodes: must be a list, got str 'abc'"),
        (at("normal.nodes", [[]] * 9), "normal.nodes: must have 1 to 8 entries, has 9"),
        (at("reduction.nodes.1", []), "reduction.nodes[1]: must have 1 to 8 entries, has 0"),
        (at("reduction.nodes.1", {}), "reduction.nodes[1]: must be a list, got dict {}"),
        (at("reduction.nodes.1.0", "x"), "reduction.nodes[1][0]: must be a mapping, got str 'x'"),
        (
            at("reduction.nodes.2.0.op", "sepconv"),
            "reduction.nodes[2][0].op: unknown operation 'sepconv'",
        ),
        (
            at("normal.nodes.0.0.op", "sep_conv_3x4"),
            "normal.nodes[0][0].op: unknown operation 'sep_conv_3x4' (did you mean "
            "'sep_conv_3x3'?); known: max_pool_3x3",
        ),
        (
            at("normal.nodes.0.0.op", "skip_connect"),
            "normal.nodes[0][0].op: unknown operation 'skip_connect'",
        ),
        (at("normal.nodes.0.0.op", "none"), "normal.nodes[0][0].op: 'none' is a choice during"),
        (at("normal.nodes.0.0.op", None), "normal.nodes[0][0].op: is missing"),
        (at("normal.nodes.0.0.from", 2), "normal.nodes[0][0].from: must be in 0..1, got 2: node"),
        (at("normal.nodes.1.0.from", 3), "would be a cycle"),
        (at("normal.nodes.1.0.from", -1), "normal.nodes[1][0].from: must be in 0..2, got -1"),
        (at("normal.nodes.1.0.from", 1.0), "normal.nodes[1][0].from: must be an integer, got f"),
        (at("normal.nodes.1.0.from", True), "normal.nodes[1][0].from: must be an integer, got b"),
        (at("normal.nodes.1.0.to", 1), "normal.nodes[1][0].to: unknown key"),
        (at("normal.concat", []), "normal.concat: must have 1 to 8 entries, has 0"),
        (at("normal.concat", [3, 3]), "normal.concat[1]: state 3 is listed twice"),
        (at("normal.concat", [1, 4]), "normal.concat[0]: must be in 2..4, got 1 (only nodes"),
        (at("normal.concat", [5]), "normal.concat[0]: must be in 2..4, got 5"),
        (at("normal.concat", [3]), "normal.nodes[2]: reaches no output: state 4 is neither in"),
        (at("provenance", "mine"), "provenance: must be a mapping"),
        (at("provenance", {}), "provenance.kind: is missing; known: search, published"),
        (at("provenance.kind", "stolen"), "provenance.kind: unknown kind of provenance 'stolen'"),
        (at("provenance.when", {1: 2}), "provenance.when: keys must be strings, got 1"),
        (at("provenance.x", object()), "provenance.x: must be a string, number, boolean"),
        (at("provenance.x", 2**65), "provenance.x: is an integer of more than 64 bits"),
        (at("provenance.x", "\ud800"), "provenance.x: has a character that UTF-8 cannot encode"),
        (at("provenance.x", [[[[[[[[[1]]]]]]]]]), "is nested more than 8 levels deep"),
    ],
)
def test_every_problem_has_its_place(change: Change, problem: str) -> None:
    doc = valid()
    change(doc)
    found = problems(doc)
    assert any(problem in line for line in found), found
    assert len(found) == 1 or problem.startswith(("normal.concat: is", "normal.nodes: must"))


def test_all_problems_are_reported_together() -> None:
    doc = valid()
    for change in (
        at("schema", 3),
        at("name", "?"),
        at("normal.nodes.0.0.op", "foo"),
        at("normal.nodes.0.1.from", 9),
        at("reduction.concat", [0, 0]),
        at("extra", 1),
        at("provenance", {"kind": "bar"}),
    ):
        change(doc)
    places = [line.split(":")[0] for line in problems(doc)]
    assert sorted(places) == sorted(
        [
            "extra",
            "schema",
            "name",
            "provenance.kind",
            "normal.nodes[0][0].op",
            "normal.nodes[0][1].from",
            "reduction.concat[0]",
            "reduction.concat[1]",
        ]
    )


def test_without_a_space_the_rest_is_still_checked() -> None:
    places = [line.split(":")[0] for line in problems({"name": "?"})]
    assert places == ["space", "schema", "name"]


@pytest.mark.parametrize("doc", [None, 3, "text", [], [1], True, b"x"])
def test_a_document_that_is_no_mapping(doc: Any) -> None:
    assert "must be a mapping, got" in problems(doc)[0]


def test_messages_can_always_be_printed() -> None:
    doc = valid()
    doc["\ud800\n"] = 1
    doc["provenance"]["\udfff"] = {"\x00" * 100: object(), "k" * 10_000: 10**9999}
    doc["name"] = "x" * 100_000
    doc["schema"] = 10**9999
    with pytest.raises(GenotypeError) as got:
        Genotype.from_dict(doc)
    text = str(got.value)
    text.encode("utf-8")
    assert len(text) < 3000
    assert text.count("\n") == len(got.value.problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("a: 1\na: 2", "duplicate key 'a'"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &x {b: *x}", "aliases"),
        ("<<: {a: 1}", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: !mine 3", "not valid YAML"),
        ("{[1]: 2}", "not valid YAML"),
        ("? {a: 1}\n: 2", "a key must be a scalar"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: 2020-13-45", "value that YAML cannot read"),
        ("a: 1" + ":1" * 60_000, "a number of 120001 characters"),
        ("a: 0x" + "f" * 5000, "a number of 5002 characters"),
        ("a: !!int x", "cannot read"),
        ("a: !!float x", "cannot read"),
        ("a: !!timestamp x", "cannot read"),
        ("a: \x00", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested too deeply"),
        ("x" * (MAX_BYTES + 1), "larger than 1048576 bytes"),
    ],
    ids=lambda value: value[:20],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(GenotypeError, match=r"(?s)^here: .*" + message):
        parse_yaml(text, "here")


def test_brackets_may_be_nested_up_to_the_bound() -> None:
    value = parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "here")
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == []


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"a: \xc3\x28", b"\xed\xa0\x80"])
def test_bytes_that_are_no_text(data: bytes) -> None:
    with pytest.raises(GenotypeError):
        parse_yaml(data, "here")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, "a\0b.yaml", tmp_path / ("n" * 300)):
        with pytest.raises(GenotypeError, match="cannot be read"):
            read_yaml(path)
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(GenotypeError, match="must be a mapping, got NoneType"):
        load_genotype(tmp_path / "empty.yaml")
    with pytest.raises(GenotypeError, match="must be a name, a path or a mapping, got int 3"):
        load_genotype(3)  # type: ignore[arg-type]


def test_a_name_wins_over_a_file_and_a_path_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = load_genotype("darts_v2")
    other.save(tmp_path / "asrnet_a")
    assert load_genotype("asrnet_a").name == "asrnet_a"
    assert load_genotype("./asrnet_a") == other
    assert load_genotype(Path("asrnet_a").resolve()) == other


@pytest.mark.slow
def test_saving_is_atomic(tmp_path: Path) -> None:
    """A reader sees the old or the new document at every moment, never a part of one."""
    path = tmp_path / "genotype.yaml"
    versions = [load_genotype("asrnet_a"), load_genotype("asrnet_b")]
    versions[0].save(path)
    done = threading.Event()

    def write() -> None:
        for turn in range(100):
            versions[turn % 2].save(path)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(load_genotype(path).name)
    writer.join()
    assert seen <= {"asrnet_a", "asrnet_b"}
    assert os.listdir(tmp_path) == ["genotype.yaml"]


def test_a_failed_save_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "genotype.yaml"
    load_genotype("asrnet_a").save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(GenotypeError, match="cannot be written: No space left on device"):
                load_genotype("asrnet_b").save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["genotype.yaml"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    genotype = load_genotype("asrnet_a")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "a.yaml", tmp_path / "folder", str(tmp_path / "a\0b")):
        with pytest.raises(GenotypeError, match="cannot be written"):
            genotype.save(path)
    with pytest.raises(GenotypeError, match="cannot be written"):
        genotype.renamed("b", kind="search", score=object()).save(tmp_path / "b.yaml")
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(GenotypeError, match="cannot be written"):
        write_yaml(tmp_path / "c.yaml", endless)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_saved_file_can_be_read_by_others_and_its_name_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)
    load_genotype("asrnet_a").save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_is_written_twice_is_written_out(tmp_path: Path) -> None:
    """PyYAML would write an alias for the second, which reading refuses."""
    shared = {"seeds": [1, 2]}
    write_yaml(tmp_path / "a.yaml", {"first": shared, "second": shared})
    assert read_yaml(tmp_path / "a.yaml") == {"first": shared, "second": shared}


def test_another_name_is_the_same_architecture() -> None:
    genotype = load_genotype("asrnet_a")
    other = genotype.renamed("mine", kind="handwritten")
    assert (other.name, other.provenance) == ("mine", {"kind": "handwritten"})
    assert other.hash == genotype.hash
    assert genotype.renamed("mine").provenance == genotype.provenance
