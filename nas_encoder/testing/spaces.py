"""The contract of search spaces."""

from __future__ import annotations

import random
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError, GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.choices.straight_through import draw_paths
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.spaces import SearchSpace, get_space, list_spaces
from nas_encoder.testing.baselines import every_parameter_takes_part, padding_changes_nothing
from nas_encoder.testing.convolutions import only_sound_convolutions
from nas_encoder.testing.streaming import streams_or_says_why_not


class SpaceContract:
    """Sampling, mutation, encoding, documents and choices; needs the fixture ``space``."""

    def test_it_is_in_the_table(self, space: SearchSpace) -> None:
        assert get_space(space.name) is space
        assert space.keys and space.has("network")

    def test_samples_are_members_and_survive_the_document(self, space: SearchSpace) -> None:
        rng = random.Random(0)
        for _ in range(200):
            genotype = space.sample(rng)
            assert genotype.space == space.name
            assert genotype.provenance["kind"] == "sampled"
            space.validate(genotype)
            again = Genotype.from_dict(genotype.to_dict())
            assert again == genotype
            space.validate(again)

    def test_the_generator_alone_decides(self, space: SearchSpace) -> None:
        state = random.getstate()
        first, second = ([space.sample(rng) for _ in range(5)] for rng in (random.Random(3),) * 2)
        repeat = [space.sample(random.Random(3)) for _ in range(2)]
        assert repeat[0] == repeat[1] == first[0]
        assert len({genotype.hash for genotype in [*first, *second]}) == 10
        assert random.getstate() == state

    def test_encoding_and_decoding_are_inverse(self, space: SearchSpace) -> None:
        rng = random.Random(1)
        bounds = space.bounds
        assert prod(bounds) == space.size
        for _ in range(200):
            vector = [rng.randrange(bound) for bound in bounds]
            genotype = space.decode(vector)
            assert space.encode(genotype) == vector
            assert space.decode(space.encode(genotype)) == genotype

    def test_both_ends_of_every_choice_are_members(self, space: SearchSpace) -> None:
        for place, bound in enumerate(space.bounds):
            for value in (0, bound - 1):
                vector = [0] * len(space.bounds)
                vector[place] = value
                space.validate(Genotype.from_dict(space.decode(vector).to_dict()))

    @pytest.mark.parametrize("wrong", ["short", "long", "high", "negative", "bool", "text"])
    def test_a_wrong_vector_is_refused(self, space: SearchSpace, wrong: str) -> None:
        vector: list[Any] = [0] * len(space.bounds)
        if wrong in ("short", "long"):
            vector = vector[1:] if wrong == "short" else [*vector, 0]
        else:
            values = {"high": space.bounds[-1], "negative": -1, "bool": True, "text": "0"}
            vector[-1] = values[wrong]
        with pytest.raises(GenotypeError, match="vector"):
            space.decode(vector)

    def test_a_mutation_changes_one_choice_and_reaches_all(self, space: SearchSpace) -> None:
        rng = random.Random(2)
        parent = space.sample(rng)
        before = space.encode(parent)
        every, more = sum(bound - 1 for bound in space.bounds), 500
        reached = set()
        for _ in range(6000):
            child = space.mutate(parent, rng)
            space.validate(child)
            after = space.encode(child)
            changed = [i for i in range(len(after)) if after[i] != before[i]]
            assert len(changed) == 1
            reached.add((changed[0], after[changed[0]]))
            more -= len(reached) == every
            if not more:  # nor do these reach anything else
                break
        assert space.encode(parent) == before
        assert len(reached) == every

    def test_samples_are_uniform_over_every_choice(self, space: SearchSpace) -> None:
        """Chi-squared test of each choice, with a bound far beyond any reasonable quantile."""
        rng = random.Random(4)
        vectors = [space.encode(space.sample(rng)) for _ in range(3000)]
        for place, bound in enumerate(space.bounds):
            counts = [0] * bound
            for vector in vectors:
                counts[vector[place]] += 1
            expected = len(vectors) / bound
            chi2 = sum((count - expected) ** 2 / expected for count in counts)
            assert chi2 < bound - 1 + 10 * (2 * max(bound - 1, 1)) ** 0.5

    def test_genotypes_of_other_spaces_are_no_members(self, space: SearchSpace) -> None:
        other = next(name for name in list_spaces() if name != space.name)
        genotype = get_space(other).sample(random.Random(0))
        with pytest.raises(GenotypeError, match=f"space: must be '{space.name}', got '{other}'"):
            space.validate(genotype)
        with pytest.raises(GenotypeError):
            space.encode(genotype)
        with pytest.raises(GenotypeError):
            space.mutate(genotype, random.Random(0))


