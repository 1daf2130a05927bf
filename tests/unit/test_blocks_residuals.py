"""Residual modules of blocks: padding, windows, reach, gradients, precision, captured graphs."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_encoder.spaces.blocks import positions
from nas_encoder.spaces.blocks.attention import AttentionModule
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.modules import build_module
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Memory,
    Parallel,
    SelfAttention,
)

WIDTH = 8
SURE = BlocksConfig(dropout=0.0, attention_dropout=0.0)
PARTS: tuple[Part, ...] = (
    FeedForward(2.0),
    FeedForward(1.5, 0.5, "relu"),
    SelfAttention(2),
    SelfAttention(4, positions="none"),
    SelfAttention(2, 3),
    SelfAttention(2, 20),
    SelfAttention(1, 2, "none"),
    Convolution(5),
    Convolution(3, glu=False, norm="layer"),
    GatedMlp(3.0, 5),
    Parallel(2, 0, "relative", 2.0, 3, 5),
    Parallel(2, 4, "none", 2.0, 5, 0),
    Parallel(2, 2, "relative", 2.0, 7, 3),
    Memory(3, 2),
    Memory(2, 1, 3, 2.0),
    Memory(0, 2, 2),
    # What streams with little lookahead.
    SelfAttention(2, 3, ahead=1),
    SelfAttention(2, 4, chunk=5),
    Convolution(5, causal=True),
    GatedMlp(3.0, 5, causal=True),
    Parallel(2, 2, "relative", 2.0, 7, 3, chunk=4, causal=True),
)
every_part = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.text())


def build(part: Part, config: BlocksConfig = SURE, norm_before: bool = True) -> Any:
    """Return a module in float64 without neutral first values."""
    module = build_module(part, WIDTH, config, norm_before).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


def frames_of(x: Tensor, lengths: list[int] | None) -> Frames:
    mask = None
    if lengths is not None:
        mask = torch.arange(x.size(1)) < torch.tensor(lengths)[:, None]
    return Frames(mask, positions.relative(x))


def padded(utterances: list[Tensor], frames: int) -> tuple[Tensor, Frames]:
    """Return a batch with noise after the utterances."""
    x = 1e3 * torch.randn(len(utterances), frames, WIDTH, dtype=torch.float64)
    for row, utterance in zip(x, utterances, strict=True):
        row[: len(utterance)] = utterance
    return x, frames_of(x, [len(utterance) for utterance in utterances])


def utterances(*lengths: int) -> list[Tensor]:
    return [torch.randn(length, WIDTH, dtype=torch.float64) for length in lengths]


# -- padding ----------------------------------------------------------------------------------


@every_part
@pytest.mark.parametrize("norm_before", [True, False])
def test_an_utterance_does_not_feel_its_batch(part: Part, norm_before: bool) -> None:
    module = build(part, norm_before=norm_before).eval()
    given = utterances(41, 90, 1, 7)
    for learning in (True, False):
        with torch.set_grad_enabled(learning):
            x, frames = padded(given, 97)
            together = module(x, frames)
            for place, utterance in enumerate(given):
                alone = module(utterance[None], frames_of(utterance[None], None))
                found = together[place : place + 1, : len(utterance)]
                torch.testing.assert_close(found, alone, rtol=0, atol=1e-10)


@every_part
def test_padding_changes_nothing_in_training(part: Part) -> None:
    """Not outputs, not gradients of weights, not running statistics."""
    first = build(part).train()
    second = copy.deepcopy(first)
    given = utterances(31, 60, 1, 7)
    slope = utterances(31, 60, 1, 7)
    outputs = []
    for module, frames in ((first, 60), (second, 97)):
        x, about = padded(given, frames)
        y = module(x, about)
        outputs.append([row[: len(own)] for row, own in zip(y, given, strict=True)])
        products = [(row * g).sum() for row, g in zip(outputs[-1], slope, strict=True)]
        torch.stack(products).sum().backward()
    for found, expected in zip(*outputs, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for name, parameter in first.named_parameters():
        other = second.get_parameter(name)
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-10, atol=1e-9, msg=name)
    for name, buffer in first.named_buffers():
        torch.testing.assert_close(buffer, second.get_buffer(name), rtol=0, atol=1e-12)


@every_part
@pytest.mark.parametrize("training", [True, False])
def test_long_padding_gives_no_nan(part: Part, training: bool) -> None:
    """Windows of padding queries then hold no frame of the utterance."""
    module = build(part, BlocksConfig(dropout=0.2, attention_dropout=0.2)).train(training)
    x, frames = padded(utterances(150, 1, 9), 150)
    x.requires_grad_()
    with torch.no_grad():
        assert module(x, frames).isfinite().all()
    y = module(x, frames)
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


# -- attention --------------------------------------------------------------------------------


def by_definition(module: AttentionModule, x: Tensor, mask: Tensor) -> Tensor:
    """Return the attention of (T, C), frame by frame, under a mask (T, T)."""
    heads, size = module.heads, WIDTH // module.heads
    query, key, value = module.inputs(x).view(len(x), 3, heads, size).unbind(1)
    context = torch.empty(len(x), heads, size, dtype=x.dtype)
    for now in range(len(x)):
        scores = torch.einsum("hd,khd->kh", query[now], key)
        if module.position is not None:
            past = now - torch.arange(len(x))
            mapped = module.position(positions._sinusoids(past, WIDTH).double())
            mapped = mapped.view(len(x), heads, size)
            scores = torch.einsum("hd,khd->kh", query[now] + module.content_bias, key)
            scores = scores + torch.einsum("hd,khd->kh", query[now] + module.position_bias, mapped)
        scores = (scores / size**0.5).masked_fill(~mask[now, :, None], float("-inf"))
        context[now] = torch.einsum("kh,khd->hd", scores.softmax(0), value)
    out: Tensor = module.output(context.flatten(1))
    return out


@pytest.mark.parametrize("kind", ["relative", "none"])
@pytest.mark.parametrize(
    "context",
    [
        *({"window": window} for window in (0, 1, 3, 16, 20)),
        {"window": 5, "ahead": 0},
        {"window": 2, "ahead": 7},
        {"window": 4, "chunk": 5},
        {"window": 0, "chunk": 20},
        {"window": 20, "chunk": 16},
        {"window": 3, "chunk": 33},
    ],
    ids=str,
)
def test_attention_is_its_formula(context: dict[str, int], kind: str) -> None:
    """Also within a context: in groups, as a part of all scores, and shorter than the context."""
    part = SelfAttention(2, positions=kind, **context)
    module = build(part, norm_before=False).eval()
    for frames, lengths in ((1, None), (9, [4]), (50, [33]), (130, [129]), (120, None)):
        x = torch.randn(1, frames, WIDTH, dtype=torch.float64)
        valid = frames if lengths is None else lengths[0]
        mask = torch.zeros(frames, frames, dtype=torch.bool)
        for frame in range(frames):
            first, last = part.span(frame) or (0, frames)
            mask[frame, max(0, first) : min(last + 1, valid)] = True
        expected = by_definition(module, x[0, :valid], mask[:valid, :valid])
        for learning in (True, False):
            with torch.set_grad_enabled(learning):
                found = module(x, frames_of(x, lengths))[0, :valid]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_memory_of_windows_grows_with_their_length() -> None:
    """The largest tensor of a long utterance has the scores of its windows, not all."""
    module = build(SelfAttention(2, 4)).eval()
    largest = []
    for frames in (512, 2048):
        x = torch.randn(1, frames, WIDTH, dtype=torch.float64)
        sizes = []

        class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                out = func(*args, **(kwargs or {}))
                if isinstance(out, Tensor):
                    sizes.append(out.numel())  # noqa: B023
                return out

        about = frames_of(x, None)
        with Sizes(), torch.no_grad():
            module(x, about)
        largest.append(max(sizes))
    assert largest[1] <= 4.2 * largest[0]
    assert largest[1] < 2048 * 128


def test_attention_weights_have_their_gradients() -> None:
    from nas_encoder.spaces.blocks.weighting import weighted

    query, key, value, shifted = (
        torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)
    )
    places = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(2, 1, 4, dtype=torch.bool)
    mask[1, :, 2:] = False

    def call(*given: Tensor) -> Tensor:
        torch.manual_seed(0)
        return weighted(*given[:3], mask, 0.3, (*given[3:], 3) if given[3:] else None)  # type: ignore[misc]

    assert torch.autograd.gradcheck(call, (query, key, value, shifted, places))
    assert torch.autograd.gradcheck(call, (query, key, value))


# -- what a frame depends on, and what learns ---------------------------------------------------


@every_part
def test_reach_is_what_a_frame_depends_on(part: Part) -> None:
    module = build(part).eval()
    frames, place = 101, 50
    x = torch.randn(1, frames, WIDTH, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(WIDTH, dtype=torch.float64)
    (module(x, frames_of(x, None))[0, place] * slope).sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(1).nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (part.span(place) or (0, frames - 1))
    assert module.reach == part.reach


@every_part
def test_every_parameter_learns(part: Part) -> None:
    module = build_module(part, WIDTH, BlocksConfig(), True).train()
    x, frames = padded(utterances(41, 9), 41)
    y = module(x.float(), frames_of(x.float(), [41, 9]))
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@every_part
def test_norm_before_is_a_layer_norm_of_the_stream(part: Part) -> None:
    with_norm, bare = build(part).eval(), build(part, norm_before=False).eval()
    state = bare.state_dict()
    state |= {name: tensor for name, tensor in with_norm.state_dict().items() if name in state}
    bare.load_state_dict(state)
    norms = [n for n, m in with_norm.named_modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) > len([m for m in bare.modules() if isinstance(m, nn.LayerNorm)])
    with torch.no_grad():
        for name in set(with_norm.state_dict()) - set(state):
            tensor = with_norm.get_parameter(name)
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
    x, frames = padded(utterances(20, 20), 20)
    normal = torch.nn.functional.layer_norm(x, (WIDTH,), eps=SURE.norm_eps)
    torch.testing.assert_close(with_norm(x, frames), bare(normal, frames), rtol=0, atol=1e-10)


def test_epsilon_of_layer_norms_is_that_of_the_options() -> None:
    config = BlocksConfig(norm_eps=1e-12)
    for part in PARTS:
        for module in build_module(part, WIDTH, config, True).modules():
            if isinstance(module, nn.LayerNorm):
                assert module.eps == 1e-12
            if isinstance(module, nn.BatchNorm2d):
                assert module.eps == 1e-5


# -- precision and captured graphs --------------------------------------------------------------


@every_part
@pytest.mark.parametrize("training", [True, False])
def test_half_precision_is_close(part: Part, training: bool) -> None:
    module = build(part).float().train(training)
    x, frames = padded(utterances(60, 9), 60)
    x = x.float().clamp(-3, 3)
    frames = frames_of(x, [60, 9])
    expected = module(x, frames)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, frames)
    assert frames.mask is not None
    error = (found.float() - expected)[frames.mask].square().mean().sqrt()
    assert error < 0.03 * expected[frames.mask].square().mean().sqrt()
    found.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


class Row(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        chosen = (PARTS[0], PARTS[4], PARTS[7], PARTS[9], PARTS[10], PARTS[14])  # one of a kind
        self.layers = nn.ModuleList(build(part) for part in chosen)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(x.size(1)) < lengths[:, None]
        frames = Frames(mask, positions.relative(x))
        for layer in self.layers:
            x = x + layer(x, frames)
        return frames.clear(x)


@pytest.mark.slow
def test_compiled_without_graph_breaks() -> None:
    """One graph for all lengths in evaluation; the same training step."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module = Row().eval()
    compiled = torch.compile(module, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for frames, lengths in ((30, [30, 7]), (45, [3, 45]), (101, [101, 80])):
            x, sizes = torch.randn(2, frames, WIDTH).double(), torch.tensor(lengths)
            expected = module(x, sizes)
            torch.testing.assert_close(compiled(x, sizes), expected, rtol=0, atol=1e-9)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()
    other = copy.deepcopy(module).train()
    module.train()
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of dynamo's own doing
        y, expected = compiled(x, sizes), module(x, sizes)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    (y * x).sum().backward()
    (expected * x).sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(other.get_parameter(name).grad, parameter.grad, msg=name)
