"""Block encoders: documents, sizes, stages at several rates, taps."""

from __future__ import annotations

import copy
import random
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from nas_encoder.errors import ConfigError, GenotypeError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network import build_encoder
from nas_encoder.spaces import get_space
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.front_parts import Conv2dFront, StackFront
from nas_encoder.spaces.blocks.parts import MODULES, Convolution, FeedForward, Memory, SelfAttention

SPACE = get_space("blocks")
CONFORMER = (FeedForward(4, 0.5), SelfAttention(2), Convolution(7), FeedForward(4, 0.5))
FSMN = (Memory(2, 3), FeedForward(2))


def genotype(*stages: Stage, **rest: Any) -> Genotype:
    front = rest.pop("front", StackFront(4, 1))
    return Genotype("test", "blocks", BlockArchitecture(front=front, stages=stages, **rest))


HOURGLASS = genotype(
    Stage(8, 1, 1, FSMN), Stage(12, 2, 2, FSMN), Stage(16, 4, 1, FSMN), Stage(8, 1, 1, FSMN)
)


def document(**changes: Any) -> dict[str, Any]:
    stage = {"width": 8, "modules": [{"kind": "memory"}, {"kind": "feed_forward", "step": 0.5}]}
    base = {"schema": 1, "name": "x", "space": "blocks", "front": {"kind": "conv1d"}}
    return base | {"stages": [stage]} | changes


def test_a_document_is_short_and_complete() -> None:
    found = Genotype.from_dict(document(scale=True))
    assert found.to_dict() == document(
        scale=True,
        stages=[document()["stages"][0] | {"reduction": 1, "blocks": 1}],
        provenance={"kind": "handwritten"},
    )
    (stage,) = found.architecture.stages
    assert stage.modules == (Memory(10, 10, 1, 0.0), FeedForward(4.0, 0.5, "swish"))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"front": {"kind": "conv3d"}}, "front.kind: unknown front end 'conv3d'"),
        ({"front": {"kind": "conv2d", "factor": 3}}, "front.factor: must be 4 or 8"),
        ({"front": {"kind": "conv2d", "width": 3}}, "front.width: unknown key"),
        ({"front": {"kind": "searched"}}, "front.genotype: is missing"),
        ({"front": {"kind": "searched", "genotype": "no_such"}}, "front.genotype: "),
        (
            {"front": {"kind": "searched", "genotype": HOURGLASS.to_dict()}},
            "front.genotype: must be of another space",
        ),
        (
            {"front": {"kind": "searched", "genotype": "asrnet_b", "options": {"layers": 1}}},
            "front.options",
        ),
        ({"positions": "relative"}, "positions: unknown kind of positions 'relative'"),
        ({"stages": []}, "stages: must have 1 to 256 entries"),
        ({"stages": [{"width": 8}]}, "stages[0].modules: is missing"),
        (
            {"stages": [{"width": 9, "modules": [{"kind": "attention", "heads": 2}]}]},
            "stages[0].modules[0].heads: must divide the width 9, got 2",
        ),
        (
            {"stages": [{"width": 8, "modules": [{"kind": "convolution", "kernel": 4}]}]},
            "stages[0].modules[0].kernel: must be odd",
        ),
        (
            {"stages": [{"width": 8, "reduction": 3, "modules": [{"kind": "cgmlp"}]}]},
            "stages[0].reduction: must be 1, 2 or 4",
        ),
        (
            {
                "stages": [
                    {"width": 8, "reduction": 4, "modules": [{"kind": "memory"}]},
                    {"width": 8, "reduction": 2, "modules": [{"kind": "memory"}]},
                ]
            },
            "stages[1].reduction: rises to 1/2, which no earlier stage has",
        ),
        (
            {"stages": [{"width": 8, "blocks": 200, "modules": [{"kind": "memory"}]}] * 2},
            "stages: must have at most 256 blocks, have 400",
        ),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], place: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_dict(document(**change))
    assert any(line.startswith(place) for line in caught.value.problems), caught.value.problems


