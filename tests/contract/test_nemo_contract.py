"""NeMo's contract with an encoder, held by both of ours under many options."""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from nemo_options import BINS, BLOCKS, NAS, OPTIONS, encoder_of, run, streamed
from streaming_samples import causal
from torch import Tensor

from nas_encoder import autoload
from nas_encoder.errors import ConfigError, InputError

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.slow,  # the import of NeMo alone
]

every_option = pytest.mark.parametrize("option", OPTIONS)
both = pytest.mark.parametrize("option", ["nas", "dfsmn_san"])


@pytest.fixture(scope="module")
def common() -> ModuleType:
    """The module of NeMo that holds the allow-list, registered by the hook."""
    autoload.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("nemo.collections.asr")
        return importlib.import_module("nemo.core.classes.common")


@contextmanager
def nemo_log() -> Iterator[list[str]]:
    """Collect what NeMo's logger, which does not propagate, writes."""
    import logging

    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.getLogger("nemo_logger"), Handler()
    level = logger.level
    logger.setLevel(logging.WARNING)  # other test files make it quieter
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def build_error(common: ModuleType, option: str, **more: Any) -> str:
    with pytest.raises(Exception) as caught:  # Hydra's, which quotes ours
        encoder_of(common, option, **more)
    assert isinstance(caught.value.__cause__, ConfigError), caught.value
    return str(caught.value.__cause__)


