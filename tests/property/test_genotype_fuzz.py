"""Malformed and hostile genotype files: our error or a valid genotype, never anything else."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import pytest
import yaml
from encoder_samples import ZOO
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_encoder import Genotype, load_genotype
from nas_encoder.common.documents import parse_yaml
from nas_encoder.errors import NasEncoderError
from nas_encoder.genotype.catalog import ZOO as FOLDER
from nas_encoder.spaces import get_space

TEXTS = [(FOLDER / f"{name}.yaml").read_bytes() for name in ZOO]
DOCUMENTS = [yaml.safe_load(text) for text in TEXTS]

FRAGMENTS = [
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    "\u2028\u0085".encode(),
    b'"\\ud800"',
    b'"\\x00"',
    b"&a ",
    b"*a",
    b"&a [*a]",
    b"<<: *a",
    b"<<: {op: none}",
    b"!!python/object/apply:os.system [id]",
    b"!!python/name:os.system ",
    b"!!binary aGk=",
    b"!!set {a, b}",
    b"!!omap [a: 1]",
    b"!!timestamp 2020-01-01",
    b"!!int ",
    b"!!float ",
    b"!!null ",
    b"!!bool ",
    b"!!str ",
    b"!!map ",
    b"!!seq ",
    b"!mine ",
    b"%YAML 3.0\n---\n",
    b"%TAG ! tag:x,2000:\n---\n",
    b"---\n",
    b"...\n",
    b"2020-13-45",
    b"2001-01-01 01:61:01",
    b"1:1:1:1",
    b"9" * 5000,
    b"0x" + b"f" * 5000,
    b"0b" + b"1" * 200,
    b".nan",
    b"-.inf",
    b"1e999",
    b"1_000",
    b"0o17",
    b"[" * 600,
    b"{a: " * 400,
    b"- " * 400,
    b"? ",
    b"? [a]\n: b\n",
    b": ",
    b"- - - ",
    b"|\n",
    b">9\n",
    b"'",
    b'"',
    b"#",
    b"\t",
    b"\r",
    b"name: again\n",
    b"normal: {}\n",
    b"\xf0\x9f\x92\xa9",
    b"a" * 3000,
]

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2,
    7,
    2**70,
    10**6000,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "none",
    "sep_conv_3x3",
    "\ud800",
    "\x00",
    "x" * 10_000,
    b"bytes",
    (),
    (1, 2),
    [],
    [[]],
    {},
    {"op": "none", "from": 0},
    {1: 2},
    {(): None},
    {frozenset(): 1},
    object(),
    {1, 2},
    range(3),
    1j,
]


def check(outcome: Any) -> bool:
    """Run; return whether it gave a genotype. Anything but ours is an error of the test."""
    start = time.process_time()
    try:
        genotype = outcome()
    except NasEncoderError as error:
        text = str(error)
        text.encode("utf-8")
        assert len(text) < 100_000
        return False
    finally:
        assert time.process_time() - start < 5
    assert isinstance(genotype, Genotype)
    again = Genotype.from_dict(genotype.to_dict())
    assert again.hash == genotype.hash
    return True


def mutate_bytes(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(TEXTS))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place % len(data)] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 40)]
        elif kind == 2:
            data[place:place] = rng.choice(FRAGMENTS)
        elif kind == 3:
            other = rng.choice(TEXTS)
            start = rng.randrange(len(other))
            data[place:place] = other[start : start + rng.randrange(1, 120)]
        elif kind == 4:
            data[place : place + rng.randrange(20)] = rng.choice(FRAGMENTS)
        else:
            del data[place:]
    return bytes(data)


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return all (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found.append((value, key))
        if isinstance(item, (dict, list)):
            places(item, found)
    return found


def mutate_document(rng: random.Random) -> Any:
    doc = copy.deepcopy(rng.choice(DOCUMENTS))
    for _ in range(rng.choice((1, 1, 2, 4))):
        found = places(doc, [])
        if not found:
            break
        container, key = rng.choice(found)
        kind = rng.randrange(5)
        if kind == 0:
            del container[key]
        elif kind == 1:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 2:
            other, other_key = rng.choice(found)
            container[key] = copy.deepcopy(other[other_key])
        elif kind == 3 and isinstance(container, list):
            container.extend(copy.deepcopy(container[: rng.randrange(5)]))
        elif isinstance(container, dict):
            new = copy.deepcopy(rng.choice(VALUES))
            try:
                container[new] = copy.deepcopy(rng.choice(VALUES))
            except TypeError:  # not a key
                container[str(key) * 2] = new
    return doc


def mutate(seed: int) -> bool:
    rng = random.Random(seed)
    if rng.random() < 0.35:
        data = mutate_bytes(rng)
        return check(lambda: Genotype.from_dict(parse_yaml(data, "fuzz"), "fuzz"))
    doc = mutate_document(rng)
    return check(lambda: load_genotype(doc))


def test_some_hundred_mutations() -> None:
    outcomes = [mutate(seed) for seed in range(500)]
    assert any(outcomes) and not all(outcomes), "the mutations are too wild or too tame"


@pytest.mark.slow
def test_ten_thousand_mutations() -> None:
    outcomes = [mutate(seed) for seed in range(1000, 11_000)]
    assert any(outcomes) and not all(outcomes)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_arbitrary_bytes(data: bytes) -> None:
    assert not check(lambda: Genotype.from_dict(parse_yaml(data, "fuzz")))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["schema", "name", "space", "normal", "reduction", "nodes", "op", "from", "concat"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_arbitrary_documents(doc: Any) -> None:
    for space in ("darts", "asr_revised", None):
        value = {**doc, "space": space} if isinstance(doc, dict) and space else doc
        check(lambda value=value: Genotype.from_dict(value))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["darts", "asr_revised"]), st.data())
def test_provenance_of_plain_types_survives(seed: int, space: str, data: st.DataObject) -> None:
    genotype = get_space(space).sample(random.Random(seed))
    extra = data.draw(
        st.dictionaries(
            st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda key: key != "kind"),
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63)
            | st.floats(allow_nan=False)
            | st.text(st.characters(codec="utf-8"), max_size=20)
            | st.lists(st.integers(0, 9), max_size=3),
            max_size=4,
        )
    )
    renamed = Genotype(genotype.name, space, genotype.architecture, {"kind": "search", **extra})
    assert Genotype.from_dict(renamed.to_dict()) == renamed


def test_a_document_that_contains_itself() -> None:
    for key in ("normal", "provenance", "name", "extra"):
        doc = copy.deepcopy(DOCUMENTS[0])
        doc[key] = doc
        assert not check(lambda doc=doc: load_genotype(doc))
        doc[key] = {"kind": "search", "nodes": [doc], "concat": doc}
        assert not check(lambda doc=doc: load_genotype(doc))


BOMBS = {
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [" + ",".join([f"*{chr(97 + i)}"] * 9) + "]\n"
        for i in range(9)
    ),
    "recursive anchor": "a: &a\n  b: *a\n",
    "deep lists": "[" * 100_000,
    "deep block lists": "".join("  " * i + "-\n" for i in range(900)),
    "deep maps": "".join(" " * i + "a:\n" for i in range(1300)),
    "long base 60": "schema: 1" + ":59" * 300_000,
    "many keys": "space: darts\n" + "".join(f"k{i}: 1\n" for i in range(8_000)),
    "many documents": "---\n" * 50_000,
    "long key": "? " + "k" * 900_000 + "\n: 1\n",
    "long name": "space: darts\nname: " + "n" * 900_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_fail_fast(name: str) -> None:
    start = time.process_time()
    with pytest.raises(NasEncoderError) as got:
        Genotype.from_dict(parse_yaml(BOMBS[name], "bomb"), "bomb")
    assert time.process_time() - start < 20
    assert len(str(got.value)) < 30_000
