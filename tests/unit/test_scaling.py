"""``nas-encoder scale`` and its rule: 64 residual modules, one factor for all widths."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nas_encoder import Genotype, build_encoder, load_genotype
from nas_encoder.cli.main import main
from nas_encoder.cli.origin import provenance_line
from nas_encoder.cli.scale import parse_count
from nas_encoder.errors import ConfigError
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces import get_space
from nas_encoder.spaces.blocks.scaling import depth_of

SMALL = {"width": 48, "hidden": 192, "blocks": 3}
BLOCKS = get_space("blocks")


def scaled(genotype: Genotype, parameters: int, blocks: int | None = None) -> Genotype:
    return BLOCKS.scaling.scale(genotype, parameters, BLOCKS.options(), blocks)[0]


@pytest.mark.slow
def test_a_small_one_becomes_what_its_authors_made_of_it() -> None:
    """Conformer-S and FastConformer-S: 16 blocks of width 176; NeMo's front end of 256 stays."""
    small = load_genotype({"known": "fast_conformer", **SMALL})
    large = load_genotype("fast_conformer")
    assert scaled(small, 12_600_000).hash == large.hash
    medium = load_genotype({"known": "fast_conformer", "width": 256, "hidden": 1024, "blocks": 16})
    assert scaled(small, 26_130_000).hash == medium.hash


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hourglass", 30_000_000),
        ("e_branchformer", 13_000_000),
        ("efficient_conformer", 13_000_000),
    ],
)
def test_sizes_fit_and_the_rest_stays(name: str, parameters: int) -> None:
    small = load_genotype(name)
    large, sizes = BLOCKS.scaling.scale(small, parameters, BLOCKS.options())
    found, before = large.architecture, small.architecture
    count = count_parameters(build_encoder(large, input_size=80))
    assert count == pytest.approx(parameters, rel=0.05)
    assert large.provenance["scaled"] == {
        "from": small.hash,
        "parameters": count,
        "width": sizes["channels"],
        "blocks": sizes["layers"],
    }
    # The options do the same to the old genotype.
    assert build_encoder(small, **sizes).architecture == found
    assert found.front == before.front
    kept = [(stage.reduction, stage.modules, stage.norm) for stage in before.stages]
    assert [(stage.reduction, stage.modules, stage.norm) for stage in found.stages] == kept
    for stage, old in zip(found.stages, before.stages, strict=True):
        heads = [m.heads for m in stage.modules if hasattr(m, "heads")]
        step = 2 * max(heads, default=4)
        assert stage.width % step == 0
        factor = sizes["channels"] / max(own.width for own in before.stages)
        assert abs(stage.width - factor * old.width) <= step / 2
    modules = sum(
        stage.blocks * sum(2 if hasattr(m, "merge_kernel") else 1 for m in stage.modules)
        for stage in found.stages
    )
    assert abs(modules - 64) <= 2


def test_depth_is_at_least_a_block_a_stage_and_can_be_given() -> None:
    known = load_genotype("hourglass")
    assert depth_of(known.architecture) == 32
    assert sum(s.blocks for s in scaled(known, 1_000_000, 7).architecture.stages) == 7
    with pytest.raises(ConfigError, match="at least one for each of the 3 stages, got 2"):
        scaled(known, 1_000_000, 2)
    with pytest.raises(ConfigError, match="with 32 blocks comes within 10%: the nearest, 8, gives"):
        scaled(known, 2_000)


def test_the_command_prints_a_genotype_that_says_what_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scale", "hourglass", "--parameters", "1M", "--name", "big"]) == 0
    printed = capsys.readouterr()
    found = Genotype.from_dict(yaml.safe_load(printed.out))
    count = count_parameters(build_encoder(found, input_size=80))
    assert f"big: {count / 1e6:.2f} M parameters with 80 features" in printed.err
    assert "channels: " in printed.err
    assert f"scaled to {count / 1e6:.1f} M parameters" in provenance_line(found)
    file = tmp_path / "found.yaml"
    words = ["--parameters", "500k", "--blocks", "7", "--input-size", "40", "--output", str(file)]
    assert main(["scale", "hourglass", *words]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    small = load_genotype(file)
    assert small.name == "hourglass_500k"
    count = count_parameters(build_encoder(small, input_size=40))
    assert count == small.provenance["scaled"]["parameters"] == pytest.approx(500_000, rel=0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["asrnet_b", "--parameters", "13M"], "set the options 'channels' and 'layers'"),
        (["hourglass", "--parameters", "13G"], "must be a number from 1 to 10000M"),
        (["hourglass", "--parameters", "0"], "must be a number from 1 to 10000M"),
        (["hourglass", "--parameters", "1M", "--name", "a b"], "name: must be 1 to 128 letters"),
        (["hourglass", "--parameters", "1M", "--input-size", "0"], "input_size: "),
    ],
)
def test_bad_input_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["scale", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out


def test_numbers() -> None:
    found = [parse_count(text) for text in ("13M", "0.4M", "400k", "400000")]
    assert found == [13_000_000, 400_000, 400_000, 400_000]
