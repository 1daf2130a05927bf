"""ESPnet's contract with an encoder, held by both of ours under many options."""

from __future__ import annotations

import importlib
import inspect
import pickle
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from espnet_options import (
    BINS,
    OPTIONS,
    TOKENS,
    arguments,
    both,
    encoder_of,
    every_option,
    load_asr,
)
from torch import Tensor

from nas_encoder.errors import ConfigError, InputError
from nas_encoder.tables import BLOCK_OPTIONS

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,  # the import of ESPnet alone
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
]


@pytest.fixture(scope="module")
def asr() -> ModuleType:
    """ESPnet's ASR task, registered by the hook."""
    return load_asr()


def ctc_module() -> Any:
    from espnet2.asr.ctc import CTC

    return CTC(odim=len(TOKENS), encoder_output_size=8)


def output_frames(option: str, encoder: Any, length: int) -> int:
    if option in ("nas blocks", "nas streaming blocks"):
        return ((length - 1) // 2 - 1) // 2  # as ESPnet's own conv2d
    return -(-length // int(encoder.network.subsampling_factor))


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
    lengths = torch.tensor([41, 23, encoder.network.min_length])
    # More frames than the longest utterance, as data-parallel slices of a batch have.
    found, out_lengths = outputs(encoder, torch.randn(3, 50, BINS), lengths, ctc_module())
    expected = [output_frames(option, encoder, length) for length in lengths.tolist()]
    assert out_lengths.tolist() == expected
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


@every_option
def test_chunks_give_what_whole_utterances_give_or_are_refused_with_reasons(
    asr: ModuleType, option: str
) -> None:
    from espnet2.asr.encoder.contextual_block_conformer_encoder import (
        ContextualBlockConformerEncoder,
    )

    encoder = encoder_of(asr, option).double().eval()
    x = torch.randn(1, 2 * encoder.network.min_length + 61, BINS, dtype=torch.float64)
    ctc = ctc_module().double()
    if not isinstance(encoder, ContextualBlockConformerEncoder):
        with pytest.raises(ConfigError) as why:
            encoder.network.lookahead()
        with pytest.raises(InputError) as caught:
            encoder(x, torch.tensor([x.size(1)]), infer_mode=True, ctc=ctc)
        assert (
            str(caught.value)
            == f"infer_mode: this encoder does not stream: {why.value.problems[0]}"
        )
        assert "Streaming" not in type(encoder).__name__
        return
    (whole, *_), lengths = outputs(encoder, x, torch.tensor([x.size(1)]), ctc)
    state, pieces = None, []
    for size in (1, 0, 50, x.size(1) - 51):
        chunk, x = x[:, :size], x[:, size:]
        last, given = not x.size(1), torch.tensor([size])
        y, found, state = encoder(chunk, given, state, is_final=last, infer_mode=True, ctc=ctc)
        assert isinstance(y, Tensor) and found.tolist() == [y.size(1)] and (state is None) == last
        pieces.append(y)
    assert pieces[0].shape == (1, 0, whole.size(2))  # too little for a frame
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-10)
    assert lengths.tolist() == [whole.size(1)]


def test_chunks_that_cannot_be_encoded_are_refused(asr: ModuleType) -> None:
    encoder = encoder_of(asr, "nas tdnn_chain", interctc_use_conditioning=False)
    x, lengths = torch.randn(1, 40, BINS), torch.tensor([40])
    with pytest.raises(InputError, match=r"training mode does not stream; call eval\(\)"):
        encoder(x, lengths, infer_mode=True)
    encoder.eval()
    _, _, state = encoder(x, lengths, is_final=False, infer_mode=True)
    with pytest.raises(InputError, match="prev_states: belongs to infer_mode=True"):
        encoder(x, lengths, state)
    with pytest.raises(InputError, match=r"the whole chunk, 40 frames, .* got \[39\]"):
        encoder(x, lengths - 1, state, infer_mode=True)
    with pytest.raises(InputError, match="no CTC module"):
        encoder_of(asr, "nas tdnn_chain").eval()(x, lengths, infer_mode=True)


def test_a_stream_that_ends_too_short_does_not_reach_into_the_next(asr: ModuleType) -> None:
    from nas_encoder.espnet.interface import TooShortUttError

    encoder = encoder_of(asr, "nas streaming blocks")
    limit, x = encoder.eval().network.min_length, torch.randn(1, 60, BINS)
    _, _, state = encoder(x[:, :2], torch.tensor([2]), is_final=False, infer_mode=True)
    with pytest.raises(TooShortUttError) as caught:
        encoder(x[:, :1], torch.tensor([1]), state, infer_mode=True)
    assert (caught.value.actual_size, caught.value.limit) == (3, limit) == (3, 7)
    # ESPnet's program goes on with the state of before.
    own, _, _ = encoder(x, torch.tensor([60]), state, infer_mode=True)
    whole, _, _ = encoder(x, torch.tensor([60]), infer_mode=True)
    torch.testing.assert_close(own, whole)


def test_sizes_of_blocks_are_bounds_that_the_genotype_keeps(asr: ModuleType) -> None:
    encoder = encoder_of(asr, "nas tdnn_chain")
    ahead = encoder.network.lookahead() // encoder.network.subsampling_factor
    for sizes in ((ahead + 1, 1, ahead), (40, ahead + 1, 0), (ahead + 40, 16, ahead)):
        encoder_of(asr, "nas tdnn_chain", **dict(zip(BLOCK_OPTIONS, sizes, strict=True)))
    for changed, problem in (
        (
            {"look_ahead": ahead - 1},
            f"hop_size - 1 \\+ look_ahead = {ahead - 1} later ones, but .* {ahead};",
        ),
        (
            {"hop_size": 2},
            f"block_size: must be at least hop_size \\+ look_ahead, {ahead + 2}, got",
        ),
        ({"look_ahead": None}, "look_ahead: is missing beside block_size, hop_size"),
        ({"hop_size": 1.5}, "hop_size: must be an integer of at least 1, got 1.5"),
    ):
        own = dict(zip(BLOCK_OPTIONS, (ahead + 1, 1, ahead), strict=True)) | changed
        with pytest.raises(ConfigError, match=problem):
            encoder_of(asr, "nas tdnn_chain", **own)
    with pytest.raises(
        ConfigError, match=r"are for encoders that stream; stages\[0\].modules\[0\]"
    ):
        encoder_of(asr, "nas blocks", block_size=40, hop_size=16, look_ahead=16)
    # DFSMN-SAN has a look_ahead of its own.
    plain = encoder_of(asr, "dfsmn_san", attention_layers=0, look_ahead=2, block_size=9, hop_size=4)
    assert (
        plain.network.config.look_ahead == 2 and type(plain).__name__ == "DFSMNSANStreamingEncoder"
    )


def test_the_first_of_several_lookaheads_is_decoded(asr: ModuleType) -> None:
    """In training others are drawn; ``config.yaml`` of a trained model can put another first."""
    given: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0}
    one = encoder_of(asr, "nas streaming blocks", lookaheads=[3, 0], **given)
    x, lengths = torch.randn(1, 60, BINS), torch.tensor([60])
    two = encoder_of(asr, "nas streaming blocks", lookaheads=[0, 3], **given)
    two.load_state_dict(one.state_dict())
    for encoder, ahead in ((one.eval(), 3), (two.eval(), 0)):
        streamed, _, _ = encoder(x, lengths, infer_mode=True)
        whole, *_ = encoder(x, lengths)
        torch.testing.assert_close(streamed, whole)
        assert encoder.network.lookahead() == 4 * ahead + 6
    drawn = {round(one.train()(x, lengths)[0][0, 0, 0].item(), 4) for _ in range(12)}
    assert len(drawn) == 2
    with pytest.raises(ConfigError, match="lookaheads: must hold that of the genotype, 3, got"):
        encoder_of(asr, "nas streaming blocks", lookaheads=[1])