def output_frames(option: str, encoder: Any, length: int) -> int:
    if option == "nas blocks":
        return ((length - 1) // 2 - 1) // 2  # as ESPnet's own conv2d
    return -(-length // int(encoder.subsampling_factor))


@every_option
def test_shapes_lengths_and_types(common: ModuleType, option: str) -> None:
    encoder = encoder_of(common, option).eval()
    least = encoder.network.min_length
    lengths = torch.tensor([41, 23, least])
    y, out_lengths = run(encoder, torch.randn(3, BINS, 48), lengths)
    *expected, frames = (output_frames(option, encoder, n) for n in (41, 23, least, 48))
    assert out_lengths.tolist() == expected
    assert y.shape == (3, 8, frames) and out_lengths.dtype == lengths.dtype
    assert encoder._feat_out == encoder.d_model == 8 and encoder._feat_in == BINS
    types = (encoder.input_types, encoder.output_types)
    needed = [[name for name, kind in each.items() if not kind.optional] for each in types]
    assert needed == [["audio_signal", "length"], ["outputs", "encoded_lengths"]]
    assert type(y.neural_type.elements_type).__name__ == "AcousticEncodedRepresentation"
    with pytest.raises(TypeError, match="All arguments must be passed by kwargs"):
        encoder(torch.randn(1, BINS, 20), torch.tensor([20]))
    with pytest.raises(InputError, match="must have 12 frequency bins"):
        run(encoder, torch.randn(1, BINS + 1, 20), torch.tensor([20]))


@every_option
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_nothing(common: ModuleType, option: str, training: bool) -> None:
    encoder = encoder_of(common, option, dropout=0.0).double().train(training)
    if option.startswith("dfsmn"):
        for module in encoder.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
    lengths = torch.tensor([33, 19])
    x = torch.randn(2, BINS, 33, dtype=torch.float64)
    x[1, :, 19:] = 0
    longer = torch.full((2, BINS, 60), float("nan"), dtype=torch.float64)
    longer[..., :33] = x
    longer[1, :, 19:] = 1e9
    y, out_lengths = run(copy.deepcopy(encoder), x, lengths)
    z, same = run(copy.deepcopy(encoder), longer, lengths)
    assert torch.equal(out_lengths, same)
    for row, length in enumerate(out_lengths.tolist()):
        torch.testing.assert_close(y[row, :, :length], z[row, :, :length], rtol=0, atol=1e-9)
        assert not z[row, :, length:].any()


@pytest.mark.parametrize("option", ["nas", "nas blocks", "dfsmn_san"])
def test_short_and_empty_utterances_are_encoded_as_nemo_does(
    common: ModuleType, option: str
) -> None:
    encoder = encoder_of(common, option).eval()
    lengths = torch.tensor([30, 1, 0, 3])
    x = torch.randn(4, BINS, 30)
    y, out_lengths = run(encoder, x, lengths)
    assert out_lengths.tolist() == [output_frames(option, encoder, 30), 1, 0, 1]
    assert not y[2].any() and not y[1, :, 1:].any()
    other = x.clone()
    other[1, :, 1:] = 7.0
    torch.testing.assert_close(run(encoder, other, lengths)[0], y)
    alone, alone_lengths = run(encoder, x[:1, :, :2], torch.tensor([2]))
    assert alone.shape == (1, 8, 1) and alone_lengths.tolist() == [1]
    torch.testing.assert_close(run(encoder, x[:1], lengths[:1])[0], y[:1], rtol=1e-4, atol=1e-5)


@every_option
def test_gradients_reach_every_parameter(common: ModuleType, option: str) -> None:
    encoder = encoder_of(common, option)
    y, _ = run(encoder, torch.randn(2, BINS, 40), torch.tensor([40, 28]))
    (y * torch.randn_like(y)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@both
def test_freeze_and_unfreeze(common: ModuleType, option: str) -> None:
    encoder = encoder_of(common, option)
    x, lengths = torch.randn(2, BINS, 40), torch.tensor([40, 28])
    weights = encoder.num_weights
    with encoder.as_frozen():
        assert not encoder.training and encoder.num_weights == 0
        before = copy.deepcopy(encoder.state_dict())
        run(encoder, x, lengths)
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, before[name]), name
    assert encoder.training and encoder.num_weights == weights > 0


@every_option
def test_state_names_are_those_of_the_core_network(common: ModuleType, option: str) -> None:
    encoder = encoder_of(common, option)
    core = encoder.network.state_dict()
    assert set(encoder.state_dict()) == {f"network.{name}" for name in core}
    twin = encoder_of(common, option).eval()
    file = io.BytesIO()
    torch.save(encoder.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    x, lengths = torch.randn(2, BINS, 40), torch.tensor([40, 28])
    assert torch.equal(run(twin, x, lengths)[0], run(encoder.eval(), x, lengths)[0])


@both
def test_interctc_registers_what_the_model_asks_for(common: ModuleType, option: str) -> None:
    from nemo.core.classes.mixins import AccessMixin

    encoder = encoder_of(common, option)
    encoder.model_guid = "of this test"
    possible = [number - 1 for number in encoder.network.possible_taps]
    x, lengths = torch.randn(2, BINS, 40), torch.tensor([40, 28])
    layer = possible[0]
    AccessMixin.update_access_cfg({"interctc": {"capture_layers": [layer]}}, "of this test")
    run(encoder, x, lengths)
    assert not AccessMixin.get_module_registry(encoder)  # access is off
    AccessMixin.set_access_enabled(True, "of this test")
    try:
        y, out_lengths = run(encoder, x, lengths)
        (registry,) = AccessMixin.get_module_registry(encoder).values()
        (tap,), (tap_lengths,) = (
            registry[f"interctc/layer_{what}_{layer}"] for what in ("output", "length")
        )
        assert tap.shape == y.shape and torch.equal(tap_lengths, out_lengths)
        assert not tap[1, :, out_lengths[1] :].any()
        encoder.reset_registry()
        AccessMixin.set_access_enabled(True, "of this test")
        AccessMixin.update_access_cfg({"interctc": {"capture_layers": [99]}}, "of this test")
        with pytest.raises(ConfigError, match=f"after cell or block 99 .*possible here: {layer}"):
            run(encoder, x, lengths)
    finally:
        AccessMixin.set_access_enabled(False, "of this test")


@pytest.mark.parametrize(
    "option", ["nas", "nas nasbench_asr", "nas tdnn_chain", "nas blocks", "dfsmn_san"]
)
def test_adapters(common: ModuleType, option: str) -> None:
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    encoder = encoder_of(common, option).eval()
    x, lengths = torch.randn(2, BINS, 40), torch.tensor([40, 28])
    before, _ = run(encoder, x, lengths)
    assert not encoder.is_adapter_available() and encoder.get_enabled_adapters() == []
    config = LinearAdapterConfig(in_features=8, dim=3)
    encoder.add_adapter("accent", config)
    encoder.eval()
    assert config.in_features == 8  # each point has its own width, the user's config stays
    assert encoder.get_enabled_adapters() == ["accent"]
    points = encoder.adapter_points
    parts = getattr(encoder.network, "cells", None) or encoder.network.blocks
    assert len(points) == len(parts) > 1
    assert torch.equal(run(encoder, x, lengths)[0], before)  # NeMo's adapters begin as nothing
    for name, parameter in points.named_parameters():
        if "accent" in name:
            torch.nn.init.normal_(parameter)
    changed, out_lengths = run(encoder, x, lengths)
    assert not torch.allclose(changed, before)
    network: Any = encoder.network
    try:
        network.lookahead()
    except ConfigError:
        assert option not in ("nas", "nas tdnn_chain")
    else:  # streams have them, by steps and by encoding windows again
        streamed(encoder, x, lengths, changed)
    assert not changed[1, :, out_lengths[1] :].any()
    alone, _ = run(encoder, x[1:, :, :28], lengths[1:])
    torch.testing.assert_close(changed[1:, :, : out_lengths[1]], alone, rtol=1e-4, atol=1e-4)
    twin = copy.deepcopy(encoder)
    for parameter in twin.adapter_points.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(run(encoder, x, lengths)[0], changed)  # the copy has points of its own
    assert torch.equal(run(twin, x, lengths)[0], before)
    encoder.set_enabled_adapters(enabled=False)
    assert not encoder.get_enabled_adapters() and torch.equal(run(encoder, x, lengths)[0], before)
    with pytest.raises(ValueError, match="already exists"):
        encoder.add_adapter("accent", config)


def test_a_context_of_several_lookaheads_names_none_of_them(common: ModuleType) -> None:
    """A wide kernel beside the attention sees as far as two of them."""
    module = {"kind": "parallel", "heads": 2, "window": 6, "ahead": 2, "kernel": 15}
    stages = [{"width": 8, "modules": [module | {"merge_kernel": 0}]}]
    genotype = {"schema": 1, "name": "beside", "space": "blocks", "stages": stages}
    genotype["front"] = {"kind": "conv2d", "channels": 3}
    given = {"genotype": genotype, "lookaheads": [2, 0, 9], "dropout": 0.0}
    encoder = encoder_of(common, "nas blocks", **given).eval()
    same, other, further = encoder.att_context_size_all
    assert same == other == encoder.att_context_size != further
    encoder.setup_streaming_params()
    encoder.network.select_lookahead(0)
    encoder.set_default_att_context_size(same)  # stays
    assert encoder.network.selected == 1
    pieces: list[Tensor] = []
    x, size = torch.randn(1, BINS, 60), encoder.streaming_cfg.chunk_size
    caches = encoder.get_initial_cache_state(1)
    whole, _ = run(encoder, x, torch.tensor([60]))
    for start in range(0, 60, size):
        piece = x[:, :, start : start + size]
        y, count, *caches = encoder.cache_aware_stream_step(
            piece, torch.tensor([piece.size(2)]), *caches, start + size >= 60, 0
        )
        pieces.append(y[:, :, : int(count)])
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=1e-4, atol=1e-4)
    encoder.set_default_att_context_size(further)
    with pytest.raises(ConfigError, match=r"is that of several lookaheads, \[2, 0\]; choose one"):
        encoder.set_default_att_context_size(same)
    for odd in (13, "13"):
        with pytest.raises(ConfigError, match=rf"a list of two, .*, got {odd!r}"):
            encoder.set_default_att_context_size(odd)


@pytest.mark.parametrize(
    ("leftovers", "width"),
    [
        ({"jasper": [{"filters": 4}, {"filters": 24}], "activation": "relu"}, 24),
        ({"d_model": 16, "feat_out": -1, "n_layers": 16, "conv_kernel_size": 31}, 16),
        ({"d_model": 16, "feat_out": 20, "self_attention_model": "rel_pos"}, 20),
        ({"some_other_projects_option": 3}, 512),
    ],
)
def test_leftovers_of_another_encoder_warn_once_each(
    common: ModuleType, leftovers: dict[str, Any], width: int
) -> None:
    options = {name: value for name, value in NAS.items() if name != "d_model"}
    from nas_encoder.nemo import NASEncoder

    with nemo_log() as lines:
        encoder = NASEncoder(feat_in=BINS, **{**options, **leftovers})
    assert encoder.d_model == encoder._feat_out == width
    for name in set(leftovers) - {"d_model"}:
        assert sum(f"encoder.{name}: not an option of this encoder" in line for line in lines) == 1
    assert len(lines) == len(set(leftovers) - {"d_model"})


def test_mistakes_are_errors_and_reported_together(common: ModuleType) -> None:
    text = build_error(
        common, "nas", chanels=3, drop_pth=0.1, layers=1, output_size=7, genotype="no_such_one"
    )
    for part in (
        "chanels: unknown option, did you mean 'channels'?",
        "drop_pth: unknown option, did you mean 'drop_path'?",
        "layers: must be",
        "output_size: is called d_model in NeMo",
        "no_such_one",
    ):
        assert part in text
    text = build_error(common, "dfsmn_san", bloks=2, taps=[1], d_model=0)
    assert "did you mean 'blocks'" in text and "model.interctc" in text and "d_model" in text
    assert "output_size" not in text


def test_a_genotypes_own_width_is_written_into_the_config(common: ModuleType) -> None:
    from nas_encoder.nemo import NASEncoder

    assert NASEncoder.portable(BLOCKS)["d_model"] == 8
    assert NASEncoder.portable({**BLOCKS, "channels": 16})["d_model"] == 16
    assert NASEncoder.portable({**BLOCKS, "d_model": 5})["d_model"] == 5
    assert NASEncoder.portable({})["d_model"] == 512


def test_config_becomes_portable(common: ModuleType, tmp_path: Any) -> None:
    from omegaconf import OmegaConf

    path = tmp_path / "mine.yaml"
    genotype = causal("asrnet_a", 1)
    genotype.save(path)
    model = OmegaConf.create(
        {
            "width": 24,
            "encoder": {
                "_target_": "nas_encoder.nemo.NASEncoder",
                "feat_in": BINS,
                "genotype": str(path),
                "channels": 2,
                "layers": 4,
                "jasper": [{"filters": "${width}"}],
            },
        }
    )
    OmegaConf.set_struct(model, True)
    encoder = common.Serialization.from_config_dict(model.encoder)
    path.unlink()
    saved = OmegaConf.to_container(model, resolve=True)
    assert saved["encoder"]["genotype"] == genotype.to_dict()
    bare = OmegaConf.create({"_target_": "nas_encoder.nemo.DFSMNSANEncoder", "blocks": 2})
    built = common.Serialization.from_config_dict(bare)  # with our defaults, which are written down
    assert (bare.feat_in, bare.d_model) == (built._feat_in, built.d_model) == (80, 512)
    assert saved["encoder"]["d_model"] == 24
    again = common.Serialization.from_config_dict(OmegaConf.create(saved).encoder)
    again.load_state_dict(encoder.state_dict())
    assert genotype.name in repr(again) and genotype.hash in repr(again)
    assert again.network.genotype == genotype
    assert again.network.lookahead() == encoder.network.lookahead()


def test_signature_names_our_options(common: ModuleType) -> None:
    import inspect

    from nas_encoder import nemo

    parameters = inspect.signature(nemo.NASEncoder).parameters
    assert {"feat_in", "d_model", "genotype", "channels", "layers"} <= set(parameters)
    assert not {"input_size", "output_size", "taps", "conditioning"} & set(parameters)
    assert {"DFSMNSANEncoder", "NASEncoder"} <= set(dir(nemo))
