"""The supernet against plain references in float64, and what padding and one-hot weights do."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator

import pytest
import torch
from choice_samples import CELL_SPACE_OPERATIONS, all_candidates, ctc_supernet
from parity.plain_darts import PlainNetwork
from parity.plain_supernet import PlainSupernet
from torch import Tensor, nn

from nas_encoder.common.choices import Candidates
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.architecture import Cell
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.space import KINDS, edge_list
from nas_encoder.spaces.cells.supernet.folded import source

NODES = 4
EDGES = edge_list(NODES)
VOCABULARY = 6
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=["merged", "folded"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Take one of the two ways to compute a source's edges, however few channels there are."""
    fewest = 1 if request.param == "folded" else 1_000_000
    monkeypatch.setattr(source, "FEWEST_CHANNELS", fewest)
    return str(request.param)


def pruned(space: str, keep: int, seed: int = 0) -> Candidates:
    """Return random choices of ``keep`` operations on each edge, as after pruning."""
    operations = get_space(space).operations
    rng = random.Random(seed)
    return {
        kind: tuple(
            tuple(sorted(rng.sample(operations, keep), key=operations.index)) for _ in EDGES
        )
        for kind in KINDS
    }


def random_weights(alive: Candidates, seed: int = 0) -> Weights:
    """Return softmax weights (E, n) far from uniform, of leaves that take a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return {
        kind: torch.randn(len(EDGES), len(alive[kind][0]), generator=generator)
        .softmax(-1)
        .requires_grad_()
        for kind in KINDS
    }


def build(alive: Candidates, config: CellConfig, seed: int = 0) -> CtcNetwork:
    torch.manual_seed(seed)
    network = ctc_supernet(alive, config, NODES, VOCABULARY)
    # Affine parameters of the stem away from 1 and 0, so that forgetting them would show.
    for module in network.encoder.stem.modules():
        if getattr(module, "weight", None) is not None and module.weight.dim() == 1:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def kernels(module: nn.Module) -> list[Tensor]:
    """Return a module's convolution kernels, in the order in which they apply."""
    return [p for p in module.parameters() if p.dim() == 4]


def pairs(
    network: CtcNetwork, plain: PlainSupernet, alive: Candidates
) -> Iterator[tuple[Tensor, nn.Parameter]]:
    """Yield every parameter of the real supernet, or the view of one, with its plain partner."""
    yield network.encoder.stem.conv.weight, plain.stem[0].weight
    yield network.encoder.stem.norm.weight, plain.stem[1].weight
    yield network.encoder.stem.norm.bias, plain.stem[1].bias
    for kind, cell, other in zip(
        network.encoder.kinds, network.encoder.cells, plain.cells, strict=True
    ):
        for mine, theirs in ((cell.preprocess0, other.pre0), (cell.preprocess1, other.pre1)):
            yield from zip(kernels(mine), kernels(theirs), strict=True)
        for row, operations in enumerate(other.edges):
            own = cell.edge_kernels(row)
            for name, operation in zip(alive[kind][row], operations, strict=True):
                yield from zip(own.pop(name, []), kernels(operation), strict=True)
            assert not own
    for mine, theirs in (
        (network.encoder.head.layers[0], plain.head),
        (network.classifier, plain.classifier),
    ):
        yield from zip(mine.parameters(), theirs.parameters(), strict=True)


def plain_of(network: CtcNetwork, alive: Candidates, config: CellConfig) -> PlainSupernet:
    plain = PlainSupernet(
        alive,
        NODES,
        config.input_size,
        config.channels,
        config.layers,
        config.output_size,
        VOCABULARY,
        config.stem_stride,
    )
    count = 0
    for mine, theirs in pairs(network, plain, alive):
        theirs.data.copy_(mine.data)
        count += mine.numel()
    assert count == sum(p.numel() for p in network.parameters())
    return plain


def gradients_of(network: CtcNetwork) -> CtcNetwork:
    """Return a copy of a network that holds gradients in place of parameters."""
    shadow = copy.deepcopy(network)
    for mine, theirs in zip(network.parameters(), shadow.parameters(), strict=True):
        theirs.data.copy_(torch.zeros_like(mine) if mine.grad is None else mine.grad)
    return shadow


