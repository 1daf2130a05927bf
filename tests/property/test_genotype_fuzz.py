"""Malformed and hostile genotype files: our error or a valid genotype, never anything else."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import pytest
from genotype_cases import (
    BY_CHANCE,
    DOCUMENTS,
    IN_DOCUMENTS,
    IN_TEXTS,
    VALID,
    check,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_encoder import Genotype, load_genotype
from nas_encoder.common.documents import parse_yaml
from nas_encoder.errors import NasEncoderError
from nas_encoder.spaces import get_space


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_cases_of_every_kind(seed: int) -> None:
    """Six thousand in all; ``python tests/genotype_cases.py`` tries any number."""
    counts = run(seed, count=1500, build_every=40)
    assert set(counts) == {*VALID, *BY_CHANCE, *IN_DOCUMENTS, *IN_TEXTS}
    for kind in BY_CHANCE:
        assert counts[kind]["read"] and counts[kind]["refused"], f"{kind}: too wild or too tame"
    assert sum(own["built"] for own in counts.values()) >= 15


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
