"""What every search space must hold."""

from __future__ import annotations

import random
from math import prod

import pytest

from nas_encoder import Genotype, build_encoder
from nas_encoder.errors import GenotypeError, RegistryError
from nas_encoder.spaces import SPACES, get_space, list_spaces

every_space = pytest.mark.parametrize("name", list_spaces())


@every_space
def test_a_space_has_a_format_and_a_network(name: str) -> None:
    assert get_space(name) is SPACES[name]
    assert get_space(name).name == name
    assert get_space(name).keys
    assert get_space(name).has("network")


def test_an_unknown_space_lists_the_known_ones() -> None:
    with pytest.raises(RegistryError, match=r"unknown search space 'dart' \(did you mean 'darts'"):
        get_space("dart")


@every_space
def test_samples_are_members_and_survive_the_document(name: str) -> None:
    space = get_space(name)
    rng = random.Random(0)
    for _ in range(200):
        genotype = space.sample(rng)
        assert genotype.space == name
        assert genotype.provenance["kind"] == "sampled"
        space.validate(genotype)
        again = Genotype.from_dict(genotype.to_dict())
        assert again == genotype
        space.validate(again)


@every_space
def test_the_generator_alone_decides(name: str) -> None:
    space = get_space(name)
    state = random.getstate()
    first, second = ([space.sample(rng) for _ in range(5)] for rng in (random.Random(3),) * 2)
    repeat = [space.sample(random.Random(3)) for _ in range(2)]
    assert repeat[0] == repeat[1] == first[0]
    assert len({genotype.hash for genotype in [*first, *second]}) == 10
    assert random.getstate() == state


@every_space
def test_encoding_and_decoding_are_inverse(name: str) -> None:
    space = get_space(name)
    rng = random.Random(1)
    bounds = space.bounds
    assert prod(bounds) == space.size
    for _ in range(200):
        vector = [rng.randrange(bound) for bound in bounds]
        genotype = space.decode(vector)
        assert space.encode(genotype) == vector
        assert space.decode(space.encode(genotype)) == genotype


@every_space
def test_both_ends_of_every_choice_are_members(name: str) -> None:
    space = get_space(name)
    for place, bound in enumerate(space.bounds):
        for value in (0, bound - 1):
            vector = [0] * len(space.bounds)
            vector[place] = value
            space.validate(Genotype.from_dict(space.decode(vector).to_dict()))


@every_space
@pytest.mark.parametrize("wrong", ["short", "long", "high", "negative", "bool", "text"])
def test_a_wrong_vector_is_refused(name: str, wrong: str) -> None:
    space = get_space(name)
    vector: list[object] = [0] * len(space.bounds)
    if wrong in ("short", "long"):
        vector = vector[1:] if wrong == "short" else [*vector, 0]
    else:
        values = {"high": space.bounds[-1], "negative": -1, "bool": True, "text": "0"}
        vector[-1] = values[wrong]
    with pytest.raises(GenotypeError, match="vector"):
        space.decode(vector)  # type: ignore[arg-type]


@every_space
def test_a_mutation_changes_one_choice_and_reaches_all(name: str) -> None:
    space = get_space(name)
    rng = random.Random(2)
    parent = space.sample(rng)
    before = space.encode(parent)
    reached = set()
    for _ in range(6000):
        child = space.mutate(parent, rng)
        space.validate(child)
        after = space.encode(child)
        changed = [i for i in range(len(after)) if after[i] != before[i]]
        assert len(changed) == 1
        reached.add((changed[0], after[changed[0]]))
    assert space.encode(parent) == before
    assert len(reached) == sum(bound - 1 for bound in space.bounds)


@every_space
def test_samples_are_uniform_over_every_choice(name: str) -> None:
    """Chi-squared of each choice, far beyond any reasonable quantile."""
    space = get_space(name)
    rng = random.Random(4)
    vectors = [space.encode(space.sample(rng)) for _ in range(3000)]
    for place, bound in enumerate(space.bounds):
        counts = [0] * bound
        for vector in vectors:
            counts[vector[place]] += 1
        expected = len(vectors) / bound
        chi2 = sum((count - expected) ** 2 / expected for count in counts)
        assert chi2 < bound - 1 + 10 * (2 * max(bound - 1, 1)) ** 0.5


@every_space
def test_genotypes_of_other_spaces_are_no_members(name: str) -> None:
    other = next(n for n in list_spaces() if n != name)
    genotype = get_space(other).sample(random.Random(0))
    with pytest.raises(GenotypeError, match=f"space: must be '{name}', got '{other}'"):
        get_space(name).validate(genotype)
    for method in ("encode", "validate"):
        with pytest.raises(GenotypeError):
            getattr(get_space(name), method)(genotype)
    with pytest.raises(GenotypeError):
        get_space(name).mutate(genotype, random.Random(0))


@every_space
def test_samples_can_be_built(name: str) -> None:
    for seed in range(3):
        genotype = get_space(name).sample(random.Random(seed))
        assert sum(p.numel() for p in build_encoder(genotype, 8, 2, 3, 4).parameters()) > 0
