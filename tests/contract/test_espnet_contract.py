"""ESPnet's contract with an encoder, held by both of ours under many options."""

from __future__ import annotations

import argparse
import importlib
import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from nas_encoder import autoload, load_genotype
from nas_encoder.errors import ConfigError, InputError, RegistryError

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,  # the import of ESPnet alone
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
]

BINS = 12
TOKENS = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
NAS = {"genotype": "darts_v2", "channels": 2, "layers": 5, "output_size": 8}
SAN = {"blocks": 3, "attention_layers": 1, "hidden_size": 12, "output_size": 8}

# An inline genotype: no chain is in the zoo.
CHAIN = {
    "schema": 1,
    "name": "chain",
    "space": "tdnn_chain",
    "blocks": [f"tdnn_c{context}_d{dilation}" for context in (1, 2) for dilation in (1, 2, 1)],
}

# What must hold under every one of these; the first of each encoder is the plain one.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "nas": ("nas", NAS),
    "nas asrnet_a": ("nas", NAS | {"genotype": "asrnet_a", "stem_stride": [1, 2]}),
    "nas asrnet_b": ("nas", NAS | {"genotype": "asrnet_b", "layers": 3}),
    "nas stride 2, 2": ("nas", NAS | {"stem_stride": [2, 2], "deltas": False}),
    "nas wide head": ("nas", NAS | {"hidden_sizes": [6, 7], "dropout": 0.2, "drop_path": 0.2}),
    "nas checkpointing": ("nas", NAS | {"checkpointing": True}),
    "nas nasbench_asr": (
        "nas",
        {
            "genotype": "nasbench_asr_example",
            "channels": 6,
            "block_cells": [1, 1, 1, 2],
            "lstm_size": 5,
            "output_size": 8,
            "interctc_layer_idx": [4],
            "interctc_use_conditioning": True,
        },
    ),
    "nas tdnn_chain": (
        "nas",
        {
            "genotype": CHAIN,
            "channels": 6,
            "output_size": 8,
            "interctc_layer_idx": [4, 5],
            "interctc_use_conditioning": True,
        },
    ),
    "nas interctc": ("nas", NAS | {"layers": 6, "interctc_layer_idx": [5]}),
    "nas conditioned": (
        "nas",
        NAS | {"layers": 8, "interctc_layer_idx": [6, 7], "interctc_use_conditioning": True},
    ),
    "dfsmn_san": ("dfsmn_san", SAN),
    "dfsmn_san asymmetric": (
        "dfsmn_san",
        SAN | {"look_back": 3, "look_ahead": [1, 0, 2], "look_back_stride": 2, "context": 0},
    ),
    "dfsmn_san memory": ("dfsmn_san", SAN | {"persistent_memory": 4, "subsampling_factor": 6}),
    "dfsmn_san checkpointing": ("dfsmn_san", SAN | {"checkpointing": True}),
    "dfsmn_san interctc": ("dfsmn_san", SAN | {"interctc_layer_idx": [1, 2]}),
    "dfsmn_san conditioned": (
        "dfsmn_san",
        SAN | {"interctc_layer_idx": [2], "interctc_use_conditioning": True},
    ),
}
every_option = pytest.mark.parametrize("option", OPTIONS)
both = pytest.mark.parametrize("option", ["nas", "dfsmn_san"])


@pytest.fixture(scope="module")
def asr() -> ModuleType:
    """ESPnet's ASR task, registered by the hook."""
    autoload.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("espnet2.tasks.asr")


def encoder_of(asr: ModuleType, option: str, **more: Any) -> Any:
    name, conf = OPTIONS[option]
    encoder = asr.encoder_choices.get_class(name)(input_size=BINS, **{**conf, **more})
    if encoder.interctc_use_conditioning:
        encoder.conditioning_layer = torch.nn.Linear(len(TOKENS), encoder.output_size())
    return encoder


