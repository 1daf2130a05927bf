"""``nas-encoder zoo`` and ``nas-encoder show``: what a person and a machine read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_encoder import build_encoder, list_genotypes, load_genotype
from nas_encoder.cli.main import COMMANDS, main
from nas_encoder.cli.origin import provenance_line
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.spaces import get_space

QUICK = ["--seconds", "0.08"]


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_zoo_lists_every_genotype(capsys: pytest.CaptureFixture[str]) -> None:
    entries = run_json(capsys, "zoo")
    assert [entry["name"] for entry in entries] == list_genotypes()
    for entry in entries:
        genotype = load_genotype(entry["name"])
        assert entry["hash"] == genotype.hash
        assert entry["space"] == genotype.space
        assert entry["provenance"] == genotype.to_dict()["provenance"]
        assert entry["kind"] == genotype.provenance["kind"]


def test_what_is_not_known_of_a_search_is_left_out() -> None:
    # An installed wheel knows no commit.
    found = load_genotype("darts_v2").renamed("mine", kind="search", seed=0, commit=None)
    assert provenance_line(found) == "seed 0"


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_keep_their_line_breaks(command: str) -> None:
    examples = getattr(import_module(COMMANDS[command][0]), "EXAMPLES", "")
    for line in examples.splitlines():
        text = line.strip().partition("  #")[0]
        assert not re.search(r"\S {3,}--", text), text


def test_zoo_calls_reconstructions_by_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("asrnet_a", "asrnet_b"):
        (line,) = [line for line in lines if line.startswith(name)]
        assert "not the published cells" in line
    (line,) = [line for line in lines if line.startswith("darts_v2")]
    assert line.endswith("published")


def test_zoo_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom nas_encoder.cli.main import main\nmain(['zoo'])\n"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "asrnet_b" in done.stdout


# He, Su, Yu 2020, tables 1 to 3.
@pytest.mark.parametrize(
    ("name", "layers", "channels", "millions"),
    [
        ("asrnet_a", 17, 32, 6.6),
        ("asrnet_a", 32, 38, 12.1),
        ("asrnet_b", 17, 24, 6.8),
        ("asrnet_b", 32, 30, 14.7),
        ("asrnet_b", 32, 50, 36.7),
    ],
)
def test_show_gives_the_published_sizes(
    capsys: pytest.CaptureFixture[str], name: str, layers: int, channels: int, millions: float
) -> None:
    sizes = ["--input-size", "40", "--layers", str(layers), "--channels", str(channels)]
    shown = run_json(capsys, "show", name, *sizes, "--classes", "1434", *QUICK)
    assert shown["parameters"]["with_classes"] / 1e6 == pytest.approx(millions, abs=0.1)
    assert shown["genotype"]["provenance"]["kind"] == "reconstruction"


def test_show_agrees_with_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--channels", "4", "--layers", "7", "--input-size", "13", "--stem-stride", "2", "1"]
    shown = run_json(
        capsys,
        "show",
        "darts_v2",
        *words,
        "--classes",
        "9",
        "--seconds",
        "0.5",
        "--output-size",
        "24",
        "--frame-shift",
        "12.5",
    )
    encoder: Any = build_encoder("darts_v2", 13, 4, 7, 24, stem_stride=(2, 1))
    macs = count_macs(encoder, 40, 13)
    assert Genotype.from_dict(shown["genotype"]).hash == shown["hash"]
    assert shown["parameters"]["encoder"] == count_parameters(encoder)
    assert shown["parameters"]["with_classes"] == count_parameters(encoder) + 25 * 9
    assert shown["multiply_adds"]["frames"] == 40
    assert shown["multiply_adds"]["encoder"] == macs
    assert shown["multiply_adds"]["with_classes"] == macs + 5 * 24 * 9
    assert shown["output"] == {
        "size": 24,
        "subsampling_factor": 8,
        "frame_ms": 100.0,
        "frames_per_second": 10.0,
    }
    cells = load_genotype("darts_v2").architecture
    reach = get_space("darts").network.receptive_field(cells, encoder.config)
    assert shown["receptive_field"]["frames"] == reach.frames
    assert shown["receptive_field"]["ms"] == 12.5 * reach.frames
    assert sum(part["parameters"] for part in shown["parts"]) == count_parameters(encoder)
    cells = [part for part in shown["parts"] if "cells" in part]
    assert [(part["first"], part["last"], part["channels"]) for part in cells] == [
        (1, 2, 4),
        (3, 3, 8),
        (4, 4, 8),
        (5, 5, 16),
        (6, 7, 16),
    ]


def test_show_prints_cells_costs_and_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "asrnet_b", "--classes", "1434", *QUICK]) == 0
    text = capsys.readouterr().out
    for expected in (
        "reconstruction (parameter-matched, not the published cells)",
        "  3 = dil_conv_5x5(k-1) + dil_conv_3x3(2)",
        "6.77 M (6,765,362) with 1434 classes",
        "4,270 ms (427 frames: 2,130 ms back, 2,130 ms ahead)",
        "25 Hz, a frame of 512 every 40 ms",
        "cells 7-11, normal",
    ):
        assert expected in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_show_takes_a_file_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_genotype("darts_v2").save(tmp_path / "mine.yaml")
    picture = tmp_path / "cells.svg"
    words = ["--channels", "2", "--layers", "5", *QUICK]
    shown = run_json(capsys, "show", str(tmp_path / "mine.yaml"), *words, "--plot", str(picture))
    assert shown["plot"] == str(picture)
    assert picture.read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["asrnet_c"], "did you mean"),
        (["asrnet_b", "--layers", "0"], "layers: "),
        (["asrnet_b", "--input-size", "3"], "input_size: "),
        (["asrnet_b", "--classes", "0", "--frame-shift", "-1"], "--frame-shift: must be above 0"),
        (["asrnet_b", "--seconds", "nan"], "--seconds: "),
        (["asrnet_b", "--plot", "cells.bmp"], "must end in one of"),
    ],
)
def test_bad_input_gives_a_message_and_status_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["show", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and not captured.out


def test_blocks_are_shown_as_scale_and_build_encoder_have_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = run_json(capsys, "show", "blocks_librispeech", *QUICK)
    assert shown["network"]["input_size"] == 80
    assert shown["parameters"]["encoder"] == count_parameters(build_encoder("blocks_librispeech"))


@pytest.mark.parametrize(
    ("words", "command", "guess"),
    [
        (["show", "asrnet_b", "--chanels", "3"], "show", " 3 (did you mean --channels?)"),
        (["zoo", "add", "a.yaml", "--nane=a"], "zoo add", " (did you mean --name?)"),
        (["doctor", "exp"], "doctor", ""),
    ],
)
def test_an_unknown_option_is_told_with_the_usage_of_its_command(
    capsys: pytest.CaptureFixture[str], words: list[str], command: str, guess: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    told = capsys.readouterr().err
    assert told.startswith(f"usage: nas-encoder {command} [-h]")
    assert told.endswith(f"{words[-1] if not guess else ''}{guess}\n")


@pytest.mark.parametrize("name", ["asrnet_a", "asrnet_b", "darts_v2"])
@pytest.mark.parametrize(("layers", "stride"), [(2, (1, 1)), (5, (2, 1)), (7, (1, 2))])
def test_receptive_field_is_what_a_gradient_reaches(
    name: str, layers: int, stride: tuple[int, int]
) -> None:
    # With positive weights no path cancels out; a maximum would follow one path only.
    document = json.dumps(load_genotype(name).to_dict()).replace("max_pool", "avg_pool")
    genotype = Genotype.from_dict(json.loads(document))
    encoder: Any = build_encoder(genotype, 8, 2, layers, 3, stem_stride=stride).double().eval()
    for parameter in encoder.parameters():
        parameter.data.abs_()
    x = torch.rand(1, 800, 8, dtype=torch.float64, requires_grad=True)
    y, _ = encoder(x, torch.tensor([800]))
    first = 400 // encoder.subsampling_factor
    (gradient,) = torch.autograd.grad(y[0, first].sum(), x)
    seen = gradient[0].abs().sum(-1).nonzero().flatten()
    reach = get_space(genotype.space).network.receptive_field(genotype.architecture, encoder.config)
    own = first * encoder.subsampling_factor
    assert (own - int(seen[0]), int(seen[-1]) - own) == (reach.left, reach.right)
