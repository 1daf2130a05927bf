"""The documents, graphs and hashes of ``nasbench_asr``."""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from typing import Any

import pytest

from nas_encoder import Genotype
from nas_encoder.errors import GenotypeError
from nas_encoder.spaces.nasbench_asr.architecture import (
    OPERATIONS,
    SkipArchitecture,
    Vector,
    all_vectors,
    graph_hash,
    is_minimal,
)
from nas_encoder.spaces.nasbench_asr.space import NASBENCH_ASR as SPACE

DOCUMENT: dict[str, Any] = {
    "schema": 1,
    "name": "sample",
    "space": "nasbench_asr",
    "nodes": [
        {"op": "conv5"},
        {"op": "zero", "skips": [1]},
        {"op": "conv7d2", "skips": [0, 2]},
    ],
}


def has_zero(vector: Vector) -> bool:
    return any(OPERATIONS[op] == "zero" for op, *_ in vector)


def test_the_hash_of_the_documented_example() -> None:
    """Printed in the README of https://github.com/SamsungLabs/nb-asr (commit 9749a30)."""
    architecture = SPACE.from_vector([[1, 0], [1, 0, 0], [1, 0, 0, 0]]).architecture
    assert architecture.graph_hash == "36855332a5778e0df5114305bc3ce238"


def test_every_hash_is_that_of_the_published_code() -> None:
    """The digest is of what ``nasbench_asr.search_space.get_model_hash`` of the public code (commit
    9749a30, NumPy graphs) gives for all 13,824 vectors, one ``vector hash`` in a line in the order
    of :func:`all_vectors`.
    """
    lines = "\n".join(f"{vector} {graph_hash(vector)}" for vector in all_vectors())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == "540416ee3591935658884a970930d814473e5c6b7396f9f053c874f86d838a76"


def test_how_many_there_are() -> None:
    vectors = list(all_vectors())
    assert len(vectors) == len(set(vectors)) == SPACE.size == 13824
    hashes = {vector: graph_hash(vector) for vector in vectors}
    assert len(set(hashes.values())) == SPACE.unique_size == 8242
    assert len({hashes[vector] for vector in vectors if not has_zero(vector)}) == 8000


def test_enumeration_gives_each_graph_once_and_in_one_order() -> None:
    found = list(SPACE.enumerate())
    assert len({genotype.architecture.graph_hash for genotype in found}) == len(found) == 8242
    assert len({genotype.hash for genotype in found}) == 8242
    assert all(genotype.architecture.reduced() == genotype.architecture for genotype in found)
    again = SPACE.enumerate()
    assert [next(again) for _ in range(50)] == found[:50]
    for genotype in random.Random(0).sample(found, 50):
        SPACE.validate(genotype)
        assert Genotype.from_dict(genotype.to_dict()) == genotype


def test_enumeration_and_hashing_take_less_than_two_seconds() -> None:
    graph_hash.cache_clear()
    began = time.process_time()
    count = sum(1 for genotype in SPACE.enumerate() if genotype.architecture.graph_hash)
    assert count == 8242
    assert time.process_time() - began < 2


def canonical_graph(vector: Vector) -> Any:
    """Return a complete invariant of the graph, by brute force over the order of its operations.

    Written independently: vertices by name, ``zero`` and what is on no way through goes.
    """
    nodes = len(vector)
    edges = {(k, k + 1) for k in range(nodes + 1)}
    for k, (_, *bits) in enumerate(vector, 1):
        edges |= {(j, k + 1) for j, bit in enumerate(bits) if bit}
    alive = {0, nodes + 1} | {k for k, (op, *_) in enumerate(vector, 1) if op != 5}
    paths = [
        path
        for length in range(nodes + 1)
        for inner in itertools.combinations(range(1, nodes + 1), length)
        if (path := (0, *inner, nodes + 1))
        and set(path) <= alive
        and all(pair in edges for pair in itertools.pairwise(path))
    ]
    kept = sorted({vertex for path in paths for vertex in path})
    if not kept:
        return None
    inner = kept[1:-1]
    forms = []
    for order in itertools.permutations(inner):
        place = {0: 0, nodes + 1: len(inner) + 1, **{v: i for i, v in enumerate(order, 1)}}
        forms.append(
            (
                tuple(vector[v - 1][0] for v in order),
                tuple(sorted((place[a], place[b]) for a, b in edges if {a, b} <= set(kept))),
            )
        )
    return min(forms)


