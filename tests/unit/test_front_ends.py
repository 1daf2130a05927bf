"""The front ends of block encoders: padding, lengths, what a frame sees, that of DFSMN-SAN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig
from nas_encoder.errors import ConfigError, ProblemsError
from nas_encoder.genotype import load_genotype
from nas_encoder.ops import subsampling
from nas_encoder.ops.masking import padding_frames
from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.front import build_front
from nas_encoder.spaces.blocks.front_parts import (
    Conv1dFront,
    Conv2dFront,
    DepthwiseFront,
    SearchedFront,
    StackFront,
)
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.testing.convolutions import only_sound_convolutions

BINS, WIDTH = 17, 6
CELLS = SearchedFront(
    load_genotype("asrnet_b"), (("channels", 2), ("deltas", False), ("layers", 3))
)
PARTS: list[Part] = [
    *(Conv2dFront(factor, 3, padded) for factor in (4, 8) for padded in (True, False)),
    *(DepthwiseFront(factor, 3) for factor in (4, 8)),
    *(Conv1dFront(factor, 5) for factor in (4, 8)),
    *(StackFront(factor, context) for factor in (4, 8) for context in (0, 1, 4, 11)),
    CELLS,
]
every = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.text())


def built(part: Part, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_front(part, BINS, WIDTH, BlocksConfig(**options)).double().eval()


def noise(batch: int, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, frames, BINS, dtype=torch.float64, generator=generator)


def expected(part: Any, length: int) -> int:
    """Return the frames of an utterance, a convolution at a time."""
    if not getattr(part, "padded", True):
        for _ in range({4: 2, 8: 3}[part.factor]):
            length = max(0, (length - 1) // 2)
        return length
    return -(-length // int(part.factor))


@every
def test_padding_changes_nothing_at_any_length(part: Part) -> None:
    front = built(part)
    least = front.min_length
    lengths = torch.arange(least, least + 20)
    x = noise(len(lengths), int(lengths[-1]) + 5)
    x[padding_frames(lengths, x.size(1))] = float("nan")
    y, out = front(x, lengths)
    assert y.isfinite().all()
    assert y.size(1) == expected(part, x.size(1))
    for row, length in enumerate(lengths.tolist()):
        alone, none = front(x[row : row + 1, :length], None)
        assert none is None
        assert alone.shape == (1, out[row], WIDTH)
        torch.testing.assert_close(y[row, : out[row]], alone[0], rtol=0, atol=1e-12)


@every
def test_lengths_and_the_fewest_frames(part: Part) -> None:
    front = built(part)
    assert front.factor == part.factor  # type: ignore[attr-defined]
    lengths = torch.arange(front.min_length, 60)
    assert front.reduced(lengths).tolist() == [expected(part, n) for n in lengths.tolist()]
    least = {4: 7, 8: 15}[front.factor] if not getattr(part, "padded", True) else 1
    assert front.min_length == (4 if part is CELLS else least)
    assert expected(part, front.min_length) == 1


@every
def test_its_reach_is_what_a_frame_sees(part: Part) -> None:
    front = built(part)
    back, ahead = front.reach
    middle = -(-back // front.factor) + 1
    begin, end = middle * front.factor - back, middle * front.factor + ahead
    x = noise(1, end + 40).requires_grad_()
    y, _ = front(x, None)
    y[0, middle].abs().sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(1).nonzero().flatten()
    assert begin <= int(seen[0]) and int(seen[-1]) <= end
    for frame in (begin, end) if part is not CELLS else ():  # cells may skip frames in between
        moved = x.detach().clone()
        moved[0, frame] += 100.0  # so far that no unit stays dead
        assert (front(moved, None)[0] != y)[0, middle].any()


@every
def test_every_parameter_gets_a_gradient_by_sound_convolutions(part: Part) -> None:
    front = built(part).train()
    x = noise(2, 41)
    with only_sound_convolutions():
        y, _ = front(x, torch.tensor([41, 26]))
        (y * torch.randn_like(y)).sum().backward()
    for name, parameter in front.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


@every
def test_gradients_do_not_see_padding(part: Part) -> None:
    front = built(part)
    x = noise(2, 41)
    lengths = torch.tensor([41, 26])
    x[1, 26:] = float("nan")
    y, out = front(x, lengths)
    valid = ~padding_frames(out, y.size(1))
    y[valid].square().sum().backward()
    together = [parameter.grad.clone() for parameter in front.parameters()]
    front.zero_grad()
    for row, length in enumerate(lengths.tolist()):
        front(x[row : row + 1, :length], None)[0].square().sum().backward()
    for alone, both in zip(front.parameters(), together, strict=True):
        torch.testing.assert_close(alone.grad, both, rtol=1e-10, atol=1e-10)


@every
def test_nothing_depends_on_values(part: Part) -> None:
    with torch.device("meta"):  # has none
        front = build_front(part, BINS, WIDTH, BlocksConfig())
        y, lengths = front(torch.empty(2, 41, BINS), torch.empty(2, dtype=torch.long))
    assert y.shape == (2, expected(part, 41), WIDTH)
    assert lengths is not None and lengths.shape == (2,)


@every
def test_half_precision_is_close(part: Part) -> None:
    front = built(part).float()
    x, lengths = noise(2, 41).float(), torch.tensor([41, 26])
    expected, out = front(x, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = front(x, lengths)
    valid = ~padding_frames(out, y.size(1))
    error = (y.float() - expected)[valid].abs().max()
    assert 0 < error < 0.05 * expected[valid].abs().max()


TWO = [
    *(Conv2dFront(4, channels) for channels in (3, 65)),
    *(Conv2dFront(factor, 3, False) for factor in (4, 8)),
    Conv2dFront(8, 3),
    *(DepthwiseFront(factor, 3) for factor in (4, 8)),
]


@pytest.mark.parametrize("strips", [1 << 21, 1 << 8, 1])
@pytest.mark.parametrize("part", TWO, ids=lambda part: part.text())
def test_numbers_of_two_convolutions_at_once(
    part: Part, strips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = built(part).train()
    monkeypatch.setattr(subsampling, "_MOST", strips)
    calls: list[Any] = []
    function = subsampling._Two
    real = function.forward
    called = staticmethod(lambda *given: calls.append(1) or real(*given))
    monkeypatch.setattr(function, "forward", called)
    x, lengths = noise(3, 41), torch.tensor([41, 26, 15])
    x[padding_frames(lengths, 41)] = float("nan")

    def run(given: Tensor | None) -> list[Tensor]:
        frames = x.nan_to_num().requires_grad_() if given is None else x.clone().requires_grad_()
        y, out = front(frames, given)
        valid = torch.ones_like(y[..., 0]) if out is None else ~padding_frames(out, y.size(1))
        loss = (y * torch.sin(torch.arange(WIDTH)) * valid.unsqueeze(2)).square().sum()
        wanted = [frames, *(own for own in front.parameters() if own.requires_grad)]
        return [y[valid.bool()], *torch.autograd.grad(loss, wanted)]

    for given in (lengths, None):
        calls.clear()
        found = run(given)
        assert len(calls) == 1
        layer: Any = front.convolutions[1]
        layer = layer[0] if isinstance(part, DepthwiseFront) else layer
        hook = layer.register_forward_hook(lambda *_: None)  # so the layers run
        expected = run(given)
        hook.remove()
        assert len(calls) == 1
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
        layer.weight.requires_grad_(False)
        front.convolutions[0].bias.requires_grad_(False)
        names = [name for name, own in front.named_parameters() if not own.requires_grad]
        frozen = run(given)
        places = [name not in names for name, _ in front.named_parameters()]
        kept = [own for own, keep in zip(expected[2:], places, strict=True) if keep]
        torch.testing.assert_close(frozen, [*expected[:2], *kept], rtol=1e-11, atol=1e-11)
        front.requires_grad_(True)


def test_added_layers_of_a_front_end_run() -> None:
    front, x = built(DepthwiseFront(4, 3)).train(), noise(2, 17)
    front.convolutions[1].append(torch.nn.Hardtanh(-0.01, 0.01))
    y, _ = front(x, None)
    with torch.no_grad():
        torch.testing.assert_close(y, front(x, None)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [64, 65])
def test_layouts_of_wide_convolutions_agree(channels: int) -> None:
    front = built(Conv2dFront(4, channels))
    x, lengths = noise(2, 41), torch.tensor([41, 26])
    with torch.no_grad():  # in training, the layers one by one
        y, _ = front(x, lengths)
        torch.testing.assert_close(front.train()(x, lengths)[0], y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("context", [0, 4])
def test_stacked_frames_are_those_of_dfsmn_san(context: int) -> None:
    config = DFSMNSANConfig(BINS, 8, 8, 1, 0, attention_heads=2, context=context, dropout=0.0)
    whole = DFSMNSAN(config).double()
    front = build_front(StackFront(4, context), BINS, 8, BlocksConfig()).double()
    with torch.no_grad():
        # (D, F, taps): ours is ordered by frame, then by feature
        front.output.weight.copy_(whole.stack.weight.transpose(1, 2).flatten(1))  # type: ignore
        front.output.bias.copy_(whole.stack.bias)  # type: ignore
    seen = []
    whole.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, lengths = noise(3, 30), torch.tensor([30, 21, 4])
    _, out_lengths = whole(x, lengths)
    y, out = front(x, lengths)
    assert out is not None and out.tolist() == out_lengths.tolist()
    valid = ~padding_frames(out, y.size(1))
    torch.testing.assert_close(y[valid], seen[0][valid], rtol=0, atol=1e-12)


def test_a_searched_network_recomputes_if_the_encoder_does() -> None:
    assert not built(CELLS).network.config.checkpointing
    assert built(CELLS, checkpointing=True).network.config.checkpointing


def test_too_few_features_for_convolutions_without_padding_are_refused() -> None:
    bare = BlockArchitecture(front=Conv2dFront(8, 4, padded=False))
    with pytest.raises(ConfigError, match="input_size: must be at least 15 .* got 14"):
        BlocksConfig.from_dict({"input_size": 14}, architecture=bare)
    BlocksConfig.from_dict({"input_size": 15}, architecture=bare)
    BlocksConfig.from_dict({"input_size": 1}, architecture=BlockArchitecture())


def test_options_of_the_whole_encoder_are_no_options_of_its_front_end() -> None:
    front = {"kind": "searched", "genotype": "asrnet_b"}
    options = {"taps": [3], "conditioning": True, "checkpointing": True, "input_size": 4}
    stage = {"width": 8, "modules": [{"kind": "feed_forward"}]}
    with pytest.raises(ProblemsError) as caught:
        BlockArchitecture.from_dict({"front": {**front, "options": options}, "stages": [stage]})
    for name in options:
        assert any(f"front.options.{name}: is " in line for line in caught.value.problems), name
