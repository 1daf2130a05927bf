"""Supernets of sampled paths against plain mixtures with one-hot weights, in float64.

At one-hot weights a mixture (Liu et al. 2019, equation 2) gives what the path gives, its gradient
for a weight is the straight-through gradient of that operation's share, and its gradients for
kernels are the path's, zero for all others.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from choice_samples import all_candidates, ctc_chain, ctc_sampled
from parity.plain_supernet import PlainSupernet
from torch import Tensor, nn

from nas_encoder.network.choices.edges import draw_taken
from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.space import KINDS, edge_list
from nas_encoder.spaces.cells.supernet.sampled import SampledSupernet, _Edges
from nas_encoder.spaces.tdnn_chain.network import ChainEncoder
from nas_encoder.spaces.tdnn_chain.space import BLOCKS, ChainConfig

NODES, VOCABULARY, FRAMES, BINS = 4, 6, 17, 9
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def kernels(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.dim() == 4]


def pairs(ours: SampledSupernet, plain: PlainSupernet) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every parameter with its plain partner."""
    yield ours.encoder.stem.conv.weight, plain.stem[0].weight
    yield ours.encoder.stem.norm.weight, plain.stem[1].weight
    yield ours.encoder.stem.norm.bias, plain.stem[1].bias
    for cell, other in zip(ours.encoder.cells, plain.cells, strict=True):
        for mine, theirs in ((cell.preprocess0, other.pre0), (cell.preprocess1, other.pre1)):
            yield from zip(kernels(mine), kernels(theirs), strict=True)
        for edges in cell.sources:
            for row, names in edges.names.items():
                for name, operation in zip(names, other.edges[row], strict=True):
                    mine = edges.own[f"{row}_{name}"] if f"{row}_{name}" in edges.own else None
                    own = [] if mine is None else kernels(mine)
                    yield from zip(own, kernels(operation), strict=True)
    for mine, theirs in (
        (ours.encoder.head.layers[0], plain.head),
        (ours.classifier, plain.classifier),
    ):
        yield from zip(mine.parameters(), theirs.parameters(), strict=True)


def gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def drawn(seed: int, edges: int, count: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(count) for _ in range(edges))


def one_hot(active: tuple[int, ...], count: int) -> Tensor:
    weights = torch.zeros(len(active), count)
    weights[range(len(active)), list(active)] = 1.0
    return weights.requires_grad_()


