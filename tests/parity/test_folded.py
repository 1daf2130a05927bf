"""A source's edges with hand-written backward passes: against plain ones in float64, for every
set of operations, with padding, dropout, weights of zero and statistics of several processes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from parity.plain_supernet import candidate
from preloaded import fork
from torch import Tensor, distributed, nn

from nas_encoder.ops.masking import frame_mask
from nas_encoder.ops.norm import MaskedBatchNorm2d, SyncMaskedBatchNorm2d
from nas_encoder.spaces.cells.cell import PointwiseNorm
from nas_encoder.spaces.cells.supernet.folded import inputs, source
from nas_encoder.spaces.cells.supernet.folded.outputs import dropout_mask, kept_share
from nas_encoder.spaces.cells.supernet.mixed import SourceEdges

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
)
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
SUBSETS = [
    names
    for size in range(1, len(OPERATIONS) + 1)
    for names in itertools.combinations(OPERATIONS, size)
]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(source, "FEWEST_CHANNELS", 1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def kernels_of(edges: SourceEdges, edge: int, name: str) -> list[Tensor]:
    place = edges.names.index(name)
    operation = edges.operations[place]
    return operation.kernels(edges.users[place].index(edge))  # type: ignore[operator,no-any-return]


def build(alive: list[tuple[str, ...]], channels: int, stride: int) -> SourceEdges:
    return SourceEdges(alive, list(range(len(alive))), channels, stride, ())


def mixture(alive: list[tuple[str, ...]]) -> Tensor:
    width = max(map(len, alive))
    return torch.rand(len(alive), width).requires_grad_()


def check_against_plain(alive: list[tuple[str, ...]], stride: int, training: bool) -> None:
    edges = build(alive, 2, stride).train(training)
    x, other = torch.randn(1, 2, 7, 5).requires_grad_(), None
    other = x.detach().clone().requires_grad_()
    weights = mixture(alive)
    plain = [nn.ModuleList(candidate(name, 2, stride) for name in names) for names in alive]
    pairs = []
    for edge, (names, modules) in enumerate(zip(alive, plain, strict=True)):
        for name, module in zip(names, modules, strict=True):
            module.train(training)
            theirs = [p for p in module.parameters() if p.dim() == 4]
            mine = kernels_of(edges, edge, name) if name != "none" else []
            for own, copy in zip(mine, theirs, strict=True):
                copy.data.copy_(own.data)
            pairs += [(edge, name, number, copy) for number, copy in enumerate(theirs)]
    ours = edges(x, None, weights, 0.0)
    own_weights = weights.detach().clone().requires_grad_()
    total, expected = torch.zeros(()), torch.zeros(())
    for edge, (value, modules) in enumerate(zip(ours, plain, strict=True)):
        wanted = sum(w * m(other) for w, m in zip(own_weights[edge], modules, strict=False))
        probe = torch.randn_like(wanted)
        expected = expected + (wanted * probe).sum()
        if value is None:
            assert alive[edge] == ("none",)
            continue
        torch.testing.assert_close(value, wanted, **TOLERANCE)
        total = total + (value * probe).sum()
    if not total.requires_grad:
        return
    total.backward()
    expected.backward()
    torch.testing.assert_close(x.grad, other.grad, **TOLERANCE)
    torch.testing.assert_close(weights.grad, own_weights.grad, **TOLERANCE)
    for parameter in edges.parameters():
        parameter.data.copy_(parameter.grad)
    for edge, name, number, copy in pairs:
        torch.testing.assert_close(kernels_of(edges, edge, name)[number], copy.grad, **TOLERANCE)


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))]
)
def test_every_set_of_operations_equals_plain_edges(part: int) -> None:
    """A second edge holds another set, so that operations serve some edges and not others."""
    torch.manual_seed(part)
    rng = random.Random(part)
    for number, names in enumerate(SUBSETS):
        if number % 4 == part:
            alive = [names, rng.choice(SUBSETS), names]
            check_against_plain(alive, 1 + number // 4 % 2, training=number // 8 % 4 != 0)


def evaluate(
    edges: SourceEdges, x: Tensor, mask: Tensor | None, weights: Tensor, dropout: float = 0.0
) -> list[Tensor]:
    """Return outputs, gradients of x and weights, then those of the parameters."""
    x, weights = (t.detach().clone().requires_grad_() for t in (x, weights))
    edges.zero_grad(set_to_none=True)
    values = edges(x, mask, weights, dropout)
    sum((v * torch.sin(torch.arange(v.numel()) + 1.0).view_as(v)).sum() for v in values).backward()
    found = [v.detach() for v in values]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in edges.parameters()]
    return [*found, x.grad, weights.grad, *grads]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_padded_batches_equal_merged_edges(
    stride: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    edges = build([OPERATIONS, OPERATIONS[2:]], 2, stride).train(training)
    mask = frame_mask(torch.tensor([9, 6, 2]), 9, torch.float64)
    x = torch.randn(3, 2, 9, 5) * mask
    weights = mixture([OPERATIONS, OPERATIONS])
    before = {name: buffer.clone() for name, buffer in edges.named_buffers()}
    folded = evaluate(edges, x, mask, weights)
    moved = {name: buffer.clone() for name, buffer in edges.named_buffers()}
    for name, buffer in edges.named_buffers():
        buffer.copy_(before[name])
    monkeypatch.setattr(source, "FEWEST_CHANNELS", 1_000_000)
    merged = evaluate(edges, x, mask, weights)
    merged[2] = merged[2] * mask  # what stands in padding frames has no gradient downstream
    torch.testing.assert_close([*folded[:2], folded[2] * mask, *folded[3:]], merged, **TOLERANCE)
    torch.testing.assert_close(moved, dict(edges.named_buffers()), **TOLERANCE)


@pytest.mark.parametrize("training", [True, False])
def test_single_precision_is_close(training: bool) -> None:
    torch.manual_seed(0)
    edges = build([OPERATIONS, OPERATIONS], 8, 1).train(training)
    mask = frame_mask(torch.tensor([9, 6]), 9, torch.float64)
    x = (torch.randn(2, 8, 9, 5) * mask).contiguous(memory_format=torch.channels_last)
    weights = mixture([OPERATIONS, OPERATIONS])
    exact = evaluate(edges, x, mask, weights)
    single = evaluate(edges.float(), x.float(), mask.float(), weights.float())
    for own, other in zip(single, exact, strict=True):
        assert own.dtype == torch.float32
        scale = float(other.abs().max())
        # Pooling and ReLU may choose otherwise where two values are equal to single precision.
        assert float((own.double() - other).abs().max()) < 1e-3 * scale


@pytest.mark.parametrize("stride", [1, 2])
def test_dropout_has_the_gradient_of_what_it_did(stride: int) -> None:
    """By differences: the same seed drops the same elements."""
    torch.manual_seed(0)
    edges = SourceEdges([OPERATIONS] * 2, [0, 1], 2, stride, OPERATIONS[2:])
    x, weights = torch.randn(1, 2, 4, 3).requires_grad_(), mixture([OPERATIONS] * 2)

    def outputs(x: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(7)
        return tuple(edges(x, None, weights, 0.4))

    assert torch.autograd.gradcheck(outputs, (x, weights), atol=1e-5)


def test_dropout_masks_have_their_probability() -> None:
    for probability in (0.1, 0.25, 0.0165):
        kept = dropout_mask((1000, 999), probability, torch.zeros(()))
        share = float(kept.mean())
        assert set(kept.unique().tolist()) == {0.0, 1.0}
        assert kept.shape == (1000, 999)
        assert share == pytest.approx(kept_share(probability), abs=2e-3)
        assert kept_share(probability) == pytest.approx(1 - probability, abs=2**-16)


def test_a_weight_of_zero_costs_nothing_but_has_its_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    edges = build([OPERATIONS, OPERATIONS], 2, 1)
    x, weights = torch.randn(2, 2, 6, 5), torch.zeros(2, len(OPERATIONS))
    weights[0, 4] = weights[1, 7] = 1.0
    sparse = evaluate(edges, x, None, weights)
    monkeypatch.setattr(source, "FEWEST_CHANNELS", 1_000_000)
    torch.testing.assert_close(sparse, evaluate(edges, x, None, weights), **TOLERANCE)
    monkeypatch.setattr(source, "FEWEST_CHANNELS", 1)
    calls: list[tuple[int, ...]] = []
    convolve = torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional,
        "conv2d",
        lambda x, w, *rest: calls.append(tuple(w.shape)) or convolve(x, w, *rest),
    )
    with torch.no_grad():
        edges(x, None, weights, 0.0)
    assert calls == [(2, 1, 3, 3), (2, 1, 3, 3), (2, 1, 5, 5)]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_preprocessing_equals_its_modules(
    padded: bool, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_VALUES", 8 * 7)  # blocks of 7 rows, the last one shorter
    torch.manual_seed(0)
    layer = PointwiseNorm(8, 3, affine=False).train(training)
    layer.norm.running_mean += 0.3
    mask = frame_mask(torch.tensor([6, 4]), 6, torch.float64) if padded else None
    x = torch.randn(2, 8, 6, 5)
    x, probe = x if mask is None else x * mask, torch.randn(2, 3, 6, 5)
    results = []
    for function in (partial(inputs.preprocessed, layer), layer):
        own = x.clone().requires_grad_()
        before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        value = function(own, mask)
        layer.zero_grad()
        (value * probe if mask is None else value * probe * mask).sum().backward()
        moved = [buffer.clone() for buffer in layer.buffers()]
        layer.load_state_dict(layer.state_dict() | before)
        results.append([value.detach(), own.grad, layer.conv.weight.grad, *moved])
    torch.testing.assert_close(*results, **TOLERANCE)


class Adapted(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input.mean(1, keepdim=True)


@pytest.mark.parametrize("replaced", ["conv", "bias", "norm"])
def test_replaced_parts_of_preprocessing_count(replaced: str) -> None:
    torch.manual_seed(0)
    layer = PointwiseNorm(8, 3, affine=False).eval()
    if replaced == "norm":
        layer.norm = MaskedBatchNorm2d(3).eval()
        nn.init.normal_(layer.norm.weight)
    else:
        layer.conv = (Adapted if replaced == "conv" else nn.Conv2d)(
            8, 3, 1, bias=replaced == "bias"
        )
    x = torch.randn(2, 8, 6, 5)
    torch.testing.assert_close(inputs.preprocessed(layer, x, None), layer(x, None), **TOLERANCE)


def run_rank(rank: int, file: str, results: str) -> None:
    """Compute one of two halves of a batch with statistics of both."""
    torch.set_default_dtype(torch.float64)
    source.FEWEST_CHANNELS = 1
    distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)
    edges, x, mask, weights = halves_of_a_batch()
    for module in list(edges.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MaskedBatchNorm2d):
                own = SyncMaskedBatchNorm2d(child.num_features, affine=False)
                setattr(module, name, own)
    rows = slice(0, 1) if rank == 0 else slice(1, 3)
    torch.save(evaluate_rows(edges, x, mask, weights, rows), f"{results}{rank}")
    distributed.destroy_process_group()


def halves_of_a_batch() -> tuple[SourceEdges, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    edges = build([OPERATIONS] * 2, 2, 1)
    mask = frame_mask(torch.tensor([7, 5, 3]), 7, torch.float64)
    return edges, torch.randn(3, 2, 7, 5) * mask, mask, mixture([OPERATIONS] * 2)


def evaluate_rows(
    edges: SourceEdges, x: Tensor, mask: Tensor, weights: Tensor, rows: slice
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return outputs and the gradient of x for some utterances, and the other gradients."""
    probe = torch.sin(torch.arange(2 * x.numel()) + 1.0).view(2, *x.shape)[:, rows]
    x, weights = x[rows].clone().requires_grad_(), weights.detach().clone().requires_grad_()
    values = torch.stack([v for v in edges(x, mask[rows], weights, 0.0) if v is not None])
    (values * probe).sum().backward()
    assert x.grad is not None and weights.grad is not None
    gradients = [weights.grad, *(p.grad for p in edges.parameters() if p.grad is not None)]
    return values.detach(), x.grad * mask[rows], gradients


@pytest.mark.slow
def test_two_processes_share_the_statistics(tmp_path: Path) -> None:
    files = str(tmp_path / "meet"), str(tmp_path / "result")
    processes = [fork("test_folded:run_rank", rank, *files) for rank in range(2)]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    parts = [torch.load(tmp_path / f"result{rank}", weights_only=True) for rank in range(2)]
    values, dx, gradients = evaluate_rows(*halves_of_a_batch(), slice(0, 3))
    torch.testing.assert_close(torch.cat([p[0] for p in parts], dim=1), values, **TOLERANCE)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), dx, **TOLERANCE)
    for first, second, whole in zip(parts[0][2], parts[1][2], gradients, strict=True):
        torch.testing.assert_close(first + second, whole, **TOLERANCE)
