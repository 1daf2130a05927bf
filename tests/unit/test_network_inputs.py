"""What an encoder says about options and tensors that it cannot take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from encoder_samples import document, one_edge

from nas_encoder import build_encoder
from nas_encoder.errors import (
    ConfigError,
    GenotypeError,
    InputError,
    NasEncoderError,
    UtteranceTooShortError,
)
from nas_encoder.spaces.cells.config import CellConfig


@pytest.fixture(scope="module")
def encoder() -> torch.nn.Module:
    return build_encoder("asrnet_b", input_size=6, channels=2, layers=3, output_size=4).eval()


def features(batch: int = 2, frames: int = 12, bins: int = 6) -> torch.Tensor:
    return torch.zeros(batch, frames, bins)


@pytest.mark.parametrize(
    ("x", "lengths", "message"),
    [
        (features()[0], torch.tensor([12]), r"must be float \(B, T, F\), got torch.float32 \(12"),
        (features().long(), torch.tensor([12, 9]), "must be float"),
        (features(bins=7), torch.tensor([12, 9]), r"6 frequency bins \(input_size\), got 7"),
        (features(), torch.tensor([12, 13]), "at most the number of frames 12, got 13 for utt"),
        (features(), torch.tensor([12]), r"integers of shape \(2,\)"),
        (features(), torch.tensor([[12, 9]]), r"integers of shape \(2,\)"),
        (features(), torch.tensor([12.0, 9.0]), "integers of shape"),
        (features(), torch.tensor([True, True]), "integers of shape"),
        (features(batch=0), torch.zeros(0, dtype=torch.long), "at least one utterance"),
    ],
)
def test_wrong_shapes_and_types(
    encoder: torch.nn.Module, x: torch.Tensor, lengths: torch.Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        encoder(x, lengths)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_named(encoder: torch.nn.Module, value: float) -> None:
    x = features()
    x[1, 7, 3] = value
    with pytest.raises(InputError, match="utterance 1 of the batch are NaN or infinite, first in"):
        encoder(x, torch.tensor([12, 9]))
    encoder(x, torch.tensor([12, 7]))  # there it is padding


def test_values_whose_sum_overflows_are_finite_all_the_same(encoder: torch.nn.Module) -> None:
    encoder(torch.full((2, 12, 6), 3e38), torch.tensor([12, 9]))


@pytest.mark.parametrize("length", [3, 1, 0, -5])
def test_an_utterance_shorter_than_one_output_frame(encoder: torch.nn.Module, length: int) -> None:
    with pytest.raises(UtteranceTooShortError, match=f"utterance 1 .* has {length} frames") as got:
        encoder(features(), torch.tensor([12, length]))
    assert (got.value.actual, got.value.limit) == (length, encoder.min_length)


@pytest.mark.parametrize(("stride", "factor"), [((1, 1), 4), ((2, 1), 8), ((1, 2), 4)])
def test_the_fewest_frames_give_one_output_frame(stride: tuple[int, int], factor: int) -> None:
    module = build_encoder("asrnet_b", 4, 2, 3, 5, stem_stride=stride)
    assert module.subsampling_factor == module.min_length == factor
    for training in (True, False):
        y, lengths = module.train(training)(torch.randn(1, factor, 4), torch.tensor([factor]))
        assert y.shape == (1, 1, 5)
        assert lengths.tolist() == [1]
        assert torch.isfinite(y).all()
    with pytest.raises(UtteranceTooShortError):
        module(torch.randn(1, factor - 1, 4), torch.tensor([factor - 1]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16])
def test_lengths_of_any_integer_type(encoder: torch.nn.Module, dtype: torch.dtype) -> None:
    x = torch.randn(2, 12, 6)
    y, out = encoder.eval()(x, torch.tensor([12, 9], dtype=dtype))
    expected, _ = encoder(x, torch.tensor([12, 9]))
    assert torch.equal(y, expected)
    assert out.tolist() == [3, 3]
    assert not out.is_floating_point()


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"input_size": 3}, "input_size", "must be in 4..4096, got 3"),
        ({"channels": 0}, "channels", "must be in 1..4096"),
        ({"channels": "8"}, "channels", "must be an integer, got str '8'"),
        ({"layers": 1}, "layers", "must be in 2..1024, got 1"),
        ({"layers": True}, "layers", "must be an integer, got bool True"),
        ({"output_size": 10**30}, "output_size", "must be in 1..65536"),
        ({"stem_stride": (1,)}, "stem_stride", "must have 2 entries"),
        ({"stem_stride": 2}, "stem_stride", "must be a list"),
        ({"stem_stride": (3, 1)}, "stem_stride (time)", "must be in 1..2, got 3"),
        ({"stem_stride": (1, 0)}, "stem_stride (frequency)", "must be in 1..2, got 0"),
        ({"hidden_sizes": (8, 0)}, "hidden_sizes[1]", "must be in 1..65536"),
        ({"dropout": 1.0}, "dropout", "from 0 to below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout", "got nan"),
        ({"drop_path": -0.1}, "drop_path", "from 0 to below 1"),
        ({"deltas": 1}, "deltas", "must be true or false, got 1"),
        ({"taps": (1,)}, "taps[0]", "have the output's frame rate"),
        ({"taps": (17,)}, "taps[0]", "must be in 12..16, got 17"),
        ({"taps": (13, 13)}, "taps", "lists a cell twice"),
        ({"conditioning": True}, "conditioning", "needs at least one cell in 'taps'"),
        ({"chanels": 8}, "chanels", "did you mean 'channels'?"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ConfigError) as got:
        build_encoder("asrnet_b", **options)
    assert len(got.value.problems) == 1
    assert got.value.problems[0].startswith(f"{field}: ")
    assert message in got.value.problems[0]


def test_all_wrong_options_are_reported_together() -> None:
    with pytest.raises(ConfigError) as got:
        build_encoder("asrnet_b", input_size=1, channels=-1, dropout=2, chanels=8)
    fields = {problem.split(":")[0] for problem in got.value.problems}
    assert fields == {"input_size", "channels", "dropout", "chanels"}
    with pytest.raises(ConfigError, match="must be a mapping, got list"):
        CellConfig.from_dict([])  # type: ignore[arg-type]


def test_options_from_yaml_have_lists() -> None:
    config = CellConfig.from_dict({"stem_stride": [1, 2], "hidden_sizes": [8], "taps": [14]})
    assert config == CellConfig(stem_stride=(1, 2), hidden_sizes=(8,), taps=(14,))
    assert config.problems() == []


def test_a_tap_that_nothing_reads_cannot_condition_anything() -> None:
    genotype = one_edge("sep_conv_3x3", 0)  # cells 2, 4, 6, 8 are read, of 8
    build_encoder(genotype, layers=8, taps=(7,))
    build_encoder(genotype, layers=8, taps=(6,), conditioning=True)
    with pytest.raises(ConfigError, match=r"taps\[0\]: no later cell .* reads cell 7"):
        build_encoder(genotype, layers=8, taps=(7,), conditioning=True)


@pytest.mark.parametrize("source", ["no_such_net", {"space": "darts"}, None, 3, "./none.yaml"])
def test_a_genotype_that_cannot_be_loaded(source: Any) -> None:
    with pytest.raises(GenotypeError):
        build_encoder(source)


def test_drop_path_can_be_scheduled(encoder: torch.nn.Module) -> None:
    encoder.set_drop_path(0.2)  # type: ignore[operator]
    assert encoder.drop_path == 0.2
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(NasEncoderError, match="drop_path"):
            encoder.set_drop_path(wrong)  # type: ignore[operator]
    encoder.set_drop_path(0.0)  # type: ignore[operator]


def test_an_inline_document_builds_the_same_network_as_its_name() -> None:
    from nas_encoder import load_genotype

    options = {"input_size": 6, "channels": 2, "layers": 3, "output_size": 4}
    torch.manual_seed(0)
    by_name = build_encoder("asrnet_b", **options)
    torch.manual_seed(0)
    inline = build_encoder(load_genotype("asrnet_b").to_dict(), **options)
    torch.testing.assert_close(by_name.state_dict(), inline.state_dict(), rtol=0, atol=0)
    with pytest.raises(GenotypeError, match="concat"):
        build_encoder(document({"nodes": []}))