class NetworkContract:
    """Networks, supernets, costs and pictures of a space; needs the fixture ``space``."""

    SIZE = {"input_size": 8, "channels": 4, "layers": 3, "output_size": 6}
    FRAMES = 50

    @pytest.fixture(params=range(3))
    def genotype(self, space: SearchSpace, request: pytest.FixtureRequest) -> Genotype:
        """A member that a search can find: without the candidate that is never derived."""
        rng = random.Random(request.param)
        while True:
            genotype = space.sample(rng)
            chosen = space.chosen(genotype.architecture).values()
            if all(op != space.zero for own in chosen for _, op in own):
                return genotype

    @pytest.fixture
    def network(self, genotype: Genotype) -> Any:
        """Its network."""
        return build_encoder(genotype, **self.SIZE).double().eval()

    def test_padding_and_batch_mates_change_nothing(self, network: Any) -> None:
        padding_changes_nothing(network)

    def test_its_frame_rate_is_one_of_the_space(self, space: SearchSpace, network: Any) -> None:
        rates = space.frame_rates(network.config)
        assert rates.finest <= network.subsampling_factor <= rates.coarsest
        assert network.min_length <= rates.min_length

    def test_every_parameter_takes_part(self, network: Any) -> None:
        every_parameter_takes_part(network)

    def test_the_receptive_field_is_what_is_seen(self, network: Any, genotype: Genotype) -> None:
        try:
            field = get_space(genotype.space).network.receptive_field(
                genotype.architecture, network.config
            )
        except ConfigError as error:
            assert "no bound" in str(error)
            field = ReceptiveField(100, 100)  # more must be seen
            bounded = False
        else:
            bounded = True
        factor = network.subsampling_factor
        middle = -(-field.left // factor) + 1
        frames = (middle + 1) * factor + field.right
        x = torch.randn(1, frames, network.input_size, dtype=torch.float64, requires_grad=True)
        network(x, torch.tensor([frames]))[0][:, middle].sum().backward()
        assert x.grad is not None
        seen = x.grad.abs().sum((0, 2)).nonzero().flatten()
        if bounded:
            assert middle * factor - field.left <= int(seen[0])
            assert int(seen[-1]) <= middle * factor + field.right
        else:
            assert len(seen) > 0.8 * frames  # no front end without padding sees the last ones

    def test_it_streams_or_says_why_not(self, network: Any) -> None:
        streams_or_says_why_not(network)

    def test_costs_are_those_of_the_network(
        self, space: SearchSpace, network: Any, genotype: Genotype
    ) -> None:
        costs = space.costs.build(space, network.config, self.FRAMES)
        found = costs.of(genotype.architecture)
        assert found["parameters"] == count_parameters(network)
        assert found["macs"] == count_macs(network, self.FRAMES, network.input_size)
        if space.has("supernet"):
            assert all(costs.cheapest(name) <= value for name, value in found.items())
        assert set(found) == set(costs.quantities)

    def test_expected_costs_of_certain_choices_are_exact(
        self, space: SearchSpace, network: Any, genotype: Genotype
    ) -> None:
        needs_supernet(space)
        costs = space.costs.build(space, network.config, self.FRAMES)
        weights = {
            name: torch.tensor([list(choice.values()) for choice in own], dtype=torch.float64)
            for name, own in sure(space, genotype).items()
        }
        expected = costs.expected(weights, space.first_candidates())
        for name, value in costs.of(genotype.architecture).items():
            assert float(expected[name]) == pytest.approx(value, rel=1e-9), name

    @pytest.mark.parametrize("sampled", [False, True])
    @pytest.mark.parametrize("channels", [4, 8])
    def test_the_supernet_passes_a_gradient_to_every_choice(
        self, space: SearchSpace, network: Any, sampled: bool, channels: int
    ) -> None:
        needs_supernet(space)
        candidates = space.first_candidates()
        options = replace(network.config, channels=channels)
        supernet: Any = space.supernet.build(space, candidates, options, (), sampled)
        generator = torch.Generator().manual_seed(0)
        alphas = {
            kind: torch.randn(len(own), len(own[0]), generator=generator).requires_grad_()
            for kind, own in candidates.items()
        }
        choices = {
            kind: draw_paths(own, generator) if sampled else own.softmax(-1)
            for kind, own in alphas.items()
        }
        x, lengths = torch.randn(2, 30, network.input_size), torch.tensor([30, 17])
        with only_sound_convolutions():
            y, out_lengths = supernet(x, lengths, choices, 0.0)
            (y * torch.randn_like(y)).sum().backward()
        factor = supernet.subsampling_factor
        assert y.shape == (2, -(-30 // factor), network.output_size)
        assert out_lengths.tolist() == [-(-30 // factor), -(-17 // factor)]
        for kind, own in alphas.items():
            assert own.grad is not None and torch.isfinite(own.grad).all(), kind
            assert (own.grad != 0).any(), kind

    def test_what_was_chosen_is_derived(self, space: SearchSpace, genotype: Genotype) -> None:
        probabilities = sure(space, genotype)
        derived = space.derive(probabilities, {})
        again, before = (space.chosen(found) for found in (derived, genotype.architecture))
        assert {kind: sorted(own) for kind, own in again.items()} == {
            kind: sorted(own) for kind, own in before.items()
        }

    def test_pruning_keeps_as_many_as_are_asked_for(self, space: SearchSpace) -> None:
        rng = random.Random(5)
        probabilities = {
            name: tuple({op: rng.random() for op in choice} for choice in own)
            for name, own in space.first_candidates().items()
        }
        for name, kept in space.prune(probabilities, 2, {}).items():
            kind = space.kinds[name]
            assert len(kept) == len(kind.names)
            for choice in kept:
                assert len(choice) == (2 if kind.pruned else len(kind.operations))
                assert list(choice) == [op for op in kind.operations if op in choice]

    def test_it_is_shown_and_drawn(
        self, space: SearchSpace, network: Any, genotype: Genotype
    ) -> None:
        assert all(space.lines(genotype.architecture))
        assert all(space.legend(genotype.architecture, network.config))
        graphs = space.picture.graphs(genotype.architecture)
        assert graphs and all(title for title, _ in graphs)


def needs_supernet(space: SearchSpace) -> None:
    """Skip a test of searches with gradients for a space that has none."""
    if not space.has("supernet"):
        pytest.skip(f"'{space.name}' has no supernet for searches with gradients")


def sure(space: SearchSpace, genotype: Genotype) -> dict[str, list[dict[str, float]]]:
    """Return probabilities that are 1 for a genotype's choices."""
    chosen = space.chosen(genotype.architecture)
    return {
        name: [
            {op: float((place, op) in chosen[name]) for op in choice}
            for place, choice in enumerate(own)
        ]
        for name, own in space.first_candidates().items()
    }
