"""DFSMN-SAN: the formula of its memory, published sizes, options, taps, precision, compilation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from nas_encoder.baselines import BASELINES, DFSMN_SAN_CONFIGS, DFSMNSAN, DFSMNSANConfig
from nas_encoder.baselines.dfsmn_san import MemoryBlock, SelfAttention
from nas_encoder.errors import ConfigError, InputError, RegistryError, UtteranceTooShortError

SMALL = DFSMNSANConfig(
    input_size=10, output_size=16, hidden_size=24, blocks=4, attention_heads=4, taps=(1, 2)
)


def small(**options: object) -> DFSMNSAN:
    torch.manual_seed(0)
    return DFSMNSAN(dataclasses.replace(SMALL, **options))  # type: ignore[arg-type]


def batch(frames: int = 23, input_size: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, frames, input_size, generator=generator), torch.tensor([frames, 9, 4])


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "blocks", "attention", "millions"),
    [("dfsmn_san_14m", 10, 2, 14.4), ("dfsmn_san_36m", 30, 3, 36.1)],
)
def test_published_sizes(name: str, blocks: int, attention: int, millions: float) -> None:
    with torch.device("meta"):
        module = DFSMNSAN(DFSMN_SAN_CONFIGS[name])
    kinds = [type(part) for part in module.modules()]
    assert kinds.count(MemoryBlock) == blocks
    assert kinds.count(SelfAttention) == attention
    assert parameters(module) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("orders", [(3, 2), (0, 2), (2, 0)])
def test_memory_is_the_formula_of_the_paper(
    orders: tuple[int, int], strides: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    memory = ("look_back", "look_ahead", "look_back_stride", "look_ahead_stride")
    options = dict(zip(memory, (*orders, *strides), strict=True))
    block = MemoryBlock(
        DFSMNSANConfig(output_size=5, hidden_size=7, dropout=0.0, **options), block=0
    ).double()
    m = torch.randn(2, 9, 5, dtype=torch.float64)
    p = block.project(torch.relu(block.hidden(block.norm(m))))
    expected = m + p
    for t in range(9):
        for i in range(orders[0] + 1):
            if 0 <= t - strides[0] * i:
                # The weights stand in the order of time: the last one is the present frame's.
                expected[:, t] += block.past[:, 0, orders[0] - i] * p[:, t - strides[0] * i]
        for j in range(1, orders[1] + 1):
            if t + strides[1] * j < 9:
                assert block.future is not None
                expected[:, t] += block.future[:, 0, j - 1] * p[:, t + strides[1] * j]
    torch.testing.assert_close(block(m, None), expected, rtol=0, atol=1e-12)


def test_frame_stacking_sees_the_context_and_nothing_else() -> None:
    module = small(look_back=0, look_ahead=0, attention_layers=0, context=3).double().eval()
    x = torch.randn(1, 40, 10, dtype=torch.float64, requires_grad=True)
    y, _ = module(x, torch.tensor([40]))
    (gradient,) = torch.autograd.grad(y[0, 4].square().sum(), x)
    seen = gradient[0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == list(range(4 * 4 - 3, 4 * 5 + 3))


@pytest.mark.parametrize("factor", [1, 3, 4])
def test_shapes_and_lengths_are_rounded_up(factor: int) -> None:
    module = small(subsampling_factor=factor).eval()
    assert (module.subsampling_factor, module.output_size, module.min_length) == (
        factor,
        16,
        factor,
    )
    x, lengths = batch()
    y, out_lengths = module(x, lengths)
    assert y.shape == (3, -(-23 // factor), 16)
    assert out_lengths.tolist() == [-(-length // factor) for length in lengths.tolist()]
    assert out_lengths.dtype == torch.int64
    for row, length in zip(y, out_lengths.tolist(), strict=True):
        assert (row[length:] == 0).all()
        assert (row[:length].abs().sum(-1) > 0).all()


def test_every_parameter_gets_a_gradient() -> None:
    module = small(persistent_memory=2, look_back_stride=[1, 2, 1, 2])
    x, lengths = batch()
    module(x, lengths)[0].square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_taps_return_normalized_memories_and_do_not_change_the_output() -> None:
    module = small().eval()
    x, lengths = batch()
    y, out_lengths = module(x, lengths)
    tapped, tapped_lengths, found = module.forward_taps(x, lengths)
    assert torch.equal(y, tapped) and torch.equal(out_lengths, tapped_lengths)
    assert [number for number, _ in found] == [1, 2]
    assert all(h.shape == y.shape for _, h in found)
    # A network that ends after block 2 (which an attention layer follows) puts out the same.
    short = DFSMNSAN(dataclasses.replace(SMALL, blocks=2, attention_layers=1, taps=())).eval()
    missing, _ = short.load_state_dict(module.state_dict(), strict=False)
    assert not missing
    torch.testing.assert_close(short(x, lengths)[0], found[1][1])


def test_conditioning_feeds_back_into_the_network() -> None:
    module = small().eval()
    x, lengths = batch()
    seen: list[Tensor] = []

    def condition(h: Tensor) -> Tensor:
        seen.append(h)
        return 0.5 * h

    plain = module(x, lengths)[0]
    conditioned, _, found = module.forward_taps(x, lengths, condition)
    assert not torch.allclose(plain, conditioned)
    assert [h is known for h, (_, known) in zip(seen, found, strict=True)] == [True, True]
    unchanged, _, _ = module.forward_taps(x, lengths, torch.zeros_like)
    assert torch.equal(unchanged, plain)


def test_checkpointing_gives_the_same_gradients_and_dropout() -> None:
    x, lengths = batch()
    results = []
    for checkpointing in (False, True):
        module = small(checkpointing=checkpointing).train()
        torch.manual_seed(3)
        y, _ = module(x, lengths)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in module.parameters() if p.grad is not None)])
    assert len(results[0]) == 1 + len(list(small().parameters()))
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_dropout_acts_in_training_only() -> None:
    module = small()
    x, lengths = batch()
    assert not torch.equal(module(x, lengths)[0], module(x, lengths)[0])
    module.eval()
    assert torch.equal(module(x, lengths)[0], module(x, lengths)[0])


def test_bfloat16_autocast_stays_close_and_trains() -> None:
    module = small(persistent_memory=2).eval()
    x, lengths = batch()
    exact = module(x, lengths)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _, _ = module.forward_taps(x, lengths, lambda h: 0.0 * h)
    assert (rough.float() - exact).abs().max() < 0.15
    rough.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@pytest.mark.slow
def test_compiles_without_graph_breaks_for_any_lengths() -> None:
    module = small(persistent_memory=1).eval()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for frames in (23, 40):
            x, lengths = batch(frames)
            for given in (lengths, torch.full_like(lengths, frames)):
                torch.testing.assert_close(compiled(x, given), module(x, given))


def test_values_past_an_utterance_may_be_anything() -> None:
    module = small().eval()
    x, lengths = batch()
    clean = module(x, lengths)[0]
    x[1, 9:] = float("nan")
    x[2, 4:] = float("inf")
    assert torch.equal(module(x, lengths)[0], clean)


def test_bad_input_is_refused_with_the_rule_and_the_value() -> None:
    module = small()
    x, lengths = batch()
    with pytest.raises(UtteranceTooShortError, match="3 frames") as caught:
        module(x, torch.tensor([23, 3, 4]))
    assert (caught.value.actual, caught.value.limit) == (3, 4)
    with pytest.raises(InputError, match="24"):
        module(x, torch.tensor([24, 9, 4]))
    with pytest.raises(InputError, match="10 frequency bins .* got 9"):
        module(x[..., :9], lengths)
    with pytest.raises(InputError, match="lengths"):
        module(x, lengths[:2])
    with pytest.raises(InputError, match="float32"):
        module(x, lengths.float())
    x[1, 7, 2] = float("nan")
    with pytest.raises(InputError, match="utterance 1 of the batch .* frame 7"):
        module(x, lengths)


def test_all_problems_of_a_config_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        DFSMNSANConfig.from_dict(
            {
                "input_size": 0,
                "blocks": 3,
                "look_back": [1, 2],
                "look_ahead_stride": [1, 0, True],
                "dropout": "much",
                "hiden_size": 5,
                "checkpointing": 1,
            }
        )
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 7
    for part in (
        "input_size: must be at least 1, got 0",
        "look_back: must have one number for each of the 3 blocks, got 2",
        "look_ahead_stride[1]",
        "look_ahead_stride[2]",
        "dropout: must be a number from 0 to below 1, got 'much'",
        "did you mean 'hidden_size'?",
        "checkpointing",
    ):
        assert part in problems


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"attention_heads": 3}, "must divide output_size 512"),
        ({"attention_layers": 11}, "at most one for each of the 10 blocks"),
        ({"attention_layers": 0, "persistent_memory": 4}, "needs attention_layers"),
        ({"taps": [10]}, "1 to 9, got 10"),
        ({"taps": [2, 2]}, "without repeats"),
        ({"taps": "2"}, "taps: must be a list"),
        ({"dropout": 1.0}, "from 0 to below 1"),
        ({"dropout": float("nan")}, "from 0 to below 1"),
    ],
)
def test_rules_between_options(options: dict[str, object], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        DFSMNSANConfig.from_dict(options)


def test_registry_names_the_baseline() -> None:
    assert BASELINES["dfsmn_san"] is DFSMNSAN
    with pytest.raises(RegistryError, match="did you mean 'dfsmn_san'"):
        BASELINES["dfsmn-san"]