def test_the_hash_tells_graphs_apart_exactly() -> None:
    by_hash: dict[str, Any] = {}
    by_graph: dict[Any, str] = {}
    for vector in all_vectors():
        if has_zero(vector):
            graph, found = canonical_graph(vector), graph_hash(vector)
            assert by_hash.setdefault(found, graph) == graph
            assert by_graph.setdefault(graph, found) == found
    assert len(by_hash) == 242


def test_reduced_is_the_same_for_all_of_a_hash_and_has_it() -> None:
    representative: dict[str, SkipArchitecture] = {}
    for vector in random.Random(1).sample([v for v in all_vectors() if has_zero(v)], 1500):
        architecture = SkipArchitecture.from_vector(vector)
        reduced = architecture.reduced()
        assert reduced.graph_hash == architecture.graph_hash
        assert is_minimal(reduced.vector)
        assert representative.setdefault(architecture.graph_hash, reduced) == reduced
    assert len(representative) > 100


def test_what_has_no_effect_is_not_in_the_graph() -> None:
    vector = ((0, 1), (5, 0, 0), (3, 1, 0, 0))  # linear leads nowhere, conv7 gets nothing
    reduced = SkipArchitecture.from_vector(vector).reduced()
    assert [node.op for node in reduced.nodes] == ["zero"] * 3
    assert not is_minimal(vector) and is_minimal(reduced.vector)
    nothing = SkipArchitecture.from_vector(((5, 0), (1, 0, 0), (2, 0, 0, 0)))
    assert nothing.graph_hash == hashlib.md5(b"[]").hexdigest()


def test_vectors_and_documents_are_two_forms_of_one_thing() -> None:
    genotype = Genotype.from_dict(DOCUMENT)
    assert genotype.architecture.vector == ((1, 0), (5, 0, 1), (4, 1, 0, 1))
    assert SPACE.from_vector(genotype.architecture.vector).architecture == genotype.architecture
    assert SPACE.encode(genotype) == [1, 0, 5, 0, 1, 4, 1, 0, 1]
    same = Genotype.from_dict({**DOCUMENT, "name": "other"})
    assert same.hash == genotype.hash
    assert Genotype.from_dict(genotype.to_dict()) == genotype


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("linear", ["nodes: must be a list"]),
        ([{"op": "conv5"}], ["nodes: must have 3 entries, has 1"]),
        (
            [{"op": "conv9"}, {"skips": [0]}, {"op": "zero", "skips": [3, "0"]}],
            [
                "nodes[0].op: unknown operation 'conv9' (did you mean 'conv",
                "nodes[1].op: is missing",
                "nodes[2].skips[0]: must be in 0..2, got 3 (0 is the cell's input, k node k)",
                "nodes[2].skips[1]: must be an integer, got str '0'",
            ],
        ),
        (
            [{"op": "zero", "from": 0}, 7, {"op": "conv7", "skips": [1, 1]}],
            [
                "nodes[0].from: unknown key",
                "nodes[1]: must be a mapping",
                "nodes[2].skips: names an output twice: [1, 1]",
            ],
        ),
    ],
)
def test_bad_documents_are_refused_with_every_problem(nodes: Any, expected: list[str]) -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_dict({**DOCUMENT, "nodes": nodes})
    assert len(caught.value.problems) == len(expected)
    for problem, text in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(text)


@pytest.mark.parametrize(
    ("vector", "expected"),
    [
        (None, "vector: must be a list"),
        ([[1, 0], [1, 0, 0]], "vector: must have 3 entries, has 2"),
        ([[1, 0], [1, 0], [1, 0, 0, 0]], "vector[1]: must have 3 entries, has 2"),
        ([[6, 0], [1, 0, 0], [1, 0, 0, 0]], "vector[0][0]: must be in 0..5, got 6"),
        ([[1, 0], [1, 0, 2], [1, 0, 0, 0]], "vector[1][2]: must be in 0..1, got 2"),
        ([[1, 0], [1, True, 0], [1, 0, 0, 0]], "vector[1][1]: must be an integer"),
    ],
)
def test_bad_vectors_are_refused(vector: Any, expected: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        SPACE.from_vector(vector)
    assert caught.value.problems[0].startswith(expected)


def test_a_genotype_with_other_nodes_is_no_member() -> None:
    two = SkipArchitecture.from_vector(((0, 1), (9 - 4, 0, 1)))
    with pytest.raises(GenotypeError, match="nodes: must have 3 entries, has 2"):
        SPACE.validate(Genotype("two", "nasbench_asr", two))
