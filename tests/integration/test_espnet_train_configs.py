"""The ESPnet train configs that ship: ESPnet's own parser takes them and builds the model."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from nas_encoder.baselines import DFSMN_SAN_CONFIGS

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,  # importing the task alone takes more than 10 s
    # ESPnet's own use of torch.
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.:FutureWarning"),
]

CONFIGS = Path(__file__).resolve().parents[2] / "conf" / "train" / "espnet"
CTC_ONLY = {"train_asr_nas_ctc", "train_asr_blocks_ctc"}
TRANSDUCERS = {"train_asr_blocks_transducer"}
ASR_SH_SELECTS_BY = ("valid", "acc", "max")  # its default: valid.acc.ave.pth
# Encoder parameters in millions, and how close a config must come.
SIZES = {
    "train_asr_nas_small": (6.03, 0.01),
    "train_asr_nas_ctc": (6.03, 0.01),
    "train_asr_nas_medium": (13.97, 0.01),
    "train_asr_blocks_13m": (12.91, 0.01),
    "train_asr_blocks_30m": (30.05, 0.01),
    "train_asr_blocks_ctc": (12.91, 0.01),
    "train_asr_blocks_transducer": (12.91, 0.01),
    "train_asr_dfsmn_san_14m": (14.4, 0.01),
    "train_asr_dfsmn_san_36m": (36.1, 0.01),
    "train_asr_transformer_14m": (14.4, 0.02),
    "train_asr_conformer_14m": (14.4, 0.02),
}
TOKENS = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]


@pytest.fixture(scope="module")
def asr() -> Iterator[Any]:
    """ESPnet's ASR task module, with our encoders in it."""
    import espnet2.tasks.asr
    from espnet2.asr.transducer.rnnt_multi_blank.rnnt_multi_blank import RNNTLossNumba

    from nas_encoder.espnet.registration import register

    register(espnet2.tasks.asr)
    # warp-transducer has to be compiled on the machine and is on no index; ESPnet itself has the
    # same loss with the same interface.
    compiled: Any = ModuleType("warprnnt_pytorch")
    compiled.RNNTLoss = RNNTLossNumba
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "warprnnt_pytorch", compiled)
        yield espnet2.tasks.asr


def parse(asr: Any, name: str) -> argparse.Namespace:
    arguments = asr.ASRTask.get_parser().parse_args(
        ["--config", str(CONFIGS / f"{name}.yaml"), "--output_dir", "exp"]
    )
    arguments.token_list = TOKENS
    return arguments


def read(name: str) -> dict[str, Any]:
    document = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def decoder_of(name: str) -> str | None:
    if name in CTC_ONLY:
        return None
    return "transducer" if name in TRANSDUCERS else "transformer"


def test_every_config_is_in_the_table() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_parser_takes_every_key_as_it_is_written(asr: Any, name: str) -> None:
    arguments = parse(asr, name)
    for key, value in read(name).items():
        got = getattr(arguments, key)
        if key == "best_model_criterion":
            got = [list(criterion) for criterion in got]
        assert got == value, key
    assert arguments.decoder == decoder_of(name)
    # What ESPnet's own constructors are given by name must exist there.
    for choices, key in ((asr.frontend_choices, "frontend"), (asr.specaug_choices, "specaug")):
        known = inspect.signature(choices.get_class(getattr(arguments, key))).parameters
        assert set(getattr(arguments, f"{key}_conf")) <= set(known)


def check_kind(model: Any, name: str) -> None:
    """The model has the promised size and decoder."""
    millions = sum(parameter.numel() for parameter in model.encoder.parameters()) / 1e6
    expected, tolerance = SIZES[name]
    assert millions == pytest.approx(expected, rel=tolerance)
    if name in CTC_ONLY:
        assert model.ctc_weight == 1.0 and model.decoder is None
    else:
        assert model.ctc_weight == 0.3 and model.decoder is not None
    assert model.use_transducer_decoder == (name in TRANSDUCERS)


@pytest.mark.parametrize("name", SIZES)
def test_model_trains_a_step_and_gives_a_frame_every_40_ms(asr: Any, name: str) -> None:
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer

    arguments = parse(asr, name)
    arguments.normalize = None  # asr.sh gives global_mvn its statistics
    model = asr.ASRTask.build_model(arguments).train()
    check_kind(model, name)
    batch = {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 9600]),
        "text": torch.tensor([[2, 3], [3, -1]]),
        "text_lengths": torch.tensor([2, 1]),
    }
    loss, statistics, _ = model(**batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert statistics["loss_ctc"] is not None
    # What ESPnet then selects checkpoints by, and asr.sh decodes with.
    (criterion,) = arguments.best_model_criterion
    expected = {None: ("valid", "cer_ctc", "min"), "transducer": ("valid", "loss", "min")}
    assert tuple(criterion) == expected.get(decoder_of(name), ASR_SH_SELECTS_BY)
    measured = {None: "loss_ctc", "transducer": "loss_transducer"}
    assert statistics[measured.get(decoder_of(name), "acc")] is not None
    silent = [key for key, parameter in model.encoder.named_parameters() if parameter.grad is None]
    assert not silent
    model.eval()
    with torch.no_grad():
        encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
        assert "cer_ctc" in model(**batch)[1]
        if name in TRANSDUCERS:
            decoding = read("../../decode/espnet/decode_transducer")
            options = {"beam_size": decoding["beam_size"], **decoding["transducer_conf"]}
            search = BeamSearchTransducer(model.decoder, model.joint_network, **options)
            assert search(encoded[0])
    assert lengths.tolist() == pytest.approx([25, 15], abs=1)


@pytest.mark.parametrize("size", ["14m", "36m"])
def test_dfsmn_san_configs_are_those_of_the_package(size: str) -> None:
    conf = read(f"train_asr_dfsmn_san_{size}")["encoder_conf"]
    named = dataclasses.asdict(DFSMN_SAN_CONFIGS[f"dfsmn_san_{size}"])
    assert {key: named[key] for key in conf} == conf
    left = {key: value for key, value in named.items() if key not in conf}
    defaults = dataclasses.asdict(type(DFSMN_SAN_CONFIGS["dfsmn_san_14m"])())
    assert left == {key: defaults[key] for key in left}


def test_an_update_sees_the_same_amount_of_speech_everywhere() -> None:
    for name in SIZES:
        document = read(name)
        # More than 1 would end the training of a small corpus after its first epoch.
        assert (document["batch_bins"], document["accum_grad"]) == (1_600_000, 1), name


def test_window_hop_bins_and_masks_are_given_together() -> None:
    for name in SIZES:
        document = read(name)
        frontend, masks = document["frontend_conf"], document["specaug_conf"]
        assert {"n_fft", "win_length", "hop_length", "n_mels"} == set(frontend), name
        # ESPnet draws widths below the upper end; its own 27 of 80 bins are the measure.
        _, bound = masks["freq_mask_width_range"]
        assert (bound - 1) / frontend["n_mels"] <= 26 / 80 < 1 / 3, name
        assert masks["num_freq_mask"] == 2, name
