"""The chain space: documents, pictures, costs and the network built from them."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_encoder import Genotype, build_encoder
from nas_encoder.cli.main import main
from nas_encoder.errors import ConfigError, GenotypeError, InputError, UtteranceTooShortError
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces import get_space
from nas_encoder.spaces.picture import architecture_lines, save_picture
from nas_encoder.spaces.tdnn_chain.network import ChainEncoder, receptive_field, tdnn_shape
from nas_encoder.spaces.tdnn_chain.space import ChainArchitecture, ChainConfig

BLOCKS = ["tdnn_c1_d1", "tdnn_c2_d2", "tdnn_c1_d2", "tdnn_c2_d1", "tdnn_c1_d1", "tdnn_c2_d2"]


def document(**changes: Any) -> dict[str, Any]:
    return {"schema": 1, "name": "chain", "space": "tdnn_chain", "blocks": BLOCKS, **changes}


def genotype() -> Genotype:
    return Genotype.from_dict(document())


# -- the space --------------------------------------------------------------------------------


def test_the_space_has_4096_members_and_lists_each_once() -> None:
    space: Any = get_space("tdnn_chain")
    assert space.size == 4**6 == 4096
    members = list(space.enumerate())
    assert len({member.hash for member in members}) == space.size
    shapes = [tdnn_shape(op) for op in space.operations]
    assert shapes == list(itertools.product((1, 2), (1, 2)))
    for member in members[:: 4096 // 7]:
        space.validate(member)
        assert Genotype.from_dict(member.to_dict()).hash == member.hash


def test_the_hash_is_of_the_blocks_alone() -> None:
    first = genotype()
    assert Genotype.from_dict(document(name="other")).hash == first.hash
    for place in range(6):
        blocks = list(BLOCKS)
        blocks[place] = "tdnn_c1_d1" if BLOCKS[place] != "tdnn_c1_d1" else "tdnn_c2_d1"
        assert Genotype.from_dict(document(blocks=blocks)).hash != first.hash


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"blocks": None}, ["blocks: must be a list"]),
        ({"blocks": []}, ["blocks: must have 1 to 64 entries"]),
        (
            {"blocks": ["tdnn_c1_d3", 5], "normal": {}},
            ["normal: unknown key", "blocks[0]: unknown operation", "blocks[1]: unknown operation"],
        ),
    ],
)
def test_wrong_documents(changes: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_dict(document(**changes))
    assert len(caught.value.problems) == len(problems), caught.value.problems
    for found, text in zip(caught.value.problems, problems, strict=True):
        assert found.startswith(text)


def test_a_chain_of_another_length_is_a_genotype_but_no_member() -> None:
    other = Genotype.from_dict(document(blocks=BLOCKS[:4]))
    with pytest.raises(GenotypeError, match="blocks: must be 6 in this space, are 4"):
        get_space("tdnn_chain").validate(other)
    with pytest.raises(GenotypeError, match="must be a chain of blocks"):
        get_space("tdnn_chain").validate(Genotype("x", "tdnn_chain", object()))


# -- shown ------------------------------------------------------------------------------------


def test_as_text_and_as_a_picture(tmp_path: Path) -> None:
    assert architecture_lines(genotype()) == [
        "chain",
        *(f"  {number} = {op}" for number, op in enumerate(BLOCKS, 1)),
    ]
    save_picture(genotype(), tmp_path / "chain.svg")
    text = (tmp_path / "chain.svg").read_text(encoding="utf-8")
    # Text is drawn as outlines; its glyphs' groups name what they spell.
    for number, op in enumerate(BLOCKS, 1):
        assert f"<!-- {number}: {op} -->" in text


def test_the_command_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genotype().save(tmp_path / "chain.yaml")
    command = ["show", str(tmp_path / "chain.yaml"), "--channels", "32", "--output-size", "32"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "2 = tdnn_c2_d2" in text and "network of 6 blocks, 32 channels" in text
    assert "33.3333 Hz, a frame of 32 every 30 ms" in text
    assert main([*command, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["genotype"]["blocks"] == BLOCKS
    assert shown["output"]["subsampling_factor"] == 3
    assert shown["parameters"]["encoder"] == count_parameters(
        build_encoder(genotype(), channels=32, output_size=32)
    )


# -- the network ------------------------------------------------------------------------------


def test_the_parameters_of_the_paper_by_hand() -> None:
    """Width 640 on 120 features: kernels of 3 and 5, biases, layer norms, a layer of stride 3."""
    encoder = build_encoder(genotype(), 40, channels=640, output_size=640)
    kernels = [2 * tdnn_shape(op)[0] + 1 for op in BLOCKS]
    expected = 120 * 640 * kernels[0] + sum(640 * 640 * k for k in [*kernels[1:], 3])
    expected += 7 * 3 * 640  # bias, scale, shift
    assert count_parameters(encoder) == expected
    assert (encoder.output_size, encoder.subsampling_factor) == (640, 3)


def test_where_the_frame_rate_falls() -> None:
    """After the third block, as position 3 of the public code has it."""
    encoder = build_encoder(genotype(), 8, channels=4, output_size=4)
    frames = {}
    for name, module in encoder.named_modules():
        if name.count(".") == 1 or name == "subsample":
            module.register_forward_hook(
                lambda _, __, y, name=name: frames.__setitem__(name, y.size(1))
            )
    encoder(torch.randn(1, 31, 8), torch.tensor([31]))
    by_block = {name: frames[name] for name in frames if "conv" not in name and "norm" not in name}
    assert list(by_block) == [
        "blocks.0", "blocks.1", "blocks.2", "subsample", "blocks.3", "blocks.4", "blocks.5",
    ]  # fmt: skip
    assert list(by_block.values()) == [31, 31, 31, 11, 11, 11, 11]


def test_one_layer_by_hand() -> None:
    """Convolution over t-2, t, t+2, ReLU, then layer norm over the features."""
    encoder = build_encoder(
        Genotype.from_dict(document(blocks=["tdnn_c1_d2"])), 2, channels=3, output_size=3,
        deltas=False,
    ).double()  # fmt: skip
    layer = encoder.blocks[0]
    nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
    nn.init.uniform_(layer.norm.bias, -0.5, 0.5)
    x = torch.randn(7, 2, dtype=torch.float64)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    wide = torch.cat([zero, x, zero])
    rows = []
    for t in range(7):
        y = layer.conv.bias + sum(layer.conv.weight[:, :, k] @ wide[t + 2 * k] for k in range(3))
        y = y.clamp(min=0)
        y = (y - y.mean()) / (y.var(unbiased=False) + 1e-5).sqrt()
        rows.append(y * layer.norm.weight + layer.norm.bias)
    torch.testing.assert_close(layer(x[None], None)[0], torch.stack(rows))


@pytest.mark.parametrize("deltas", [True, False])
def test_the_receptive_field_is_what_a_gradient_reaches(deltas: bool) -> None:
    rng = random.Random(0)
    for _ in range(6):
        drawn = get_space("tdnn_chain").sample(rng)
        encoder: Any = build_encoder(drawn, 3, channels=48, output_size=48, deltas=deltas).double()
        claimed = receptive_field(drawn.architecture, encoder.config)
        x = torch.randn(1, 300, 3, dtype=torch.float64, requires_grad=True)
        output, _ = encoder(x, torch.tensor([300]))
        # Not a sum: after a layer norm that is a constant.
        (output[0, 50] * torch.randn(48, dtype=torch.float64)).sum().backward()
        reached = x.grad.abs().sum((0, 2)).nonzero()[:, 0].tolist()
        assert (150 - reached[0], reached[-1] - 150) == (claimed.left, claimed.right)


def test_dropout_acts_in_training_alone() -> None:
    encoder = build_encoder(genotype(), 8, channels=16, output_size=16, dropout=0.5)
    x, lengths = torch.randn(1, 30, 8), torch.tensor([30])
    encoder.eval()
    assert torch.equal(encoder(x, lengths)[0], encoder(x, lengths)[0])
    encoder.train()
    share = float((encoder(x, lengths)[0] == 0).float().mean())
    assert 0.3 < share < 0.7


def test_taps_and_conditioning() -> None:
    options = {"channels": 6, "output_size": 5, "taps": [4, 5]}
    encoder: Any = build_encoder(genotype(), 8, conditioning=True, **options).double()
    assert encoder.possible_taps == (4, 5)
    x, lengths = torch.randn(2, 20, 8, dtype=torch.float64), torch.tensor([20, 13])
    y, out, taps = encoder.forward_taps(x, lengths)
    assert [number for number, _ in taps] == [4, 5]
    assert all(tap.shape == y.shape == (2, 7, 5) for _, tap in taps)
    assert all((tap[1, 5:] == 0).all() for _, tap in [*taps, (0, y)]) and out.tolist() == [7, 5]
    changed, _, _ = encoder.forward_taps(x, lengths, torch.tanh)
    assert not torch.allclose(changed, y) and (changed[1, 5:] == 0).all()
    assert [n for n, _ in encoder.forward_taps(x, lengths, taps=[5])[2]] == [5]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"taps": [3]}, "taps[0]: must be in 4..5"),
        ({"taps": [5, 5]}, "taps: lists a block twice"),
        ({"conditioning": True}, "conditioning: needs at least one block"),
        ({"stem_stride": [1, 2]}, "stem_stride: a chain network has no such part"),
        ({"drop_path": 0.1}, "drop_path: a chain network has no such part"),
        ({"checkpointing": True}, "checkpointing: a chain network has no such part"),
        ({"dropout": 1.0}, "dropout: must be a number"),
        ({"width": 3}, "width: unknown key"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_encoder(genotype(), 8, channels=4, output_size=4, **options)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(problem)


def test_options_of_cell_networks_that_are_off_are_taken() -> None:
    """A training configuration that names every option with its default works for a chain."""
    encoder = build_encoder(
        genotype(), 8, channels=4, output_size=4, layers=17, stem_stride=[1, 1], hidden_sizes=[],
        drop_path=0.0, checkpointing=False, taps=(),
    )  # fmt: skip
    assert isinstance(encoder, ChainEncoder)


def test_a_genotype_without_a_chain_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no chain of blocks"):
        ChainEncoder(Genotype("x", "darts", object()), ChainConfig())


def test_inputs_are_checked() -> None:
    encoder = build_encoder(genotype(), 8, channels=4, output_size=4)
    with pytest.raises(UtteranceTooShortError):
        encoder(torch.randn(1, 2, 8), torch.tensor([2]))
    with pytest.raises(InputError, match="8 frequency bins"):
        encoder(torch.randn(1, 9, 7), torch.tensor([9]))


def test_chains_of_few_blocks_have_the_layer_of_stride_3_too() -> None:
    short = Genotype("short", "tdnn_chain", ChainArchitecture(("tdnn_c1_d1",)))
    encoder = build_encoder(short, 8, channels=4, output_size=4)
    y, lengths = encoder(torch.randn(2, 10, 8), torch.tensor([10, 4]))
    assert y.shape == (2, 4, 4) and lengths.tolist() == [4, 2]
