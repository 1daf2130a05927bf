"""The cell network: gradients, checkpointing, drop-path, precision, copies of all kinds."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from encoder_samples import ZOO, handwritten, one_edge, padded, sampled, small
from torch import Tensor, nn

from nas_encoder import build_encoder
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.cell import CellModule
from nas_encoder.spaces.cells.network import live_cells

EQUAL, UNEQUAL = [13, 13, 13], [13, 9, 5]


def loss_of(module: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    y, _, taps = module.forward_taps(x, lengths, torch.sigmoid)  # type: ignore[operator]
    # A constant beside it, so that no ReLU of the head is dead for all frames by bad luck.
    return sum((h.square() + h).sum() for h in [y, *(h for _, h in taps)])  # type: ignore[return-value]


def without_dead_relus(module: nn.Module) -> nn.Module:
    """Make every gradient that can be other than zero so: open the head's ReLUs."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, 10.0)
    return module


def genotypes() -> list[Any]:
    return [*ZOO, *handwritten(), *(sampled(seed) for seed in range(12))]


@pytest.mark.parametrize("genotype", genotypes())
@pytest.mark.parametrize("layers", [2, 3, 5, 6])
def test_every_parameter_is_used(genotype: Any, layers: int) -> None:
    module = without_dead_relus(small(genotype, layers=layers, hidden_sizes=(5,))).train()
    x, lengths = padded(UNEQUAL, 9)
    loss_of(module, x, lengths).backward()
    unused = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert unused == []
    # Some gradients are zero by chance (dead ReLUs of so few channels), but not whole networks'.
    moved = [bool((p.grad != 0).any()) for p in module.parameters() if p.grad is not None]
    assert sum(moved) >= 0.8 * len(moved)


@pytest.mark.parametrize("conditioning", [True, False])
def test_every_parameter_is_used_with_taps(conditioning: bool) -> None:
    module = small("asrnet_b", layers=8, taps=(6, 7), conditioning=conditioning).train()
    x, lengths = padded(UNEQUAL, 9)
    loss_of(module, x, lengths).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


def test_cells_that_nothing_reads_are_not_built() -> None:
    module = build_encoder(one_edge("sep_conv_3x3", 0), channels=2, layers=8)
    assert list(module.cells) == ["1", "3", "5", "7"]  # type: ignore[arg-type]
    config = module.config
    assert live_cells(module.genotype.architecture, config) == {1, 3, 5, 7}  # type: ignore[union-attr, arg-type]
    tapped = build_encoder(one_edge("sep_conv_3x3", 0), channels=2, layers=8, taps=(7,))
    assert list(tapped.cells) == [str(index) for index in range(8)]  # type: ignore[arg-type]


def test_an_input_that_no_edge_reads_has_no_weights() -> None:
    module = build_encoder(one_edge("sep_conv_3x3", 1), channels=2, layers=3)
    for cell in module.cells.values():  # type: ignore[operator, union-attr]
        assert isinstance(cell, CellModule)
        assert not hasattr(cell, "preprocess0")
        assert hasattr(cell, "preprocess1")


@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
@pytest.mark.parametrize("genotype", ["asrnet_b", "darts_v2"])
def test_checkpointing_changes_nothing(lengths: list[int], drop_path: float, genotype: str) -> None:
    x, sizes = padded(lengths, 9)
    results = []
    for checkpointing in (False, True):
        module = small(genotype, checkpointing=checkpointing, drop_path=drop_path).train()
        leaf = x.clone().requires_grad_()
        for _ in range(2):
            torch.manual_seed(7)
            loss = loss_of(module, leaf, sizes)
            loss.backward()
        results.append(
            (loss.detach(), leaf.grad, [p.grad for p in module.parameters()], module.state_dict())
        )
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    tracked = [value for key, value in results[1][3].items() if key.endswith("tracked")]
    assert {int(value) for value in tracked} == {2}


def test_checkpointing_keeps_fewer_activations() -> None:
    x, lengths = padded(UNEQUAL, 9)
    kept = []
    for checkpointing in (False, True):
        module = small("asrnet_b", checkpointing=checkpointing, layers=6).train()
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            module(x, lengths)
        kept.append(total)
    assert kept[1] < kept[0] / 4


def only_last(op: str) -> nn.Module:
    """Return a cell of two edges into one node, the first of them the operation."""
    from nas_encoder.spaces.cells.architecture import Cell, Edge
    from nas_encoder.spaces.cells.stack import StackedCell

    cell = Cell(((Edge(op, 0), Edge("max_pool_3x3", 1)),), (2,))
    return CellModule(cell, StackedCell("normal", 4, (4, 4), False)).double().train()


