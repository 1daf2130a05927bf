"""The 2-D cell spaces: their size by enumeration, and what is no member."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from choice_samples import CELL_SPACE_OPERATIONS

from nas_encoder import Genotype, load_genotype
from nas_encoder.errors import GenotypeError
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells import space as cells
from nas_encoder.spaces.cells.architecture import Cell, CellArchitecture, Edge

SIZE_OF_A_DARTS_CELL = 7**8 * 1 * 3 * 6 * 10  # Liu et al. 2019, appendix A.1 counts 10^9 per cell


@pytest.mark.parametrize("name", CELL_SPACE_OPERATIONS)
def test_sizes(name: str) -> None:
    space = get_space(name)
    assert space.size == SIZE_OF_A_DARTS_CELL**2
    assert space.operations == CELL_SPACE_OPERATIONS[name]
    assert "none" not in space.choices
    assert len(space.choices) == 7


def test_the_spaces_differ_in_one_operation() -> None:
    darts, revised = (set(get_space(name).choices) for name in ("darts", "asr_revised"))
    assert darts - revised == {"skip_connect"}
    assert revised - darts == {"conv_7x1_1x7"}


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_reduced_space_has_the_members_that_brute_force_finds(
    nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "NODES", nodes)
    operations = ("none", "max_pool_3x3", "sep_conv_3x3")[: 4 - nodes]
    space = cells.CellSpace("darts", operations)
    found = {
        space.decode(list(vector)).architecture
        for vector in itertools.product(*(range(bound) for bound in space.bounds))
    }
    choices = operations[1:]
    edges = [
        [
            (Edge(a, s), Edge(b, t))
            for s, t in itertools.combinations(range(2 + node), 2)
            for a in choices
            for b in choices
        ]
        for node in range(nodes)
    ]
    concat = tuple(range(2, 2 + nodes))
    single = [Cell(tuple(chosen), concat) for chosen in itertools.product(*edges)]
    expected = {CellArchitecture(a, b) for a in single for b in single}
    assert found == expected
    assert space.size == len(expected)


def member() -> Any:
    return load_genotype("darts_v2").to_dict()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d["normal"]["nodes"].pop(), "normal.nodes: must be 4 in this space, are 3"),
        (lambda d: d["normal"]["nodes"][0].pop(), "normal.nodes[0]: must read 2 different states"),
        (
            lambda d: d["reduction"]["nodes"][1][0].update({"from": 1}),
            "reduction.nodes[1]: must read 2 different states in this space, reads [1, 1]",
        ),
        (
            lambda d: d["normal"]["nodes"][2].append({"op": "max_pool_3x3", "from": 3}),
            "normal.nodes[2]: must read 2 different states in this space, reads [1, 0, 3]",
        ),
    ],
)
def test_valid_genotypes_that_are_no_members(change: Any, problem: str) -> None:
    doc = member()
    change(doc)
    if len(doc["normal"]["nodes"]) == 3:
        doc["normal"]["concat"] = [2, 3, 4]
    genotype = Genotype.from_dict(doc)  # the schema is wider than the space
    with pytest.raises(GenotypeError) as got:
        get_space("darts").validate(genotype)
    assert any(line.startswith(problem) for line in got.value.problems)


def test_a_concatenation_of_some_nodes_is_no_member() -> None:
    doc = member()
    doc["reduction"]["nodes"][3] = [
        {"op": "max_pool_3x3", "from": 2},
        {"op": "max_pool_3x3", "from": 4},
    ]
    doc["reduction"]["concat"] = [3, 5]
    with pytest.raises(GenotypeError, match=r"reduction.concat: must be \[2, 3, 4, 5\]"):
        get_space("darts").validate(Genotype.from_dict(doc))


def test_genotypes_made_by_hand_are_checked_too() -> None:
    genotype = load_genotype("darts_v2")
    wrong = Edge("conv_7x1_1x7", 0), Edge("sep_conv_3x3", 7)
    normal = Cell((wrong, *genotype.architecture.normal.nodes[1:]), (2, 3, 4, 5))
    other = Genotype("x", "darts", CellArchitecture(normal, genotype.architecture.reduction))
    with pytest.raises(GenotypeError) as got:
        get_space("darts").encode(other)
    assert [line.split(": ")[0] for line in got.value.problems] == [
        "normal.nodes[0][0].op",
        "normal.nodes[0][1].from",
    ]
    with pytest.raises(GenotypeError, match="must be two 2-D cells"):
        get_space("darts").validate(Genotype("x", "darts", object()))


def test_the_order_of_edges_and_of_the_concatenation_plays_no_part() -> None:
    genotype = load_genotype("darts_v2")
    doc = member()
    for kind in ("normal", "reduction"):
        doc[kind]["nodes"] = [node[::-1] for node in doc[kind]["nodes"]]
        doc[kind]["concat"].reverse()
    space = get_space("darts")
    assert space.encode(Genotype.from_dict(doc)) == space.encode(genotype)
    assert space.decode(space.encode(genotype)).hash == genotype.hash


def test_names_of_samples_tell_the_space_and_the_architecture() -> None:
    genotype = get_space("asr_revised").sample(random.Random(0))
    assert genotype.name == f"asr_revised-{genotype.hash[:8]}"