def arguments(asr: ModuleType, option: str, folder: str = "exp") -> argparse.Namespace:
    name, conf = OPTIONS[option]
    args: argparse.Namespace = asr.ASRTask.get_parser().parse_args(["--output_dir", folder])
    args.token_list = TOKENS
    args.input_size, args.frontend, args.specaug, args.normalize = BINS, None, None, None
    args.decoder, args.model_conf = None, {"ctc_weight": 1.0}
    if "interctc_layer_idx" in conf:
        args.model_conf["interctc_weight"] = 0.4
    args.encoder, args.encoder_conf = name, dict(conf)
    return args


def ctc_module() -> Any:
    from espnet2.asr.ctc import CTC

    return CTC(odim=len(TOKENS), encoder_output_size=8)


def outputs(encoder: Any, x: Tensor, lengths: Tensor, ctc: Any) -> tuple[list[Tensor], Tensor]:
    """Return the final and all intermediate outputs, and the lengths."""
    if encoder.interctc_use_conditioning:
        y, out_lengths, state = encoder(x, lengths, ctc=ctc)
    else:
        y, out_lengths, state = encoder(x, lengths)
    assert state is None
    if not encoder.interctc_layer_idx:
        assert isinstance(y, Tensor)
        return [y], out_lengths
    y, taps = y
    assert [layer for layer, _ in taps] == encoder.interctc_layer_idx
    return [y, *(tap for _, tap in taps)], out_lengths