@pytest.mark.parametrize("option", ["nas", "nas blocks", "dfsmn_san"])
@pytest.mark.parametrize("kind", ["chainer", "xavier_uniform", "kaiming_normal"])
def test_init_leaves_norms_and_gates_alone(asr: ModuleType, option: str, kind: str) -> None:
    from espnet2.torch_utils.initialize import initialize

    offered = next(action for action in asr.ASRTask.get_parser()._actions if action.dest == "init")
    if kind not in (offered.choices or ()):
        pytest.skip(f"this ESPnet has no 'init: {kind}'")
    encoder = encoder_of(asr, option)
    initialize(encoder, kind)
    norms = [
        module
        for module in encoder.modules()
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm))
    ]
    assert norms
    assert all(bool((norm.weight == 1).all()) for norm in norms)
    gates = [module.gate for module in encoder.modules() if hasattr(module, "reset_gate")]
    assert bool(gates) == (option == "nas blocks")
    assert all(bool((gate.bias == 1).all()) and gate.weight.abs().max() < 1e-4 for gate in gates)
    outputs(encoder, torch.randn(1, 40, BINS), torch.tensor([40]), ctc_module())


@both
def test_bfloat16_autocast(asr: ModuleType, option: str) -> None:
    encoder = encoder_of(asr, option)
    with torch.autocast("cpu", torch.bfloat16):
        (y,), _ = outputs(encoder, torch.randn(2, 40, BINS), torch.tensor([40, 31]), None)
    y.float().sum().backward()
    assert torch.isfinite(y.float()).all()