@pytest.mark.parametrize("learned", [False, True], ids=["all edges", "learned edges"])
@pytest.mark.parametrize(("space", "layers", "seed"), [("darts", 3, 0), ("asr_revised", 5, 1)])
def test_cells(space: str, layers: int, seed: int, learned: bool) -> None:
    """With learned edges, those that are not taken have a row of zeros in the mixture."""
    alive = all_candidates(get_space(space), learned)
    operations = len(alive["normal"][0])
    config = CellConfig(BINS, 2, layers, 5)
    torch.manual_seed(seed)
    ours = ctc_sampled(alive, config, NODES, VOCABULARY)
    plain = PlainSupernet(alive, NODES, BINS, 2, layers, 5, VOCABULARY)
    count = 0
    for mine, theirs in pairs(ours, plain):
        theirs.data.copy_(mine.data)
        count += mine.numel()
    assert count == sum(p.numel() for p in ours.parameters())
    edges = len(edge_list(NODES))
    actives = {kind: drawn(seed + place, edges, operations) for place, kind in enumerate(KINDS)}
    weights = {kind: one_hot(active, operations) for kind, active in actives.items()}
    gates = {kind: torch.ones(edges) for kind in KINDS}
    taken: dict[str, tuple[bool, ...] | None] = dict.fromkeys(KINDS)
    probabilities: dict[str, Tensor | None] = dict.fromkeys(KINDS)
    if learned:
        for place, kind in enumerate(KINDS):
            generator = torch.Generator().manual_seed(seed + place)
            chosen = taken[kind] = draw_taken(torch.randn(edges, generator=generator), generator)
            gates[kind] = torch.tensor(chosen, dtype=torch.float64).requires_grad_()
            probabilities[kind] = torch.full((edges,), 0.5).requires_grad_()
    shares = {kind: torch.full((edges, operations), 0.1).requires_grad_() for kind in KINDS}
    every = (tuple(range(operations)),) * edges
    x = torch.randn(FRAMES, BINS)
    length = torch.tensor([FRAMES])
    probe = torch.randn(-(-FRAMES // 4), VOCABULARY)

    theirs = plain(x, {kind: gates[kind][:, None] * own for kind, own in weights.items()})
    (theirs * probe).sum().backward()
    step = {kind: Paths(active, taken=taken[kind]) for kind, active in actives.items()}
    moving = {
        kind: Paths(actives[kind], every, shares[kind], taken[kind], probabilities[kind])
        for kind in KINDS
    }
    for paths in (step, moving):
        ours.zero_grad()
        out, _ = ours(x[None], length, paths)
        torch.testing.assert_close(out[0], theirs, **TOLERANCE)
        (out[0] * probe).sum().backward()
        for mine, other in pairs(ours, plain):
            torch.testing.assert_close(gradient(mine), gradient(other), **TOLERANCE)
    for kind in KINDS:
        assert float(weights[kind].grad.abs().max()) > 1e-6
        torch.testing.assert_close(shares[kind].grad, weights[kind].grad, **TOLERANCE)
        if learned:  # the gradient of a gate: of edges that are not taken too
            torch.testing.assert_close(probabilities[kind].grad, gates[kind].grad, **TOLERANCE)
            left_out = [
                gate for gate, take in zip(gates[kind].grad, taken[kind], strict=True) if not take
            ]
            assert max(map(abs, left_out)) > 1e-6


@pytest.mark.parametrize("operation", ["max_pool_3x3", "avg_pool_3x3", "skip_connect"])
@pytest.mark.parametrize("left_out_first", [False, True])
def test_an_operation_that_edges_share_leads_back_where_one_is_taken(
    operation: str, left_out_first: bool
) -> None:
    """Two edges that leave one state, of which one is taken, in an architecture step."""
    names = (operation, "sep_conv_3x3")
    edges = _Edges([names, names], [0, 1], 2, 1, ())
    taken = (not left_out_first, left_out_first)
    x = torch.randn(1, 2, 6, 5).requires_grad_()
    shares = torch.full((2, 2), 0.5).requires_grad_()
    own = torch.full((2,), 0.5).requires_grad_()
    paths = Paths((0, 0), ((0, 1), (0, 1)), shares, taken, own)
    first, second = edges(x, None, paths, 0.0)
    assert first is not None and second is not None
    probe = torch.randn_like(first)
    ((first + second) * probe).sum().backward()
    reached = x.grad
    assert reached is not None
    value = edges.shared[operation](x.detach().requires_grad_(), None)
    alone = x.detach().clone().requires_grad_()
    (edges.shared[operation](alone, None) * probe).sum().backward()
    torch.testing.assert_close(reached, alone.grad, **TOLERANCE)
    product = float((probe * value).sum().detach())
    assert own.grad is not None and own.grad.tolist() == pytest.approx([product, product])
    assert float(shares.grad[taken.index(True)].abs().max()) > 0
    assert float(shares.grad[taken.index(False)].abs().max()) == 0


def test_cells_of_which_some_operations_take_part() -> None:
    """Two paths: the shares of the two that were drawn get the mixture's gradient for them."""
    alive = all_candidates(get_space("asr_revised"))
    torch.manual_seed(0)
    ours = ctc_sampled(alive, CellConfig(BINS, 2, 3, 5), NODES, VOCABULARY)
    edges = len(edge_list(NODES))
    active = {kind: drawn(7 + place, edges, 8) for place, kind in enumerate(KINDS)}
    x, length = torch.randn(1, FRAMES, BINS), torch.tensor([FRAMES])
    found = {}
    for candidates in (8, 2):
        involved = {
            kind: tuple(
                tuple(range(8)) if candidates == 8 else tuple(sorted((a, (a + 3) % 8)))
                for a in active[kind]
            )
            for kind in KINDS
        }
        shares = {kind: torch.rand(edges, candidates).requires_grad_() for kind in KINDS}
        out, _ = ours(x, length, {k: Paths(active[k], involved[k], shares[k]) for k in KINDS})
        out.square().sum().backward()
        found[candidates] = (involved, shares)
    for kind in KINDS:
        whole = found[8][1][kind].grad
        involved, shares = found[2][0][kind], found[2][1][kind].grad
        for row, places in enumerate(involved):
            torch.testing.assert_close(shares[row], whole[row, list(places)], **TOLERANCE)


def test_padding_and_batch_mates_do_not_matter_in_evaluation() -> None:
    torch.manual_seed(0)
    cells = ctc_sampled(
        all_candidates(get_space("darts")), CellConfig(BINS, 2, 3, 5), NODES, VOCABULARY
    ).eval()
    chain = ctc_chain(
        all_candidates(get_space("tdnn_chain")), ChainConfig(BINS, 4, 5), VOCABULARY
    ).eval()
    x = torch.randn(2, 23, BINS)
    lengths = torch.tensor([23, 14])
    x[1, 14:] = float("nan")
    edges = len(edge_list(NODES))
    for network, paths in (
        (cells, {kind: Paths(drawn(1, edges, 8)) for kind in KINDS}),
        (chain, {BLOCKS: Paths(drawn(1, 6, 4))}),
    ):
        together, sizes = network(x, lengths, paths)
        alone, size = network(x[1:, :14], lengths[1:], paths)
        assert int(size) == int(sizes[1])
        torch.testing.assert_close(together[1, : int(size)], alone[0], **TOLERANCE)


@pytest.mark.parametrize("output_size", [5, 4])
def test_a_chain(output_size: int) -> None:
    """Paths against mixtures in the one supernet, and both against the derived network."""
    space = get_space("tdnn_chain")
    config = ChainConfig(BINS, 4, output_size)
    torch.manual_seed(0)
    network = ctc_chain(all_candidates(space), config, VOCABULARY)
    active = drawn(2, 6, 4)
    weights = one_hot(active, 4)
    x = torch.randn(2, FRAMES, BINS)
    lengths = torch.tensor([FRAMES, 11])
    mixed, sizes = network(x, lengths, {BLOCKS: weights})
    probe = torch.randn_like(mixed)
    (mixed * probe).sum().backward()
    wanted = [gradient(p).clone() for p in network.parameters()]
    shares = torch.full((6, 4), 0.25).requires_grad_()
    for paths in (Paths(active), Paths(active, ((0, 1, 2, 3),) * 6, shares)):
        network.zero_grad()
        out, _ = network(x, lengths, {BLOCKS: paths})
        torch.testing.assert_close(out, mixed, **TOLERANCE)
        (out * probe).sum().backward()
        for parameter, other in zip(network.parameters(), wanted, strict=True):
            torch.testing.assert_close(gradient(parameter), other, **TOLERANCE)
    torch.testing.assert_close(shares.grad, weights.grad, **TOLERANCE)

    encoder = ChainEncoder(space.decode(list(active)), config)
    state = {
        **{f"subsample.{k}": v for k, v in network.encoder.subsample.state_dict().items()},
        **{f"head.{k}": v for k, v in network.encoder.head.state_dict().items()},
    }
    for block, place in enumerate(active):
        own = network.encoder.blocks[block][place].state_dict()
        state |= {f"blocks.{block}.{name}": value for name, value in own.items()}
    encoder.load_state_dict(state)
    hidden, out_lengths = encoder(x, lengths)
    assert torch.equal(out_lengths, sizes)
    logits = network.classifier(hidden).log_softmax(-1)
    torch.testing.assert_close(logits, mixed, **TOLERANCE)