def choices(space: str, keep: int | None) -> Candidates:
    return all_candidates(get_space(space)) if keep is None else pruned(space, keep, seed=1)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("space", "keep", "layers", "frames", "stride"),
    [
        ("asr_revised", None, 3, 17, (1, 1)),
        ("darts", None, 3, 14, (1, 2)),
        ("darts", 3, 5, 13, (2, 1)),
        ("asr_revised", 2, 6, 16, (1, 1)),
        # The three stages of P-DARTS at their depths.
        pytest.param("darts", None, 5, 29, (1, 1), marks=pytest.mark.slow),
        pytest.param("asr_revised", 5, 11, 29, (1, 1), marks=pytest.mark.slow),
        pytest.param("darts", 5, 11, 29, (1, 1), marks=pytest.mark.slow),
        pytest.param("asr_revised", 3, 17, 61, (1, 1), marks=pytest.mark.slow),
        pytest.param("darts", 3, 17, 29, (1, 1), marks=pytest.mark.slow),
    ],
)
def test_the_sum_over_operations_and_its_gradients(
    path: str,
    space: str,
    keep: int | None,
    layers: int,
    frames: int,
    stride: tuple[int, int],
    training: bool,
) -> None:
    alive = choices(space, keep)
    config = CellConfig(9, 2, layers, 5, stem_stride=stride)
    network = build(alive, config)
    plain = plain_of(network, alive, config)
    network.train(training)
    plain.train(training)
    x = torch.randn(frames, 9)
    weights, other = random_weights(alive), random_weights(alive)
    # Many cells without batch statistics have small gradients: with a larger loss they show.
    size = 1.0 if training or layers < 10 else 1000.0
    probe = size * torch.randn(-(-frames // config.subsampling_factor), VOCABULARY)

    ours, lengths = network(x[None], torch.tensor([frames]), weights)
    theirs = plain(x, other)
    assert lengths.tolist() == [len(theirs)]
    torch.testing.assert_close(ours[0], theirs, **TOLERANCE)

    (ours[0] * probe).sum().backward()
    (theirs * probe).sum().backward()
    for kind in KINDS:
        assert float(other[kind].grad.abs().max()) > 1e-6
        torch.testing.assert_close(weights[kind].grad, other[kind].grad, **TOLERANCE)
    for mine, other_parameter in pairs(gradients_of(network), plain, alive):
        torch.testing.assert_close(mine.data, other_parameter.grad, **TOLERANCE)


def one_hot(alive: Candidates, cells: dict[str, Cell]) -> Weights:
    """Return weights that are 1 on a genotype's operations and on 'none' of all other edges."""
    weights = {}
    for kind in KINDS:
        rows = torch.zeros(len(EDGES), len(alive[kind][0]))
        chosen = {(n, e.source): e.op for n, edges in enumerate(cells[kind].nodes) for e in edges}
        for row, place in enumerate(EDGES):
            rows[row, alive[kind][row].index(chosen.get(place, "none"))] = 1.0
        weights[kind] = rows
    return weights


def without_pooling(space: str) -> dict[str, Cell]:
    """Draw cells of operations that a supernet and an evaluation network build alike."""
    rng = random.Random(3)
    drawn = iter(lambda: get_space(space).sample(rng).architecture, None)
    cells: dict[str, Cell] = {}
    for architecture in drawn:
        for kind in KINDS:
            cell: Cell = getattr(architecture, kind)
            if not any("pool" in edge.op for edge in cell.edges):
                cells.setdefault(kind, cell)
        if len(cells) == len(KINDS):
            return cells
    raise AssertionError


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("space", CELL_SPACE_OPERATIONS)
def test_one_hot_weights_give_the_genotypes_network(path: str, space: str, training: bool) -> None:
    alive, cells = all_candidates(get_space(space)), without_pooling(space)
    config = CellConfig(8, 2, 4, 5)
    network = build(alive, config)
    genotype = {kind: cell.to_dict() for kind, cell in cells.items()}
    plain = PlainNetwork(genotype, 8, 2, 4, 5)
    plain.stem[0].weight.data.copy_(network.encoder.stem.conv.weight.data)
    plain.stem[1].load_state_dict(network.encoder.stem.norm.state_dict())
    plain.head.load_state_dict(network.encoder.head.layers[0].state_dict())
    for number, (kind, cell, other) in enumerate(
        zip(network.encoder.kinds, network.encoder.cells, plain.cells, strict=True)
    ):
        if number not in plain.needed:
            continue
        copied = [
            (mine, theirs)
            for module, partner in ((cell.preprocess0, other.pre0), (cell.preprocess1, other.pre1))
            if partner is not None
            for mine, theirs in zip(kernels(module), kernels(partner), strict=True)
        ]
        for node, (edges, operations) in enumerate(zip(cells[kind].nodes, other.ops, strict=True)):
            for edge, operation in zip(edges, operations, strict=True):
                own = cell.edge_kernels(EDGES.index((node, edge.source)))[edge.op]
                copied += zip(own, kernels(operation), strict=True)
        for mine, theirs in copied:
            theirs.data.copy_(mine.data)
    network.train(training)
    plain.train(training)
    x = torch.randn(19, 8)
    ours, _ = network(x[None], torch.tensor([19]), one_hot(alive, cells))
    theirs = torch.log_softmax(network.classifier(plain(x)), dim=-1)
    torch.testing.assert_close(ours[0], theirs, **TOLERANCE)


def run(
    network: CtcNetwork, x: Tensor, lengths: Tensor, alive: Candidates
) -> tuple[Tensor, Weights]:
    weights = random_weights(alive)
    network.zero_grad()
    y, out = network(x, lengths, weights)
    valid = torch.arange(y.size(1)) < out[:, None]
    generator = torch.Generator().manual_seed(5)
    probe = torch.randn(y.size(0), 64, VOCABULARY, generator=generator)[:, : y.size(1)]
    (y * probe)[valid].sum().backward()
    return y.detach()[valid], {kind: weights[kind].grad for kind in KINDS}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("space", CELL_SPACE_OPERATIONS)
def test_padding_changes_nothing(path: str, space: str, training: bool) -> None:
    """More padding, and whatever stands in it, changes no output and no gradient."""
    alive = all_candidates(get_space(space))
    network = build(alive, CellConfig(7, 2, 3, 4)).train(training)
    lengths = torch.tensor([21, 13, 6])
    x = torch.randn(3, 21, 7)
    y, gradients = run(network, x, lengths, alive)
    before = [p.grad.clone() for p in network.parameters()]
    longer = torch.full((3, 34, 7), float("nan"))
    for row, length in enumerate(lengths.tolist()):
        longer[row, :length] = x[row, :length]
    y2, gradients2 = run(network, longer, lengths, alive)
    torch.testing.assert_close(y2, y, **TOLERANCE)
    torch.testing.assert_close(gradients2, gradients, **TOLERANCE)
    for p, gradient in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, gradient, **TOLERANCE)


@pytest.mark.parametrize("space", CELL_SPACE_OPERATIONS)
def test_an_utterance_alone_is_the_same_as_in_a_batch(path: str, space: str) -> None:
    """In evaluation, where no statistics are shared."""
    alive = pruned(space, 5)
    network = build(alive, CellConfig(7, 2, 3, 4)).eval()
    weights = random_weights(alive)
    lengths = torch.tensor([18, 11, 9])
    x = torch.randn(3, 18, 7)
    together, out = network(x, lengths, weights)
    for row, (length, count) in enumerate(zip(lengths.tolist(), out.tolist(), strict=True)):
        alone, _ = network(x[row : row + 1, :length], torch.tensor([length]), weights)
        torch.testing.assert_close(together[row, :count], alone[0], **TOLERANCE)


def test_edges_of_none_alone_give_zero_and_a_network_that_still_runs() -> None:
    alive = {kind: (("none",),) * len(EDGES) for kind in KINDS}
    network = build(alive, CellConfig(7, 2, 3, 4)).train()
    weights = {kind: torch.ones(len(EDGES), 1) for kind in KINDS}
    y, _ = network(torch.randn(2, 12, 7), torch.tensor([12, 8]), weights)
    assert bool(torch.isfinite(y).all())
    expected = torch.log_softmax(
        network.classifier(torch.relu(network.encoder.head.layers[0].bias)), -1
    )
    torch.testing.assert_close(y[0, 0], expected, **TOLERANCE)


def test_dropout_follows_the_regularized_operations_alone_and_in_training_alone(
    path: str,
) -> None:
    alive = all_candidates(get_space("asr_revised"))
    config = CellConfig(7, 2, 3, 4)
    x, lengths = torch.randn(2, 12, 7), torch.tensor([12, 12])
    weights = {kind: random_weights(alive)[kind].detach() for kind in KINDS}

    def differs(network: CtcNetwork, weights: Weights) -> bool:
        torch.manual_seed(1)
        first, _ = network(x, lengths, weights, 0.5)
        torch.manual_seed(2)
        second, _ = network(x, lengths, weights, 0.5)
        return not torch.equal(first, second)

    torch.manual_seed(0)
    regularized = ("dil_conv_3x3", "avg_pool_3x3")
    network = ctc_supernet(alive, config, NODES, VOCABULARY, regularized).train()
    assert differs(network, weights)
    assert not differs(network.eval(), weights)
    network.train()
    operations = get_space("asr_revised").operations
    for place, operation in enumerate(operations):
        only = {kind: torch.zeros(len(EDGES), len(operations)) for kind in KINDS}
        for rows in only.values():
            rows[:, place] = 1.0
        assert differs(network, only) == (operation in regularized), operation
