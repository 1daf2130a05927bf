"""The weight-entangled supernet of block encoders: every encoder of its choices, exactly."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.network import BlockEncoder
from nas_encoder.spaces.blocks.oneshot import OneShot, build
from nas_encoder.spaces.blocks.parts import GatedMlp, Memory, Parallel, SelfAttention
from nas_encoder.spaces.blocks.space import BLOCKS

SMALL: dict[str, list[str]] = {
    "front end": ["depthwise 16 channels, 4x", "depthwise 32 channels, 4x"],
    "schedule": ["1 2 1"],
    "width": ["32", "48", "64"],
    "depth": ["1", "2"],
    "mixing": [
        *("attention 2 heads", "attention 8 heads", "attention 4 heads window 16"),
        *("attention 4 heads without positions", "convolution 7", "convolution 15"),
        *("cgMLP 15 x 2", "cgMLP 31 x 6", "memory -5+5", "memory -10+10 x 2"),
        *(Parallel(4, expansion=e, merge_kernel=k).text() for e, k in ((2.0, 31), (4.0, 0))),
        "memory -5+5 every 2",
    ],
    "second mixing": ["none", "memory -5+5", "convolution 9"],
    "last feed-forward": ["none", "½ feed-forward 2", "feed-forward 4", "feed-forward 4 relu"],
}
FEW = {**SMALL, "mixing": ["memory -5+5"], "second mixing": ["none"]}
FRONTS = {
    "conv2d": ["conv2d 8 channels, 4x", "conv2d 16 channels, 4x"],
    "bare": ["conv2d 16 channels without padding, 4x"],
    "conv1d": ["conv1d 64 channels, 4x", "conv1d 128 channels, 4x"],
    "stack": ["stacked frames -4+4, 4x"],
    "searched": [name for name in BLOCKS.kinds["front end"].operations if "network" in name][:1],
}


def supernet(choices: Mapping[str, Sequence[str]], **options: Any) -> OneShot:
    torch.manual_seed(0)
    net = build(BLOCKS, choices, BlocksConfig(**{"input_size": 20, **options})).double()
    with torch.no_grad():
        for parameter in net.parameters():  # none is zero or one everywhere
            parameter.normal_(std=0.2)
    return net


def plain(net: OneShot, genotype: Genotype, **statistics: Any) -> BlockEncoder:
    """Return the encoder itself, with its slice of the weights."""
    encoder = BlockEncoder(genotype, net.config).double()
    encoder.load_state_dict(net.inherit(genotype, **statistics))
    return encoder


def batch(frames: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, frames, 20, dtype=torch.float64, generator=generator)
    return x, torch.tensor([frames, 31, 44])


def agree(net: OneShot, genotype: Genotype) -> None:
    """Compare outputs, in evaluation and in training, and the gradients of the weights."""
    x, lengths = batch()
    encoder = plain(net, genotype)
    for training in (False, True):
        net.train(training)
        encoder.train(training)
        results = []
        for module, more in ((net, (genotype,)), (encoder, ())):
            torch.manual_seed(2)  # of dropout
            results.append(module(x, lengths, *more))
        (one, frames), (other, wanted) = results
        assert torch.equal(frames, wanted)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    net.zero_grad()
    one.square().sum().backward()
    other.square().sum().backward()
    own = sum(float(p.grad.abs().sum()) for p in encoder.parameters() if p.grad is not None)
    shared = sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None)
    assert shared == pytest.approx(own, rel=1e-9) and own > 0


@pytest.mark.slow
def test_every_encoder_is_computed_exactly() -> None:
    net, rng = supernet(SMALL), random.Random(0)
    drawn = [genotype for _ in range(3) for genotype in net.draws(rng, 2)]
    assert len({genotype.hash for genotype in drawn}) == 12
    for genotype in drawn:
        agree(net, genotype)


@pytest.mark.parametrize("front", FRONTS)
def test_front_ends_are_shared(front: str) -> None:
    net = supernet({**FEW, "front end": FRONTS[front]})
    for genotype in net.draws(random.Random(1), 1):
        agree(net, genotype)


def test_an_output_layer_is_shared() -> None:
    net = supernet(FEW, output_size=48)
    for genotype in net.draws(random.Random(2), 2):
        assert net.output_size_of(genotype) == 48
        agree(net, genotype)


def test_the_weights_are_views() -> None:
    net = supernet(SMALL)
    biggest = net.draws(random.Random(0), 0)[0]
    pointers = {p.untyped_storage().data_ptr() for p in net.parameters()}
    weights = net._weights(net._plan(biggest))
    assert all(weight.untyped_storage().data_ptr() in pointers for weight in weights.values())


def sliced(net: OneShot, small: Any, slot: str = "mixing") -> tuple[dict[str, Tensor], Any]:
    """Return the weights of a module of width 32 in block 1, and the shared module."""
    values = {kind: list(table) for kind, table in net.choices.items()}
    genotype = Genotype("any", "blocks", BLOCKS.architecture_of(_vector(values, small)))
    prefix = "blocks.0.layers.0."
    weights = net.inherit(genotype)
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return own, next(iter(net.stages[0][0][slot].values()))["module"]  # type: ignore[index]


def _vector(values: Mapping[str, Any], part: Any) -> list[int]:
    chosen = {kind: table[0] for kind, table in values.items()}
    chosen |= {"mixing": part, "first feed-forward": None, "second mixing": None}
    return [
        BLOCKS.table[kind].index(chosen[kind])
        for kind, own in BLOCKS.kinds.items()
        for _ in own.names
    ]


BLOCK = {**FEW, "first feed-forward": ["none"], "norms": ["before True False"]}


def test_heads_take_the_same_weights() -> None:
    names = [SelfAttention(2).text(), SelfAttention(8).text()]
    net = supernet({**BLOCK, "mixing": names})
    few, shared = sliced(net, SelfAttention(2))
    many, _ = sliced(net, SelfAttention(8))
    rows = torch.cat([torch.arange(start, start + 32) for start in (0, 64, 128)])
    for found in (few, many):
        torch.testing.assert_close(found["inputs.weight"], shared.inputs.weight[rows, :32])
        torch.testing.assert_close(found["inputs.bias"], shared.inputs.bias[rows])
        assert torch.equal(found["content_bias"].flatten(), shared.content_bias.flatten()[:32])
    assert few["content_bias"].shape == (2, 16) and many["content_bias"].shape == (8, 4)


def test_gates_keep_their_halves_and_kernels_their_middle() -> None:
    names = [GatedMlp(2.0, 15).text(), GatedMlp(6.0, 31).text()]
    found, shared = sliced(supernet({**BLOCK, "mixing": names}), GatedMlp(2.0, 15))
    rows = torch.cat((torch.arange(32), 192 + torch.arange(32)))  # of two halves of 192
    assert torch.equal(found["expand.weight"], shared.expand.weight[rows, :32])
    assert torch.equal(found["gate.weight"], shared.gate.weight[:32, :, 8:23])
    assert torch.equal(found["project.weight"], shared.project.weight[:32, :32])


def test_merges_keep_both_branches() -> None:
    small, big = Parallel(4, expansion=2.0, merge_kernel=31), Parallel(4, expansion=8.0)
    names = [small.text(), big.text()]
    found, shared = sliced(supernet({**BLOCK, "mixing": names}), small)
    both = torch.cat((torch.arange(32), 64 + torch.arange(32)))
    assert torch.equal(found["project.weight"], shared.project.weight[:32][:, both])
    assert torch.equal(found["merge.weight"], shared.merge.weight[both])
    assert torch.equal(found["merge.bias"], shared.merge.bias[both])


def test_memories_keep_the_taps_around_the_frame() -> None:
    names = [Memory(5, 5).text(), Memory(10, 10).text()]
    found, shared = sliced(supernet({**BLOCK, "mixing": names}), Memory(5, 5))
    assert torch.equal(found["taps"], shared.taps[:32, :, 5:16])


def test_statistics_are_those_of_the_encoder_on_the_data() -> None:
    choices = {**FEW, "mixing": ["convolution 7", "convolution 15"]}
    net = supernet(choices, dropout=0.0, attention_dropout=0.0)
    genotype = net.draws(random.Random(3), 0)[0]
    batches = [batch(50), batch(60)]
    found = net.recalibrate(genotype, batches)
    encoder = plain(net, genotype).train()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        norm.momentum = None
    for own in batches:
        encoder(*own)
    for name, wanted in encoder.named_buffers():
        torch.testing.assert_close(found[name], wanted)
    x, lengths = batch()
    scored, _ = net.eval()(x, lengths, genotype, found)
    torch.testing.assert_close(scored, encoder.eval()(x, lengths)[0], rtol=0, atol=1e-9)
    fresh, _ = net(x, lengths, genotype)
    assert float((fresh - scored).detach().abs().max()) > 1e-3
    again = net.recalibrate(genotype, batches)
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_a_step_draws_the_biggest_and_the_smallest_of_some_kinds() -> None:
    net, rng = supernet(SMALL), random.Random(5)
    for _ in range(20):
        big, small, other = (genotype.architecture for genotype in net.draws(rng, 1))
        assert big.front.channels == 32 and small.front.channels == 16
        assert other.front.channels in (16, 32)
        for one, two in zip(big.stages, small.stages, strict=True):
            assert (one.width, two.width, one.blocks, two.blocks) == (64, 32, 2, 1)
            kinds = [[module.kind for module in stage.modules] for stage in (one, two)]
            assert kinds[0] == kinds[1] and one.norm == two.norm
    sizes = [sum(w.numel() for w in net.inherit(found).values()) for found in net.draws(rng, 0)]
    assert sizes[0] > sizes[1]


def test_what_cannot_be_shared_is_named() -> None:
    choices = {"schedule": ["1 1 1", "1 2 1"], "front end": ["conv1d 64 channels, 4x"]}
    with pytest.raises(ConfigError) as caught:
        build(BLOCKS, choices, BlocksConfig(checkpointing=True, layers=4))
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    for part in ("choices.schedule", "network.checkpointing", "network.layers: must be null"):
        assert part in text
    with pytest.raises(ConfigError, match=r"choices\.front end"):
        build(BLOCKS, {"schedule": ["1 1 1"]}, BlocksConfig())