@every_option
def test_shapes_and_lengths(asr: ModuleType, option: str) -> None:
    encoder = encoder_of(asr, option).eval()
    factor = encoder.network.subsampling_factor
    lengths = torch.tensor([41, 23, factor])
    # More frames than the longest utterance, as data-parallel slices of a batch have.
    found, out_lengths = outputs(encoder, torch.randn(3, 50, BINS), lengths, ctc_module())
    assert out_lengths.tolist() == [-(-length // factor) for length in lengths.tolist()]
    for y in found:
        assert y.shape == (3, int(out_lengths.max()), encoder.output_size())
        assert torch.isfinite(y).all()


@every_option
def test_padding_changes_nothing(asr: ModuleType, option: str) -> None:
    encoder = encoder_of(asr, option).double().eval()
    ctc = ctc_module().double()
    lengths = torch.tensor([37, 52, 24], dtype=torch.int32)
    x = torch.randn(3, 52, BINS, dtype=torch.float64)
    for index, length in enumerate(lengths.tolist()):
        x[index, length:] = 1e4
    batch, out_lengths = outputs(encoder, x, lengths, ctc)
    for index, length in enumerate(lengths.tolist()):
        alone, (frames,) = outputs(
            encoder, x[index : index + 1, :length], lengths[index : index + 1], ctc
        )
        assert frames == out_lengths[index]
        for mine, together in zip(alone, batch, strict=True):
            torch.testing.assert_close(mine[0], together[index, :frames], atol=1e-9, rtol=0)


@every_option
def test_every_parameter_learns_in_the_real_model(asr: ModuleType, option: str) -> None:
    """What distributed training with ``find_unused_parameters=False`` needs."""
    args = arguments(asr, option)
    model = asr.ASRTask.build_model(args).train()
    text = torch.tensor([[2, 3, 2], [3, 2, -1]])
    loss, statistics, _ = model(
        torch.randn(2, 60, BINS), torch.tensor([60, 44]), text, torch.tensor([3, 2])
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    layers = args.encoder_conf.get("interctc_layer_idx", [])
    assert {f"loss_interctc_layer{layer}" for layer in layers} <= set(statistics)
    conditioning = args.encoder_conf.get("interctc_use_conditioning", False)
    assert (model.encoder.conditioning_layer is not None) == conditioning


@both
def test_conditioning_feeds_the_posteriors_back(asr: ModuleType, option: str) -> None:
    encoder = encoder_of(asr, f"{option} conditioned").eval()
    x, lengths, ctc = torch.randn(1, 40, BINS), torch.tensor([40]), ctc_module()
    (final, *taps), _ = outputs(encoder, x, lengths, ctc)
    with torch.no_grad():
        encoder.conditioning_layer.weight.mul_(5).add_(1)
    (moved, *moved_taps), _ = outputs(encoder, x, lengths, ctc)
    assert not torch.allclose(final, moved)
    torch.testing.assert_close(taps[0], moved_taps[0])  # before the first feedback


@both
def test_conditioning_without_ctc_is_an_error(asr: ModuleType, option: str) -> None:
    encoder = encoder_of(asr, f"{option} conditioned")
    with pytest.raises(InputError, match="interctc_use_conditioning.*no CTC module"):
        encoder(torch.randn(1, 40, BINS), torch.tensor([40]))


@every_option
def test_too_short_is_the_error_that_asr_inference_catches(asr: ModuleType, option: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inference = importlib.import_module("espnet2.bin.asr_inference")
    encoder = encoder_of(asr, option).eval()
    limit = encoder.network.min_length
    with pytest.raises(inference.TooShortUttError) as caught:
        encoder(torch.randn(1, limit - 1, BINS), torch.tensor([limit - 1]), ctc=ctc_module())
    assert (caught.value.actual_size, caught.value.limit) == (limit - 1, limit)
    outputs(encoder, torch.randn(1, limit, BINS), torch.tensor([limit]), ctc_module())


@both
def test_all_hidden_states_as_speech_translation_asks(asr: ModuleType, option: str) -> None:
    x, lengths = torch.randn(1, 40, BINS), torch.tensor([40])
    plain, tapped = encoder_of(asr, option).eval(), encoder_of(asr, f"{option} interctc").eval()
    (y, states), _, _ = plain(x, lengths, return_all_hs=True)
    assert len(states) == 1 and states[0] is y
    (y, states), _, _ = tapped(x, lengths, return_all_hs=True)
    assert [state.shape for state in states] == [y.shape] * (len(tapped.interctc_layer_idx) + 1)


@both
def test_streaming_is_refused(asr: ModuleType, option: str) -> None:
    encoder = encoder_of(asr, option)
    with pytest.raises(InputError, match="does not stream"):
        encoder(torch.randn(1, 40, BINS), torch.tensor([40]), torch.zeros(1))


@both
@pytest.mark.parametrize("kind", ["chainer", "xavier_uniform", "kaiming_normal"])
def test_init_leaves_norms_alone(asr: ModuleType, option: str, kind: str) -> None:
    from espnet2.torch_utils.initialize import initialize

    encoder = encoder_of(asr, option)
    initialize(encoder, kind)
    norms = [
        module
        for module in encoder.modules()
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm))
    ]
    assert norms
    assert all(bool((norm.weight == 1).all()) for norm in norms)
    outputs(encoder, torch.randn(1, 40, BINS), torch.tensor([40]), None)


@both
def test_bfloat16_autocast(asr: ModuleType, option: str) -> None:
    encoder = encoder_of(asr, option)
    with torch.autocast("cpu", torch.bfloat16):
        (y,), _ = outputs(encoder, torch.randn(2, 40, BINS), torch.tensor([40, 31]), None)
    y.float().sum().backward()
    assert torch.isfinite(y.float()).all()


def test_print_config_shows_our_options_with_their_defaults(asr: ModuleType) -> None:
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    shown = get_default_kwargs(asr.encoder_choices.get_class("nas"))
    assert shown["channels"] == 24 and shown["stem_stride"] == [1, 1]
    assert shown["interctc_layer_idx"] == [] and "taps" not in shown and "genotype" not in shown
    assert get_default_kwargs(asr.encoder_choices.get_class("dfsmn_san"))["blocks"] == 10


def test_every_problem_of_encoder_conf_is_reported_together(asr: ModuleType) -> None:
    with pytest.raises(ConfigError) as caught:
        encoder_of(
            asr,
            "nas",
            genotype="asrnet_c",
            chanels=3,
            layers=1,
            dropout="much",
            taps=[3],
            interctc_use_conditioning=1,
        )
    lines = "\n".join(caught.value.problems)
    for part in (
        "genotype (genotype): unknown name 'asrnet_c' (did you mean 'asrnet_",
        "chanels: unknown key (did you mean 'channels'?)",
        "layers: must be in 2",
        "dropout: must be a number",
        "taps: is called interctc_layer_idx in ESPnet",
        "interctc_use_conditioning: must be true or false, got 1",
    ):
        assert part in lines, (part, lines)
    assert len(caught.value.problems) == 6
    with pytest.raises(ConfigError, match="genotype: is missing.*darts_v2"):
        encoder_of(asr, "nas", genotype=None)
    with pytest.raises(ConfigError, match=r"interctc_layer_idx\[0\]: must be in 4"):
        encoder_of(asr, "nas", interctc_layer_idx=[2])
    with pytest.raises(ConfigError) as caught:
        encoder_of(
            asr, "dfsmn_san", block=3, output_size=9, attention_heads=4, interctc_layer_idx=[7]
        )
    lines = "\n".join(caught.value.problems)
    assert "block: unknown option (did you mean 'blocks'?)" in lines
    assert "attention_heads: must divide output_size 9" in lines
    assert "interctc_layer_idx[0]: must be a block before the last" in lines


def saved_config(args: argparse.Namespace, folder: Path) -> Path:
    """Write ``config.yaml`` as ESPnet's ``main_worker`` does."""
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    with (folder / "config.yaml").open("w", encoding="utf-8") as file:
        yaml_no_alias_safe_dump(vars(args), file, indent=4, sort_keys=False)
    return folder / "config.yaml"


@pytest.mark.parametrize("source", ["name", "path", "mapping"])
def test_saved_config_alone_rebuilds_the_model(
    asr: ModuleType, source: str, tmp_path: Path
) -> None:
    document = load_genotype("darts_v2")
    path = tmp_path / "mine.yaml"
    document.renamed("mine").save(path)
    args = arguments(asr, "nas conditioned", str(tmp_path))
    given = {"name": "darts_v2", "path": str(path), "mapping": document.to_dict()}[source]
    args.encoder_conf["genotype"] = given
    model = asr.ASRTask.build_model(args).eval()
    saved = saved_config(args, tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    path.unlink()  # a checkpoint never depends on a file

    conf = yaml.safe_load(saved.read_text(encoding="utf-8"))["encoder_conf"]
    expected = document.renamed("mine") if source == "path" else document
    assert conf["genotype"] == expected.to_dict()
    assert {key: conf[key] for key in conf if key != "genotype"} == {
        key: value for key, value in OPTIONS["nas conditioned"][1].items() if key != "genotype"
    }
    again, _ = asr.ASRTask.build_model_from_file(saved, tmp_path / "model.pth")
    x, lengths = torch.randn(1, 30, BINS), torch.tensor([30])
    with torch.no_grad():
        (before, _), (after, _) = (m.eval().encode(x, lengths)[0] for m in (model, again))
    torch.testing.assert_close(before, after, atol=0, rtol=0)


def test_the_mapping_that_a_user_holds_is_left_alone(asr: ModuleType) -> None:
    args = arguments(asr, "nas")
    mine = args.encoder_conf
    asr.ASRTask.build_model(args)
    assert mine == NAS and args.encoder_conf["genotype"]["name"] == "darts_v2"


def test_a_genotype_that_cannot_be_read_is_reported_by_the_encoder(asr: ModuleType) -> None:
    args = arguments(asr, "nas")
    args.encoder_conf |= {"genotype": "no/such.yaml", "channels": 0}
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*no/such.yaml.*channels: must be in 1"):
        asr.ASRTask.build_model(args)


@both
def test_loading_another_architecture_is_said_aloud(
    asr: ModuleType, option: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = torch.nn.ModuleDict({"encoder": encoder_of(asr, option)})
    longer = {"layers": 8} if option == "nas" else {"blocks": 5}
    other = torch.nn.ModuleDict({"encoder": encoder_of(asr, option, **longer)})
    with caplog.at_level(logging.WARNING):
        model.load_state_dict(model.state_dict(), strict=False)
        model.load_state_dict({"decoder.weight": torch.zeros(1)}, strict=False)
    assert not caplog.records
    shared = set(model.state_dict()) & set(other.state_dict())
    same_shape = {
        key: value
        for key, value in model.state_dict().items()
        if key in shared and value.shape == other.state_dict()[key].shape
    }
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(same_shape, strict=False)
    assert "made with another genotype or other options" in caplog.text


@both
def test_freeze_and_init_by_name(asr: ModuleType, option: str, tmp_path: Path) -> None:
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    trained, fresh = (asr.ASRTask.build_model(arguments(asr, option)) for _ in range(2))
    torch.save(trained.state_dict(), tmp_path / "model.pth")
    load_pretrained_model(
        f"{tmp_path}/model.pth:encoder.network:encoder.network", fresh, ignore_init_mismatch=False
    )
    mine, its = fresh.encoder.network.state_dict(), trained.encoder.network.state_dict()
    assert all(torch.equal(mine[key], its[key]) for key in mine)
    assert not torch.equal(fresh.ctc.ctc_lo.weight, trained.ctc.ctc_lo.weight)


def test_registering_twice_changes_nothing_and_a_taken_name_is_an_error(asr: ModuleType) -> None:
    from nas_encoder.espnet.registration import register

    before, method = dict(asr.encoder_choices.classes), asr.ASRTask.__dict__["build_model"]
    assert register(asr) == ("encoder_choices",)
    assert asr.encoder_choices.classes == before
    assert asr.ASRTask.__dict__["build_model"] is method

    taken = ModuleType("espnet2.tasks.mine")
    taken.encoder_choices = asr.ClassChoices("encoder", {"nas": int})  # type: ignore[attr-defined]
    with pytest.raises(RegistryError, match="another encoder 'nas' already"):
        register(taken)
    assert register(ModuleType("espnet2.tasks.lm")) == ()


@both
@pytest.mark.parametrize("task", ["spk", "lid"])
def test_frame_level_encoders_give_one_vector_for_each_input_frame(
    asr: ModuleType, option: str, task: str
) -> None:
    from nas_encoder.espnet.registration import encoder_classes

    name, conf = OPTIONS[option]
    encoder = encoder_classes(f"espnet2.tasks.{task}")[name](input_size=BINS, **conf).eval()
    x = torch.randn(2, 30, BINS)
    frames = encoder(x)
    assert frames.shape == (2, 8, 30)
    usual, _, _ = super(type(encoder).__mro__[1], encoder).forward(x, torch.tensor([30, 30]))
    torch.testing.assert_close(frames[:, :, 13], usual[:, 13 // 4])


@both
def test_prompted_encoders_check_their_prompts(asr: ModuleType, option: str) -> None:
    from nas_encoder.espnet.registration import encoder_classes

    name, conf = OPTIONS[f"{option} interctc"]
    cls = encoder_classes("espnet2.tasks.s2t_ctc")[name]
    encoder = cls(input_size=BINS, **conf).eval()
    x, lengths = torch.randn(2, 40, BINS), torch.tensor([40, 21])
    prefix, memory = torch.randn(2, 2, 8), torch.randn(2, 5, 8)
    valid = torch.tensor([[[1, 1, 1, 1, 1]], [[1, 1, 0, 0, 0]]], dtype=torch.bool)

    def encode(memory: Tensor) -> Tensor:
        (y, taps), out_lengths, _ = encoder(
            x, lengths, prefix_embeds=prefix, memory=memory, memory_mask=valid
        )
        assert out_lengths.tolist() == [12, 8]
        assert y.shape == taps[0][1].shape == (2, 12, 8)
        assert not y[1, 8:].any()
        return y  # type: ignore[no-any-return]

    first = encode(memory)
    memory[1, 2:] = 100.0  # behind the mask
    torch.testing.assert_close(encode(memory), first)
    memory[1, 1] += 1.0
    assert not torch.allclose(encode(memory)[1], first[1])
    with pytest.raises(InputError, match="needs its prompts"):
        encoder(x, lengths)
    with pytest.raises(ConfigError, match="prompt_heads: must divide output_size, which is 8"):
        cls(input_size=BINS, prompt_heads=3, **conf)