@pytest.mark.parametrize("option", ["nas", "nas blocks", "dfsmn_san"])
@pytest.mark.parametrize("task", ["spk", "lid"])
def test_frame_level_encoders_give_one_vector_for_each_input_frame(
    asr: ModuleType, option: str, task: str
) -> None:
    from nas_encoder.espnet.registration import encoder_class

    name, conf = OPTIONS[option]
    conf = {key: value for key, value in conf.items() if not key.startswith("interctc")}
    encoder = encoder_class(f"espnet2.tasks.{task}", name)(input_size=BINS, **conf).eval()
    x = torch.randn(2, 30, BINS)
    frames = encoder(x)
    assert frames.shape == (2, 8, 30)
    usual, _, _ = super(type(encoder).__mro__[1], encoder).forward(x, torch.tensor([30, 30]))
    torch.testing.assert_close(frames[:, :, 13], usual[:, 13 // 4])
    torch.testing.assert_close(frames[:, :, 29], usual[:, -1])


@both
def test_each_encoder_is_one_class_under_its_name(asr: ModuleType, option: str) -> None:
    from nas_encoder.espnet.registration import INTERFACES, encoder_class

    usual = encoder_class("espnet2.tasks.asr", option)
    assert usual is asr.encoder_choices.classes[option]
    assert usual is getattr(importlib.import_module("nas_encoder.espnet"), usual.__name__)
    for task in INTERFACES:
        cls = encoder_class(task, option)
        assert issubclass(cls, usual)
        assert pickle.loads(pickle.dumps(cls)) is cls
        assert set(inspect.signature(usual).parameters) <= set(inspect.signature(cls).parameters)


@both
def test_prompted_encoders_check_their_prompts(asr: ModuleType, option: str) -> None:
    from nas_encoder.espnet.registration import encoder_class

    name, conf = OPTIONS[f"{option} interctc"]
    cls = encoder_class("espnet2.tasks.s2t_ctc", name)
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
    memory[1, 2:] = 100.0  # masked
    torch.testing.assert_close(encode(memory), first)
    memory[1, 1] += 1.0
    assert not torch.allclose(encode(memory)[1], first[1])
    with pytest.raises(InputError, match="needs its prompts"):
        encoder(x, lengths)
    with pytest.raises(ConfigError, match="prompt_heads: must divide output_size, which is 8"):
        cls(input_size=BINS, prompt_heads=3, **conf)
