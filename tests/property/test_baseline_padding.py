"""Padding and batch mates never change what a baseline makes of an utterance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig

configs = st.builds(
    DFSMNSANConfig,
    input_size=st.integers(1, 7),
    output_size=st.just(8),
    hidden_size=st.integers(3, 12),
    blocks=st.just(4),
    attention_layers=st.integers(0, 4),
    attention_heads=st.sampled_from([1, 2, 4]),
    look_back=st.integers(0, 5),
    look_ahead=st.integers(0, 5),
    look_back_stride=st.integers(1, 3),
    look_ahead_stride=st.integers(1, 3),
    subsampling_factor=st.integers(1, 4),
    context=st.integers(0, 5),
    # Randomness aside, training and evaluation must agree, so no dropout here.
    dropout=st.just(0.0),
    attention_dropout=st.just(0.0),
    taps=st.sampled_from([(), (2,), (1, 3)]),
)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    config=configs,
    extra=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    tail=st.integers(0, 9),
    memory=st.integers(0, 2),
    training=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
def test_an_utterance_gives_the_same_alone_and_in_any_batch(
    config: DFSMNSANConfig,
    extra: list[int],
    tail: int,
    memory: int,
    training: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    if config.attention_layers:
        config = DFSMNSANConfig(**{**vars(config), "persistent_memory": memory})
    module = DFSMNSAN(config).double().train(training)
    lengths = torch.tensor([module.min_length + frames for frames in extra])
    x = torch.randn(len(extra), int(lengths.max()) + tail, config.input_size, dtype=torch.float64)
    x.requires_grad_()

    y, out_lengths, found = module.forward_taps(x, lengths, torch.tanh)
    outputs = [y, *(h for _, h in found)]
    weights = [torch.randn_like(output) for output in outputs]
    loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
    (gradient,) = torch.autograd.grad(loss, x)  # type: ignore[arg-type]

    for row, length in enumerate(lengths.tolist()):
        alone = x[row : row + 1, :length].detach().requires_grad_()
        own, own_length, own_found = module.forward_taps(alone, lengths[row : row + 1], torch.tanh)
        assert own_length.item() == out_lengths[row].item() == own.size(1)
        frames = own.size(1)
        own_loss = torch.zeros((), dtype=torch.float64)
        own_outputs = [own, *(h for _, h in own_found)]
        for output, own_output, weight in zip(outputs, own_outputs, weights, strict=True):
            torch.testing.assert_close(output[row, :frames], own_output[0], rtol=0, atol=1e-9)
            assert (output[row, frames:] == 0).all()
            own_loss = own_loss + (own_output * weight[row : row + 1, :frames]).sum()
        (own_gradient,) = torch.autograd.grad(own_loss, alone)
        torch.testing.assert_close(gradient[row, :length], own_gradient[0], rtol=0, atol=1e-9)
        assert (gradient[row, length:] == 0).all()