def test_equal_stages_in_a_row_are_one_architecture() -> None:
    one, two = genotype(Stage(8, 1, 3, FSMN)), genotype(Stage(8, 1, 1, FSMN), Stage(8, 1, 2, FSMN))
    assert one.hash == two.hash != genotype(Stage(8, 1, 2, FSMN)).hash
    torch.manual_seed(0)
    networks = [build_encoder(found, input_size=5).eval() for found in (one, two)]
    networks[1].load_state_dict(networks[0].state_dict())
    x, lengths = torch.randn(1, 30, 5), torch.tensor([30])
    assert torch.equal(networks[0](x, lengths)[0], networks[1](x, lengths)[0])


def test_another_size_keeps_the_proportions() -> None:
    scaled = HOURGLASS.architecture.scaled(128, 15)
    assert [stage.width for stage in scaled.stages] == [64, 96, 128, 64]
    assert [stage.blocks for stage in scaled.stages] == [3, 6, 3, 3]
    with pytest.raises(ConfigError, match=r"layers: must be at least one for each of the 4 stages"):
        build_encoder(HOURGLASS, layers=3)
    network: Any = build_encoder(HOURGLASS, channels=32, layers=4)
    assert network.output_size == 16 and len(network.blocks) == 4


def test_sizes_are_the_genotypes_where_none_are_given() -> None:
    network: Any = build_encoder(genotype(Stage(24, 2, 2, FSMN)))
    assert (network.input_size, network.output_size, network.subsampling_factor) == (80, 24, 8)
    assert isinstance(network.head, torch.nn.Identity)
    assert build_encoder(HOURGLASS, output_size=10)(torch.randn(1, 9, 80), torch.tensor([9]))[
        0
    ].shape == (1, 3, 10)


