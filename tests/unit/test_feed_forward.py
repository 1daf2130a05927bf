"""The function of nas_encoder/ops/feed_forward.py against the layers that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nas_encoder.ops import dropout, feed_forward
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.modules import build_module
from nas_encoder.spaces.blocks.parts import FeedForward


def run(module: Any, x: Tensor) -> tuple[list[Tensor], int]:
    """Return output and gradients, and the bytes kept for the backward pass."""
    x = x.clone().requires_grad_()
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(1)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x, Frames())
    weights = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    wanted = [x, *(own for own in module.parameters() if own.requires_grad)]
    return [y, *torch.autograd.grad((y * weights).sum(), wanted)], sum(seen.values())


@pytest.mark.parametrize("most", [1 << 18, 1])
@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_numbers_are_those_of_the_layers(
    activation: str, rate: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_forward, "_MOST", most)
    monkeypatch.setattr(feed_forward, "_LEAST_ROWS", 17)
    torch.manual_seed(0)
    config = BlocksConfig(dropout=rate)
    module: Any = build_module(FeedForward(4.0, activation), 8, config, True).double().train()
    x = torch.randn(3, 50, 8, dtype=torch.float64)
    calls: list[Any] = []
    function = feed_forward._FeedForward
    real = function.forward
    called = staticmethod(lambda *given: calls.append(1) or real(*given))
    monkeypatch.setattr(function, "forward", called)
    found, kept = run(module, x)
    assert len(calls) == 1
    hook = module.expand.register_forward_hook(lambda *_: None)  # so the layers run
    expected, more = run(module, x)
    assert len(calls) == 1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert kept < 0.7 * more
    hook.remove()
    plain = module.expand.forward
    module.expand.forward = lambda given: plain(given)  # as accelerate wraps layers
    assert run(module, x)[1] == more
    del module.expand.forward
    assert len(calls) == 1
    module.project.requires_grad_(False)
    frozen, _ = run(module, x)
    torch.testing.assert_close(frozen, [*expected[:-2]], rtol=1e-12, atol=1e-12)
    module.eval()
    with torch.no_grad():
        module(x, Frames())
    assert len(calls) == 2
    module.requires_grad_(True).train()
    for empty in (x[:0], x[:, :0]):
        found, _ = run(module, empty)
        assert found[0].shape == found[1].shape == empty.shape
    assert len(calls) == 4


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_what_is_dropped_and_added(step: float) -> None:
    torch.manual_seed(0)
    x, y = (torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = torch.randn(3, 7, 5, dtype=torch.float64)
    found = []
    for function in (
        lambda: dropout.add_dropped(x, y, 0.3, True, step),
        lambda: x + step * dropout.dropout(y, 0.3, True),
    ):
        torch.manual_seed(1)
        with torch.device("meta"):  # where tensors are made that do not say where
            z = function()
        found.append([z, *torch.autograd.grad((z * weights).sum(), (x, y))])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    assert (found[0][2] == 0).any() and (found[0][2] != 0).any()
    assert torch.equal(dropout.add_dropped(x, y, 0.3, False, step), x + step * y)
