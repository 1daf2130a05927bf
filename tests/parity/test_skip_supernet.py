"""The supernet of NAS-Bench-ASR's space: paths, mixtures and derived networks agree, in float64."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from choice_samples import all_candidates
from torch import Tensor

from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.spaces import get_space
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.nasbench_asr.network import NasBenchEncoder
from nas_encoder.spaces.nasbench_asr.space import NODE as NODES
from nas_encoder.spaces.nasbench_asr.space import SKIPS, skip_list
from nas_encoder.spaces.nasbench_asr.supernet import NasBenchAsrSupernet

VOCABULARY, FRAMES, BINS = 6, 23, 9
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
SPACE = get_space("nasbench_asr")
CONFIG = NasBenchConfig(
    BINS, channels=12, output_size=5, block_cells=(1, 0, 2, 1), lstm_size=4, deltas=True
)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def supernet(seed: int = 0) -> CtcNetwork:
    torch.manual_seed(seed)
    return CtcNetwork(NasBenchAsrSupernet(all_candidates(SPACE), CONFIG), VOCABULARY)


def choices(architecture: SkipArchitecture) -> dict[str, tuple[int, ...]]:
    """Return the places that stand for an architecture."""
    nodes = architecture.nodes
    return {
        NODES: tuple(SPACE.operations.index(node.op) for node in nodes),
        SKIPS: tuple(int(source in nodes[node].skips) for node, source in skip_list(len(nodes))),
    }


def one_hot(active: Sequence[int], count: int) -> Tensor:
    weights = torch.zeros(len(active), count)
    weights[range(len(active)), list(active)] = 1.0
    return weights.requires_grad_()


def gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def batch() -> tuple[Tensor, Tensor]:
    x = torch.randn(2, FRAMES, BINS, generator=torch.Generator().manual_seed(1))
    x[1, 14:] = float("nan")
    return x, torch.tensor([FRAMES, 14])


# Random ones, and what is special: no skip, every skip, zero that cuts a node off or everything.
VECTORS = [
    *(SPACE.encode(SPACE.sample(random.Random(seed))) for seed in range(12)),
    [1, 0, 2, 0, 0, 3, 0, 0, 0],
    [0, 1, 1, 1, 1, 4, 1, 1, 1],
    [5, 0, 1, 1, 0, 2, 0, 0, 0],
    [5, 1, 5, 0, 1, 5, 0, 0, 1],
    [5, 0, 5, 0, 0, 2, 0, 0, 1],
    [5, 0, 5, 0, 0, 5, 0, 0, 0],
]


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_paths_and_mixtures(vector: list[int]) -> None:
    """With one-hot weights a mixture is the path, and its gradient the straight-through one."""
    network = supernet()
    active = choices(SPACE.decode(vector).architecture)
    counts = {NODES: len(SPACE.operations), SKIPS: 2}
    weights = {kind: one_hot(active[kind], count) for kind, count in counts.items()}
    x, lengths = batch()
    mixed, sizes = network(x, lengths, weights)
    assert sizes.tolist() == [6, 4]
    probe = torch.randn_like(mixed)
    (mixed * probe).sum().backward()
    wanted = [gradient(p).clone() for p in network.parameters()]
    shares = {
        kind: torch.full((len(active[kind]), count), 1 / count).requires_grad_()
        for kind, count in counts.items()
    }
    step = {kind: Paths(active[kind]) for kind in counts}
    moving = {
        kind: Paths(active[kind], (tuple(range(count)),) * len(active[kind]), shares[kind])
        for kind, count in counts.items()
    }
    for paths in (step, moving):
        network.zero_grad()
        out, _ = network(x, lengths, paths)
        torch.testing.assert_close(out, mixed, **TOLERANCE)
        (out * probe).sum().backward()
        for parameter, other in zip(network.parameters(), wanted, strict=True):
            torch.testing.assert_close(gradient(parameter), other, **TOLERANCE)
    for kind in counts:
        torch.testing.assert_close(shares[kind].grad, gradient(weights[kind]), **TOLERANCE)


def is_reduced(vector: list[int]) -> bool:
    """Whether the network has its operations on the nodes that the document names."""
    architecture = SPACE.decode(vector).architecture
    return bool(architecture.reduced() == architecture)


@pytest.mark.parametrize("vector", [v for v in VECTORS if is_reduced(v)], ids=str)
def test_a_path_is_the_derived_network(vector: list[int]) -> None:
    network = supernet()
    genotype = SPACE.decode(vector)
    active = choices(genotype.architecture)
    encoder = NasBenchEncoder(genotype, CONFIG)
    found = network.encoder.state_dict()
    state = {name: value for name, value in found.items() if name in encoder.state_dict()}
    for node, place in enumerate(active[NODES]):
        for cell in range(sum(CONFIG.block_cells)):
            name = SPACE.operations[place]
            for part in ("weight", "bias"):
                target = f"cells.{cell}.operations.{node + 1}.{part}"
                if name != ZERO and target in encoder.state_dict():
                    state[target] = found[f"cells.{cell}.nodes.{node}.{name}.{part}"]
    encoder.load_state_dict(state)
    x, lengths = batch()
    hidden, out_lengths = encoder(x, lengths)
    out, sizes = network(x, lengths, {kind: Paths(active[kind]) for kind in active})
    assert torch.equal(out_lengths, sizes)
    for row, size in enumerate(sizes.tolist()):
        logits = network.classifier(hidden[row, :size]).log_softmax(-1)
        torch.testing.assert_close(out[row, :size], logits, **TOLERANCE)


def test_a_mixture_is_the_plain_sum() -> None:
    """One cell, by hand: node k = sum_o w_o o(node k - 1) + sum_j v_kj node j."""
    cell = supernet().encoder.cells["0"]
    x = torch.randn(2, 7, 12)
    generator = torch.Generator().manual_seed(5)
    weights = {
        NODES: torch.rand(3, 6, generator=generator),
        SKIPS: torch.rand(6, 2, generator=generator),
    }
    outputs = [x]
    for node in range(3):
        total = torch.zeros_like(x)
        for place, name in enumerate(SPACE.operations[:5]):
            total = total + weights[NODES][node, place] * cell.nodes[node][name](outputs[-1])
        for row, (own, source) in enumerate(skip_list(3)):
            if own == node:
                total = total + weights[SKIPS][row, 1] * outputs[source]
        outputs.append(total)
    torch.testing.assert_close(cell(x, None, weights, 0.0), cell.norm(outputs[-1]), **TOLERANCE)


@pytest.mark.parametrize("mixed", [True, False])
def test_padding_and_batch_mates_do_not_matter(mixed: bool) -> None:
    """In training mode too: nothing in this network takes statistics over frames."""
    network = supernet()
    active = choices(SPACE.sample(random.Random(3)).architecture)
    weights = {
        NODES: torch.rand(3, 6).softmax(-1) if mixed else Paths(active[NODES]),
        SKIPS: torch.rand(6, 2).softmax(-1) if mixed else Paths(active[SKIPS]),
    }
    x, lengths = batch()
    together, sizes = network(x, lengths, weights)
    alone, size = network(x[1:, :14], lengths[1:], weights)
    assert int(size) == int(sizes[1])
    torch.testing.assert_close(together[1, : int(size)], alone[0], **TOLERANCE)
