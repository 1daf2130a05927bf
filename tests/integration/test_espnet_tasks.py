"""Every ESPnet2 task that has an encoder choice: ours are in it, and its real model trains."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_encoder import autoload
from nas_encoder.espnet import registration

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,  # the import of ESPnet alone
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

NAMES = ("nas", "dfsmn_san")
CONF: dict[str, dict[str, Any]] = {
    "nas": {"genotype": "darts_v2", "channels": 2, "layers": 3, "stem_stride": [1, 2]},
    "dfsmn_san": {"blocks": 2, "attention_layers": 1, "hidden_size": 12},
}
SIZE = 8  # output_size of the encoders
TOKENS = ["<blank>", "<unk>", "<sos>", "<eos>", "<sop>", "<na>", "a", "b", "c", "<sos/eos>"]


@pytest.fixture(scope="module")
def tasks() -> dict[str, ModuleType]:
    """All modules of ``espnet2.tasks`` that are on disk, imported under the hook."""
    autoload.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module("espnet2.tasks")
        names = [found.name for found in pkgutil.iter_modules(package.__path__)]
        return {name: importlib.import_module(f"espnet2.tasks.{name}") for name in names}


def encoder_tables(module: ModuleType) -> list[str]:
    """Return the tables of a task module that choose *the* encoder of speech features."""
    tables = ("encoder_choices", *registration.TABLES.get(module.__name__, ()))
    return [table for table in tables if hasattr(module, table)]


def test_every_task_with_an_encoder_choice_has_both_names(tasks: dict[str, ModuleType]) -> None:
    covered = set()
    for name, module in tasks.items():
        for table in encoder_tables(module):
            classes = getattr(module, table).classes
            if module.__name__ in registration.EXCLUDED:
                assert not set(NAMES) & set(classes), module.__name__
            else:
                assert set(NAMES) <= set(classes), f"{module.__name__}.{table}"
                covered.add(name)
    assert covered == set(TASKS), "each task below, and nothing else"
    for name in registration.EXCLUDED:
        assert encoder_tables(importlib.import_module(name)), f"{name} needs no exclusion"


def speech(bins: int = 20) -> dict[str, Tensor]:
    return {"speech": torch.randn(2, 48, bins), "speech_lengths": torch.tensor([48, 36])}


def text(name: str = "text") -> dict[str, Tensor]:
    return {name: torch.tensor([[6, 7, 8], [7, 6, -1]]), f"{name}_lengths": torch.tensor([3, 2])}


def waveform() -> dict[str, Tensor]:
    return {"speech": torch.randn(2, 8000), "speech_lengths": torch.tensor([8000, 6000])}


def classes(name: str) -> dict[str, Tensor]:
    return {name: torch.tensor([[0], [2]])}


@dataclass(frozen=True)
class Task:
    """How to train one step of a task's model.

    ``prefix`` is what its options of the encoder begin with.
    """

    cls: str
    batch: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    # Options that take a token list.
    lists: tuple[str, ...] = ("token_list",)
    # False: only up to the encoder's output.
    loss: bool = True


FRONTEND = {"input_size": None, "frontend_conf": {"n_fft": 512, "hop_length": 128, "n_mels": 20}}
POOLED = {
    "frontend": None,
    "spk_num": 3,
    "lang_num": 3,
    "pooling": "mean",
    "projector": "xvector",
    "projector_conf": {"output_size": 8},
    "loss": "softmax",
}
DECODER = {"decoder": "rnn", "decoder_conf": {"hidden_size": 8}}
CTC_ONLY = {"decoder": None, "model_conf": {"ctc_weight": 1.0}}
LABELS = {"label": torch.tensor([[6], [7]]), "label_lengths": torch.tensor([1, 1])}
DISCRETE = torch.tensor([[6, 7, 8, 6], [7, 6, 6, -1]])

TASKS: dict[str, Task] = {
    "asr": Task("ASRTask", speech() | text(), CTC_ONLY),
    "slu": Task("SLUTask", speech() | text(), CTC_ONLY),
    "st": Task(
        "STTask",
        speech() | text() | text("src_text"),
        {**DECODER, "model_conf": {"asr_weight": 0.5, "mtlalpha": 1.0}, "extra_asr_decoder": "rnn"},
        lists=("token_list", "src_token_list"),
    ),
    "mt": Task(
        "MTTask",
        {
            **text(),
            "src_text": torch.randint(6, 9, (2, 24)),
            "src_text_lengths": torch.tensor([24, 20]),
        },
        {**DECODER, "input_size": None, "frontend_conf": {"embed_dim": 20}},
        lists=("token_list", "src_token_list"),
    ),
    "s2t": Task(
        "S2TTask",
        speech() | text() | text("text_prev") | text("text_ctc"),
        {"decoder": "transformer", "decoder_conf": {"linear_units": 8, "num_blocks": 1}},
    ),
    "s2t_ctc": Task(
        "S2TTask",
        speech()
        | text()
        | text("text_prev")
        | text("text_ctc")
        | {"prefix": torch.tensor([[6, 7], [7, 8]]), "prefix_lengths": torch.tensor([2, 2])},
        {
            "promptencoder": "transformer",
            "promptencoder_conf": {"output_size": 4, "num_blocks": 1, "linear_units": 8},
            "model": "espnet_ctc",
            "model_conf": {},
        },
    ),
    "diar": Task(
        "DiarizationTask",
        {
            **waveform(),
            "spk_labels": torch.randint(0, 2, (2, 8000, 2)),
            "spk_labels_lengths": torch.tensor([8000, 6000]),
        },
        {
            **FRONTEND,
            "num_spk": 2,
            "label_aggregator_conf": {"win_length": 512, "hop_length": 512},
        },
        lists=(),
    ),
    "asvspoof": Task(
        "ASVSpoofTask",
        {**speech(), "label": torch.tensor([[0.0], [1.0]])},
        {"losses": []},
        lists=(),
        loss=False,  # ESPnet 202511: the task's only decoder is a stub that returns None
    ),
    "cls": Task("CLSTask", speech() | LABELS),
    "spk": Task("SpeakerTask", {**speech(), **classes("spk_labels")}, POOLED, lists=()),
    "lid": Task("LIDTask", {**speech(), **classes("lid_labels")}, POOLED, lists=()),
    "s2st": Task(
        "S2STTask",
        {
            "src_speech": speech()["speech"],
            "src_speech_lengths": speech()["speech_lengths"],
            **text("tgt_speech"),
            **text("tgt_text"),
            **text("src_text"),
        },
        {
            # Its "discrete_unit" type accepts ESPnet's Conformer and Transformer alone.
            "s2st_type": "unity",
            "src_normalize": None,
            "tgt_feats_extract": None,
            "st_decoder": "transformer",
            "st_decoder_conf": {"linear_units": 8, "num_blocks": 1},
            "losses": [
                {"name": "synthesis", "type": "attention", "conf": {}},
                {"name": "tgt_attn", "type": "attention", "conf": {}},
            ],
            "unit_encoder": "transformer",
            "unit_encoder_conf": {
                "output_size": SIZE,
                "linear_units": 8,
                "num_blocks": 1,
                "input_layer": "linear",
            },
            "synthesizer_conf": {"linear_units": 8, "num_blocks": 1},
        },
        lists=("src_token_list", "tgt_token_list", "unit_token_list"),
    ),
    "enh_s2t": Task(
        "EnhS2TTask",
        {**waveform(), "speech_ref1": waveform()["speech"], **text("text_spk1")},
        {
            **FRONTEND,
            "enh_separator_conf": {"num_spk": 1, "layer": 1, "unit": 4},
            "asr_decoder": None,
            "asr_model_conf": {"ctc_weight": 1.0},
        },
        prefix="asr_",
    ),
}


def arguments(task: Any, spec: Task, name: str) -> argparse.Namespace:
    args = task.get_parser().parse_args(["--output_dir", "exp"])
    args.input_size = 20
    args.specaug = args.normalize = None
    for tokens in spec.lists:
        setattr(args, tokens, TOKENS)
    for key, value in spec.options.items():
        setattr(args, key, value)
    setattr(args, f"{spec.prefix}encoder", name)
    setattr(args, f"{spec.prefix}encoder_conf", {**CONF[name], "output_size": SIZE})
    return args


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task_name", TASKS)
def test_real_model_of_every_task_trains_a_step(
    task_name: str, name: str, tasks: dict[str, ModuleType]
) -> None:
    spec = TASKS[task_name]
    task = getattr(tasks[task_name], spec.cls)
    args = arguments(task, spec, name)
    if task_name == "cls" and find_spec("torcheval") is None:
        with pytest.raises(ImportError, match="torcheval"):  # after the encoder was built
            task.build_model(args)
        assert name == "dfsmn_san" or isinstance(args.encoder_conf["genotype"], dict)
        return
    model = task.build_model(args).train()
    batch = {key: value.clone() for key, value in spec.batch.items()}
    if spec.loss:
        loss, _, _ = model(**batch)
    else:
        loss = model.encode(batch["speech"], batch["speech_lengths"])[0].sum()
    loss.backward()
    assert torch.isfinite(loss)
    encoder = [(key, p) for key, p in model.named_parameters() if "encoder.network." in key]
    assert encoder
    assert not [key for key, parameter in encoder if parameter.grad is None]
    if name == "nas":
        saved = getattr(args, f"{spec.prefix}encoder_conf")["genotype"]
        assert saved["name"] == "darts_v2" and saved["normal"]["nodes"]
