"""2-D cells that stream: causality in a genotype, lookahead, caches, what is refused, precision."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from encoder_samples import MIXED_CELL, document
from streaming_samples import BINS, causal, cells_of, state_sizes
from torch.utils.flop_counter import FlopCounterMode

from nas_encoder import build_encoder, load_genotype
from nas_encoder.errors import ConfigError, GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.ops import Identity
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.architecture import Cell, CellArchitecture, Edge
from nas_encoder.testing.streaming import chunks_give_the_same, lookahead_is_exact, streamed

MIXED = document(MIXED_CELL)
# Of the shipped genotypes before there was any 'causal_after'.
HASHES = {"asrnet_b": "715a365cc6eadcf0", "darts_v2": "bb894efedcb9d5d5"}


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def test_causality_changes_the_hash_only_where_it_is_given() -> None:
    for name, known in HASHES.items():
        genotype = load_genotype(name)
        assert genotype.hash == known and "causal_after" not in genotype.to_dict()
        seen = {known}
        for after in (0, 1, 7):
            changed = causal(name, after)
            again = Genotype.from_dict(changed.to_dict())
            assert again == changed and again.architecture.causal_after == after
            seen.add(again.hash)
        assert len(seen) == 4


@pytest.mark.parametrize("value", [-1, 1025, True, "2", 1.0, None])
def test_what_is_no_number_of_cells_is_refused(value: Any) -> None:
    with pytest.raises(GenotypeError, match="causal_after: must be "):
        Genotype.from_dict({**MIXED, "causal_after": value})


def test_lookahead_in_known_cases() -> None:
    def ahead(after: int | None, op: str = "sep_conv_5x5", **options: Any) -> int:
        cell = {"nodes": [[{"op": op, "from": 1}]], "concat": [2]}
        return int(cells_of(document(cell), after, **options).lookahead())

    # Two of the three cells are reductions: a frame of the output has four of its own.
    assert ahead(0, layers=3) == 3
    assert ahead(0, layers=3, stem_stride=(2, 1)) == 7
    assert ahead(1, layers=3) == 3 + 4
    # The first reduction sees 2 frames of the input's rate and 2 of its own, instead of its own 1.
    assert ahead(2, layers=3) == 3 + 4 + (2 + 2 * 2 - 1)
    assert ahead(3, layers=3) == ahead(9, layers=3) == 4 + (2 + 2 * 2) + (2 * 2 + 2 * 4)
    # None: the stem and the deltas see ahead too.
    assert ahead(None, layers=3) == ahead(3, layers=3) + 1 + 4
    assert ahead(None, layers=3, deltas=False) == ahead(3, layers=3) + 1


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("mixed", 0),
        ("mixed", 2),
        pytest.param("mixed", None, marks=pytest.mark.slow),
        ("asrnet_b", 0),
        ("asrnet_b", 2),
    ],
)
def test_lookahead_is_what_a_change_ahead_shows(name: str, after: int | None) -> None:
    network = cells_of(MIXED if name == "mixed" else name, after, channels=2, layers=4)
    lookahead_is_exact(network, network.subsampling_factor, 20)


def test_the_past_is_what_it_was_and_more() -> None:
    """The field only moves: as far as it sees less ahead, it sees more back."""
    widths = {cells_of("asrnet_b", after).field().frames for after in (0, 2, 5)}
    assert len(widths) == 1


class Lookahead(Identity):
    """An operation that sees a frame ahead and does not say how it could do without."""

    context = (0, 1)


def test_operations_that_cannot_be_causal_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = {"ahead": lambda channels, stride, affine: Lookahead()}
    monkeypatch.setattr("nas_encoder.ops.OPERATIONS", builder)
    cell = Cell(((Edge("ahead", 0), Edge("ahead", 1)),), (2,))
    genotype = Genotype("x", "darts", CellArchitecture(cell, cell, 2))
    with pytest.raises(ConfigError) as caught:
        build_encoder(genotype, input_size=8, channels=2, layers=4, output_size=4)
    # In a reduction, the frame ahead is one of a frame's own two.
    assert [line.split(" sees")[0] for line in caught.value.problems] == [
        "normal.nodes[0][0].op: 'ahead'",
        "normal.nodes[0][1].op: 'ahead'",
    ]
    assert "leave causal_after out" in caught.value.problems[0]


# -- caches -------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_state_is_not_changed_and_has_a_constant_size() -> None:
    sizes = state_sizes(cells_of("asrnet_b", 2), frames=16, steps=30)
    assert len(set(sizes[12:])) == 1


@pytest.mark.slow
@torch.no_grad()
def test_what_is_computed_is_in_proportion_to_the_chunk() -> None:
    """Convolutions see the frames of a chunk and those of their own kernels, whatever lies back."""
    network = cells_of("asrnet_b", layers=4, channels=2)
    state = network.initial_state(1)
    _, state = network.step(torch.zeros(1, 200, BINS, dtype=torch.float64), state)
    macs = []
    for frames in (16, 64):
        with FlopCounterMode(display=False) as counter:
            network.step(torch.zeros(1, frames, BINS, dtype=torch.float64), state)
        macs.append(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 64, BINS, dtype=torch.float64), torch.tensor([64]))
    assert macs[1] == 4 * macs[0] == counter.get_total_flops()


@torch.no_grad()
def test_batch_mates_change_nothing() -> None:
    network = cells_of(MIXED, 1).float()
    x, lengths, sizes = torch.randn(6, 70, BINS), torch.arange(70, 10, -10), [13] * 5 + [5]
    together = torch.cat(streamed(network, x, sizes, lengths), 1)
    for row in range(6):
        alone = torch.cat(streamed(network, x[row : row + 1], sizes, lengths[row : row + 1]), 1)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_taps_are_fed_back_as_in_whole_utterances() -> None:
    network = cells_of("asrnet_b", 2, layers=6, conditioning=True, taps=[5])
    x, lengths = torch.randn(2, 60, BINS, dtype=torch.float64), torch.tensor([60, 41])
    whole, _, _ = network.forward_taps(x, lengths, torch.tanh)
    plain, _ = network(x, lengths)
    assert (whole - plain).abs().max() > 1e-3
    found = torch.cat(streamed(network, x, [11] * 5 + [5], lengths, condition=torch.tanh), 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_far_away_stream_gives_what_a_new_one_gives() -> None:
    network = cells_of(MIXED, 0, channels=2, layers=3)
    sizes = [83] * 8
    chunks_give_the_same(network, sizes, [sum(sizes), 500, 83])


@torch.no_grad()
def test_half_precision_stays_near_float32() -> None:
    network = cells_of("asrnet_b", 2).float()
    x, lengths = torch.randn(2, 96, BINS), torch.tensor([96, 70])
    whole, _ = network(x, lengths)
    chunks = torch.cat(streamed(network, x, [16] * 6, lengths), 1)
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    half = network.bfloat16()
    found = torch.cat(streamed(half, x.bfloat16(), [16] * 6, lengths), 1)
    own, _ = half(x.bfloat16(), lengths)
    size = float(whole.abs().max())
    assert found.dtype == torch.bfloat16
    assert (found - own).abs().max() < 0.03 * size
    assert (found - whole).abs().max() < 0.03 * size


def test_a_network_with_an_operation_without_a_cache_encodes_windows() -> None:
    network = cells_of("asrnet_b", 1, layers=3)
    for cell in network.cells.values():
        cell.streams = False
    assert not network.streams
    assert network.initial_caches(2, torch.zeros(1)).shape == (2, 0, BINS)
    chunks_give_the_same(network, [20, 1, 30], [51, 40])


# -- the space ----------------------------------------------------------------------------------


def test_a_space_searches_where_cells_are_causal() -> None:
    space, rng = get_space("streaming_cells"), random.Random(0)
    seen = set()
    for _ in range(40):
        drawn = space.sample(rng)
        seen.add(drawn.architecture.causal_after)
        other = Genotype.from_dict({**copy.deepcopy(drawn.to_dict()), "space": "streaming_cells"})
        assert other.hash == drawn.hash
    assert len(seen) > 4 and None not in seen
    assert f"after the first {drawn.architecture.causal_after}: causal" in "\n".join(
        space.lines(drawn.architecture)
    )
    assert not space.has("supernet")
    assert get_space("darts").has("supernet")


@pytest.mark.parametrize(
    ("space", "after", "message"),
    [
        ("darts", 2, "must be left out to be searched in the space 'darts', got 2"),
        ("streaming_cells", None, "must be 0 or 1 or .* got none"),
        ("streaming_cells", 1000, "must be 0 or 1 or .* got 1000"),
    ],
)
def test_what_is_not_searched_is_a_member_without_a_vector(
    space: str, after: int | None, message: str
) -> None:
    cells = load_genotype("darts_v2").architecture
    genotype = causal(Genotype("x", space, cells), after)
    get_space(space).validate(genotype)
    assert build_encoder(genotype, input_size=8, channels=2, layers=3, output_size=4)
    with pytest.raises(GenotypeError, match=f"causal_after: {message}"):
        get_space(space).encode(genotype)
    with pytest.raises(GenotypeError, match="causal_after"):
        get_space(space).mutate(genotype, random.Random(0))