def test_drop_path_drops_whole_operations_of_utterances_and_keeps_the_mean() -> None:
    from nas_encoder.spaces.cells.cell import State

    module = only_last("avg_pool_3x3")
    x = torch.randn(4, 4, 6, 5, dtype=torch.float64)
    states = State(x, None), State(x, None)
    plain = module(*states).value.detach()
    total = torch.zeros_like(plain)
    patterns = set()
    rounds = 600
    with torch.no_grad():
        first = module.nodes[0][0](module.preprocess0(x, None), None)  # type: ignore[index, operator]
        second = module.nodes[0][1](module.preprocess1(x, None), None)  # type: ignore[index, operator]
        for _ in range(rounds):
            dropped = module(*states, drop_path=0.4).value
            total += dropped
            for row in range(4):
                found = [
                    (a, b)
                    for a in (0, 1)
                    for b in (0, 1)
                    if torch.allclose(dropped[row], (a * first[row] + b * second[row]) / 0.6)
                ]
                assert len(found) == 1
                patterns.add((row, *found[0]))
    assert len(patterns) == 16  # each utterance drops each operation on its own
    assert (total / rounds - plain).abs().max() < 6 * (plain.abs().max() + 1) / rounds**0.5


def test_drop_path_spares_the_identity_and_evaluation() -> None:
    from nas_encoder.spaces.cells.cell import State

    module = only_last("skip_connect")
    x = torch.randn(64, 4, 6, 5, dtype=torch.float64)
    states = State(x, None), State(x, None)
    with torch.no_grad():
        identity = module.preprocess0(x, None)  # type: ignore[operator]
        pooled = module.nodes[0][1](module.preprocess1(x, None), None)  # type: ignore[index, operator]
        y = module(*states, drop_path=0.5).value
        for row in range(64):
            kept = torch.allclose(y[row], identity[row] + 2 * pooled[row])
            gone = torch.allclose(y[row], identity[row])
            assert kept != gone
        module.eval()
        assert torch.equal(module(*states, drop_path=0.5).value, module(*states).value)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("lengths", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("genotype", ZOO)
def test_bfloat16_autocast_runs_and_is_close(
    genotype: str, lengths: list[int], checkpointing: bool
) -> None:
    torch.manual_seed(0)
    module = build_encoder(genotype, 9, 8, 4, 16, checkpointing=checkpointing, deltas=True).train()
    x, sizes = padded(lengths, 9)
    x = x.float()
    expected, _ = copy.deepcopy(module)(x, sizes)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module(x, sizes)
        loss = y.float().square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in module.parameters())
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    for part in module.modules():
        if isinstance(part, MaskedBatchNorm2d):
            assert part.running_var is not None and part.running_var.dtype == torch.float32
    error = (y.float() - expected).norm() / expected.norm()
    assert error < 0.1
    assert (y.detach()[1, -(-lengths[1] // 4) :] == 0).all()


def test_half_precision_weights_give_half_precision_outputs() -> None:
    module = build_encoder("asrnet_b", 9, 4, 3, 8).to(torch.bfloat16).eval()
    x, sizes = padded(UNEQUAL, 9)
    y, _ = module(x.to(torch.bfloat16), sizes)
    assert y.dtype == torch.bfloat16
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("genotype", ZOO)
def test_memory_layout_of_weights_and_features_does_not_matter(
    genotype: str, training: bool
) -> None:
    module = small(genotype).train(training)
    other = copy.deepcopy(module).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, sizes = padded(UNEQUAL, 9)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    torch.testing.assert_close(module(x, sizes), other(strided, sizes), rtol=0, atol=1e-11)


@pytest.mark.slow
def test_float32_training_step_is_close_to_float64() -> None:
    """Covers the kernels that only float32 on CPU takes."""
    for lengths in (EQUAL, UNEQUAL):
        for genotype in ZOO:
            exact = small(genotype, channels=4, seed=3).train()
            single = copy.deepcopy(exact).float()
            x, sizes = padded(lengths, 9)
            expected, _ = exact(x, sizes)
            y, _ = single(x.float(), sizes)
            torch.testing.assert_close(y, expected.float(), rtol=1e-3, atol=1e-4)
            weights = torch.randn_like(expected)
            own = torch.autograd.grad((y * weights.float()).sum(), list(single.parameters()))
            others = torch.autograd.grad((expected * weights).sum(), list(exact.parameters()))
            # Maxima and ReLUs that are nearly tied move single gradients; not their direction.
            flat = torch.cat([g.flatten().double() for g in own])
            reference = torch.cat([g.flatten() for g in others])
            assert torch.cosine_similarity(flat, reference, dim=0) > 0.999


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save", "state_dict"])
def test_copies_give_the_same_outputs(way: str) -> None:
    options: dict[str, Any] = {"layers": 6, "taps": (5,), "conditioning": True, "dropout": 0.1}
    module = small("asrnet_b", **options).eval()
    if way == "deepcopy":
        other = copy.deepcopy(module)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(module))
    elif way == "torch.save":
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        other = small("asrnet_b", seed=99, **options).eval()
        other.load_state_dict(torch.load(buffer, weights_only=True))
    else:
        other = small("asrnet_b", seed=99, **options).eval()
        missing = other.load_state_dict(module.state_dict(), strict=True)
        assert not missing.missing_keys and not missing.unexpected_keys
    x, lengths = padded(UNEQUAL, 9)
    torch.testing.assert_close(
        module.forward_taps(x, lengths, torch.sigmoid),  # type: ignore[operator]
        other.forward_taps(x, lengths, torch.sigmoid),  # type: ignore[operator]
        rtol=0,
        atol=0,
    )
    assert other.genotype == module.genotype


def test_weights_load_into_a_network_of_another_dropout() -> None:
    trained = small("darts_v2", hidden_sizes=[5], seed=0)
    other = small("darts_v2", hidden_sizes=[5], seed=1, dropout=0.4)
    other.load_state_dict(trained.state_dict())
    x, lengths = padded(UNEQUAL, 9)
    expected, _ = trained.eval()(x, lengths)
    assert torch.equal(other.eval()(x, lengths)[0], expected)
    other.train()
    first, second = other(x, lengths)[0], other(x, lengths)[0]
    assert not torch.equal(first, second)  # it drops


def test_the_same_seed_builds_the_same_network() -> None:
    first, second = (small("asrnet_a", seed=5) for _ in range(2))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_inference_keeps_only_the_feature_maps_that_are_still_read() -> None:
    """The peak of living feature maps must not grow with the number of cells."""
    import weakref

    module = small("asrnet_b", layers=12).eval()
    outputs: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        alive.append(sum(reference() is not None for reference in outputs))
        outputs.append(weakref.ref(output.value))

    for cell in module.cells.values():  # type: ignore[operator, union-attr]
        cell.register_forward_hook(watch)
    x, lengths = padded(UNEQUAL, 9)
    with torch.no_grad():
        module(x, lengths)
    assert len(alive) == 12
    assert max(alive) <= 3


def test_taps_are_what_the_head_makes_of_the_cells() -> None:
    module = small("asrnet_b", layers=8, taps=(6, 7)).eval()
    x, sizes = padded(UNEQUAL, 9)
    seen: dict[str, Tensor] = {}
    for name in ("5", "6"):
        module.cells[name].register_forward_hook(  # type: ignore[index, union-attr]
            lambda _m, _i, output, name=name: seen.__setitem__(name, module.head(output))  # type: ignore[operator]
        )
    y, lengths, taps = module.forward_taps(x, sizes)  # type: ignore[operator]
    assert [number for number, _ in taps] == [6, 7]
    for (_, tap), expected in zip(taps, seen.values(), strict=True):
        assert tap.shape == y.shape
        assert torch.equal(tap, expected)
    assert torch.equal(module(x, sizes)[0], y)


def test_a_condition_changes_what_follows_and_not_the_tap_itself() -> None:
    module = small("asrnet_b", layers=8, taps=(6,), conditioning=True).eval()
    x, sizes = padded(UNEQUAL, 9)
    calls: list[Tensor] = []

    def condition(h: Tensor) -> Tensor:
        calls.append(h)
        return torch.sigmoid(h)

    plain, _, without = module.forward_taps(x, sizes)  # type: ignore[operator]
    changed, _, with_it = module.forward_taps(x, sizes, condition)  # type: ignore[operator]
    assert torch.equal(without[0][1], with_it[0][1])
    assert torch.equal(calls[0], with_it[0][1])
    assert not torch.allclose(plain, changed)


def test_a_genotype_without_2d_cells_is_refused() -> None:
    from nas_encoder import Genotype
    from nas_encoder.errors import ConfigError
    from nas_encoder.spaces.cells.config import CellConfig
    from nas_encoder.spaces.cells.network import CellEncoder

    with pytest.raises(ConfigError, match="has no 2-D cells"):
        CellEncoder(Genotype("x", "tdnn_chain", object()), CellConfig())