def test_stages_at_several_rates_follow_the_plain_computation() -> None:
    torch.manual_seed(0)
    network: Any = build_encoder(HOURGLASS, input_size=5).double().eval()
    x = torch.randn(1, 53, 5, dtype=torch.float64)
    y, lengths = network(x, torch.tensor([53]))

    def through(first: int, last: int, z: Tensor) -> Tensor:
        for block in network.blocks[first:last]:
            memory, feed_forward = block.layers
            z = z + memory(z, Frames())
            z = block.final_norm(z + feed_forward(z, Frames()))
        return z

    def down(z: Tensor, transition: Any) -> Tensor:
        weight, bias = transition.reduce.weight, transition.reduce.bias
        padded = F.pad(z, (0, 0, 1, 1))
        rows = [
            (padded[0, 2 * t : 2 * t + 3] * weight[:, 0].T).sum(0) + bias
            for t in range(-(-z.size(1) // 2))
        ]
        return transition.project(torch.stack(rows)[None])

    top = through(0, 1, network.front(x, None)[0])
    half = through(1, 3, down(top, network.transitions["1"]))
    low = through(3, 4, down(half, network.transitions["2"]))
    up = network.transitions["3"].project(low)
    repeated = torch.stack([up[:, t // 4] for t in range(top.size(1))], 1)
    torch.testing.assert_close(y, through(4, 5, repeated + top))
    assert lengths.tolist() == [14]


def test_taps_are_at_the_rate_and_width_of_the_output() -> None:
    assert HOURGLASS.architecture.possible_taps() == (1,)
    message = r"taps\[1\]: must be a block before the last .* \(1\), got 2"
    with pytest.raises(ConfigError, match=message):
        build_encoder(HOURGLASS, taps=(1, 2))
    network: Any = build_encoder(HOURGLASS, 40, taps=(1,), conditioning=True, dropout=0.0)
    x, lengths = torch.randn(2, 40, 40), torch.tensor([40, 22])
    out, _, [(number, tap)] = network.forward_taps(x, lengths, torch.tanh)
    plain, _, _ = network.forward_taps(x, lengths, None)
    assert number == 1 and tap.shape == out.shape == (2, 10, 8)
    assert not torch.equal(out, plain)


@pytest.mark.parametrize("front", [Conv2dFront(4, 4, padded=False), Conv2dFront(8, 4)])
def test_checkpointing_changes_neither_gradients_nor_statistics(front: Conv2dFront) -> None:
    torch.manual_seed(0)
    found = genotype(Stage(8, 1, 2, CONFORMER), Stage(8, 2, 1, CONFORMER), front=front)
    plain: Any = build_encoder(found, 40, dropout=0.0, attention_dropout=0.0)
    again = copy.deepcopy(plain)
    again.config = replace(plain.config, checkpointing=True)
    x, lengths = torch.randn(2, 60, 40), torch.tensor([60, 41])
    for network in (plain, again):
        network.train()(x, lengths)[0].square().sum().backward()
    for (name, one), two in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=name)
    assert all(map(torch.equal, plain.buffers(), again.buffers()))


def test_drop_path_drops_utterances_whole() -> None:
    network: Any = build_encoder(genotype(Stage(8, 1, 1, FSMN, final_norm=False)), 40, dropout=0.0)
    network.set_drop_path(0.5)
    x = torch.randn(1, 20, 40).expand(64, -1, -1)
    y = network.train()(x, torch.full((64,), 20))[0]
    kept = torch.stack([row for row in y.flatten(1)])
    assert 2 <= len({tuple(row.tolist()) for row in kept.round(decimals=4)}) <= 4
    with pytest.raises(ConfigError, match="drop_path: must be from 0 to below 1"):
        network.set_drop_path(1.0)


def test_only_searched_shapes_have_a_vector() -> None:
    with pytest.raises(GenotypeError, match="it has 4 stages, not 3"):
        SPACE.encode(HOURGLASS)
    odd = SPACE.sample(random.Random(0)).architecture
    odd = replace(odd, stages=(replace(odd.stages[0], width=40), *odd.stages[1:]))
    with pytest.raises(GenotypeError, match="stage 1: width '40' is not searched"):
        SPACE.encode(Genotype("x", "blocks", odd))
    SPACE.validate(HOURGLASS)
    assert SPACE.chosen(HOURGLASS.architecture)["mixing"][0] == (0, "memory -2+3")


@pytest.mark.parametrize(
    "sizes",
    [
        {"known": "transformer", "hidden": 256, "blocks": 4},
        {"known": "conformer", "hidden": 256, "blocks": 3},
        {"known": "conformer", "hidden": 256, "blocks": 3, "channels": 16},
        {"known": "branchformer", "mlp_hidden": 256, "blocks": 5},
        {"known": "e_branchformer", "hidden": 256, "mlp_hidden": 256, "blocks": 3},
        {"known": "nemo_conformer", "hidden": 256, "blocks": 3},
        {"known": "fast_conformer", "hidden": 256, "blocks": 3, "factor": 4, "channels": 64},
        {"known": "dfsmn_san", "hidden": 128, "blocks": 6, "attention_after": [6]},
    ],
    ids=str,
)
def test_known_encoders_are_where_a_search_can_begin(sizes: dict[str, Any]) -> None:
    found = load_genotype({**sizes, "width": 64})
    again = SPACE.decode(SPACE.encode(found))
    assert again.hash == found.hash and len(again.architecture.stages) == 3


def test_known_encoders_have_names_and_sizes() -> None:
    assert load_genotype("conformer").architecture.stages[0].blocks == 12
    for wrong, what in (
        ({"known": "conformr"}, r"known: unknown encoder 'conformr' \(did you mean 'conformer'"),
        ({"known": "conformer", "widht": 3}, "widht: unknown size of 'conformer'; known: width"),
        ({"known": "conformer", "width": "x"}, "width: must be a number"),
        ({"known": "conformer", "width": 30}, r"heads: must divide the width 30, got 4"),
        ("conformr", "unknown name 'conformr' .did you mean 'conformer'"),
    ):
        with pytest.raises(GenotypeError, match=what):
            load_genotype(wrong)


def test_the_documented_examples_are_built() -> None:
    text = (Path(__file__).parents[2] / "docs" / "blocks.md").read_text(encoding="utf-8")
    examples = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    first, second = examples
    conf = first["encoder_conf"]
    network: Any = build_encoder(conf.pop("genotype"), **conf)
    assert (network.output_size, len(network.blocks)) == (144, 16)
    assert Genotype.from_dict(second).architecture.factor == 4
    for kind, part in MODULES.items():
        (row,) = re.findall(rf"^\| `{kind}`.*", text, re.M)
        named = {item.name for item in fields(part) if f"`{item.name}`" in row}
        assert kind == "parallel" or named == {item.name for item in fields(part)}, kind
