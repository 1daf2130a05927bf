"""Front ends with copied weights equal the toolkits' own modules."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_encoder.ops.masking import padding_frames
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.front import build_front
from nas_encoder.spaces.blocks.front_parts import Conv2dFront, DepthwiseFront
from nas_encoder.spaces.blocks.part import Part

BINS, CHANNELS, WIDTH = 23, 5, 8


def copied(part: Part, theirs: Any, width: int) -> Any:
    """Return ours with the weights of a toolkit's ``conv`` and ``out``."""
    ours: Any = build_front(part, BINS, width, BlocksConfig()).double()
    modules = [module for module in ours.convolutions.modules() if isinstance(module, nn.Conv2d)]
    given = [module for module in theirs.conv if isinstance(module, nn.Conv2d)]
    for module, source in zip(modules, given, strict=True):
        module.load_state_dict(source.state_dict())
    out = theirs.out[0] if isinstance(theirs.out, nn.Sequential) else theirs.out
    channels = modules[-1].out_channels
    with torch.no_grad():  # their inputs are ordered by channel, then by frequency
        weight = out.weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
        ours.output.weight.copy_(weight)
        ours.output.bias.copy_(out.bias)
    return ours


def features(lengths: Tensor) -> Tensor:
    return torch.randn(len(lengths), int(lengths.max()), BINS, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.espnet
@pytest.mark.filterwarnings("ignore::FutureWarning:espnet")
@pytest.mark.parametrize("factor", [4, 8])
def test_conv2d_without_padding_is_that_of_espnet(factor: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("espnet.nets.pytorch_backend.transformer.subsampling")
    kind = {4: "Conv2dSubsampling", 8: "Conv2dSubsampling8"}[factor]
    theirs = getattr(module, kind)(BINS, WIDTH, 0.0, nn.Identity()).double()
    ours = copied(Conv2dFront(factor, WIDTH, padded=False), theirs, WIDTH)
    least = module.check_short_utt(theirs, 1)[1]
    assert ours.min_length == least
    lengths = torch.arange(least, least + 40)
    x = features(lengths)
    y, out = ours(x, lengths)
    for row, length in enumerate(lengths.tolist()):  # alone: in a batch theirs see padding
        expected, mask = theirs(x[row : row + 1, :length], torch.ones(1, 1, length))
        assert out[row] == mask.sum() == expected.size(1)
        torch.testing.assert_close(y[row, : out[row]], expected[0], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.nemo
@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("kind", ["striding", "dw_striding"])
def test_padded_convolutions_are_those_of_nemo(kind: str, factor: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("nemo.collections.asr.parts.submodules.subsampling")
    theirs = module.ConvSubsampling(kind, factor, BINS, WIDTH, CHANNELS, activation=nn.ReLU())
    part = {"striding": Conv2dFront, "dw_striding": DepthwiseFront}[kind]
    ours = copied(part(factor, CHANNELS), theirs.double(), WIDTH)
    lengths = torch.arange(1, 50)
    x = features(lengths)
    y, out = ours(x, lengths)
    expected, expected_lengths = theirs(x, lengths)
    assert out.tolist() == expected_lengths.tolist()
    assert y.shape == expected.shape
    valid = ~padding_frames(out, y.size(1))
    torch.testing.assert_close(y[valid], expected[valid], rtol=0, atol=1e-9)
