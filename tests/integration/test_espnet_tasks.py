"""Every ESPnet task that has an encoder choice: ours are in it, and its real model trains.

The tasks are those of the installed ESPnet; ``test_espnet_newer.py`` runs this file with another.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import joblib
import pytest
import torch
from torch import Tensor

from nas_encoder import autoload
from nas_encoder.espnet import registration, survey

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,  # the import of ESPnet alone
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning"),
]

NAMES = ("nas", "dfsmn_san")
CONF: dict[str, dict[str, Any]] = {
    "nas": {"genotype": "darts_v2", "channels": 2, "layers": 3, "stem_stride": [1, 2]},
    "dfsmn_san": {"blocks": 2, "attention_layers": 1, "hidden_size": 12},
}
SIZE = 8  # output_size of the encoders
TOKENS = ["<blank>", "<unk>", "<sos>", "<eos>", "<sop>", "<na>", "a", "b", "c", "<sos/eos>"]


def files_of(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the names and files of all modules below a package, if it is installed."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    """All modules on disk that could hold a task, imported under the hook."""
    autoload.install()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, path in (*files_of("espnet2.tasks"), *files_of("espnet3")):
            try:
                found[name] = importlib.import_module(name)
            except ImportError:  # espnet3's demos need gradio
                assert not name.startswith("espnet2.")
                assert "ClassChoices" not in path.read_text(encoding="utf-8"), name
    return found


def encoder_tables(module: ModuleType) -> dict[str, Any]:
    """Return the tables of encoders from which a module's own tasks choose."""
    from espnet2.asr.encoder.abs_encoder import AbsEncoder
    from espnet2.train.class_choices import ClassChoices

    own = [c for c in vars(module).values() if getattr(c, "__module__", "") == module.__name__]
    listed = [id(choices) for task in own for choices in getattr(task, "class_choices_list", ())]
    tables = {key: c for key, c in vars(module).items() if isinstance(c, ClassChoices)}
    return {
        key: choices
        for key, choices in tables.items()
        if id(choices) in listed and (choices.base_type is AbsEncoder or choices.name == "encoder")
    }


def test_every_task_with_an_encoder_choice_has_both_names(modules: dict[str, ModuleType]) -> None:
    covered, states = set(), survey.survey()
    for name, module in modules.items():
        for table, choices in encoder_tables(module).items():
            path = f"{name}.{table}"
            if name in registration.EXCLUDED or path in survey.OTHERS:
                assert not set(NAMES) & set(choices.classes), path
                assert states[path]["state"] == "not offered" and states[path]["why"]
            else:
                assert set(NAMES) <= set(choices.classes), path
                assert states[path]["state"] == "registered" and states[path]["why"] is None
                covered.add(name)
    assert covered == {task.module for task in TASKS.values()} & set(modules), "those below"
    assert {state["state"] for state in states.values()} == {"registered", "not offered"}
    for name in (*registration.EXCLUDED, *(path.rpartition(".")[0] for path in survey.OTHERS)):
        if name in modules:  # the newer ESPnet has more
            assert encoder_tables(modules[name]), f"{name} needs no exclusion"


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

    path: str
    batch: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    # Options that take a token list.
    lists: tuple[str, ...] = ("token_list",)
    # False: only up to the encoder's output.
    loss: bool = True
    # Writes files and returns the options that name them.
    files: Callable[[Path], dict[str, Any]] = lambda folder: {}

    @property
    def module(self) -> str:
        """The task's module."""
        return self.path.rpartition(".")[0]


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


def centroids(folder: Path) -> dict[str, Any]:
    """Write what a clustering of the features would give."""
    path = folder / "centroids.joblib"
    joblib.dump(SimpleNamespace(cluster_centers_=torch.randn(7, 20).numpy()), path)
    return {"quantizer_conf": {"centroid_path": str(path)}}


TASKS: dict[str, Task] = {
    "asr": Task("espnet2.tasks.asr.ASRTask", speech() | text(), CTC_ONLY),
    "slu": Task("espnet2.tasks.slu.SLUTask", speech() | text(), CTC_ONLY),
    "st": Task(
        "espnet2.tasks.st.STTask",
        speech() | text() | text("src_text"),
        {**DECODER, "model_conf": {"asr_weight": 0.5, "mtlalpha": 1.0}, "extra_asr_decoder": "rnn"},
        lists=("token_list", "src_token_list"),
    ),
    "mt": Task(
        "espnet2.tasks.mt.MTTask",
        {
            **text(),
            "src_text": torch.randint(6, 9, (2, 24)),
            "src_text_lengths": torch.tensor([24, 20]),
        },
        {**DECODER, "input_size": None, "frontend_conf": {"embed_dim": 20}},
        lists=("token_list", "src_token_list"),
    ),
    "s2t": Task(
        "espnet2.tasks.s2t.S2TTask",
        speech() | text() | text("text_prev") | text("text_ctc"),
        {"decoder": "transformer", "decoder_conf": {"linear_units": 8, "num_blocks": 1}},
    ),
    "s2t_ctc": Task(
        "espnet2.tasks.s2t_ctc.S2TTask",
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
        "espnet2.tasks.diar.DiarizationTask",
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
        "espnet2.tasks.asvspoof.ASVSpoofTask",
        {**speech(), "label": torch.tensor([[0.0], [1.0]])},
        {"losses": []},
        lists=(),
        loss=False,  # ESPnet 202511: the task's only decoder is a stub that returns None
    ),
    "cls": Task("espnet2.tasks.cls.CLSTask", speech() | LABELS),
    "spk": Task(
        "espnet2.tasks.spk.SpeakerTask", {**speech(), **classes("spk_labels")}, POOLED, lists=()
    ),
    "lid": Task(
        "espnet2.tasks.lid.LIDTask", {**speech(), **classes("lid_labels")}, POOLED, lists=()
    ),
    "s2st": Task(
        "espnet2.tasks.s2st.S2STTask",
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
        "espnet2.tasks.enh_s2t.EnhS2TTask",
        {**waveform(), "speech_ref1": waveform()["speech"], **text("text_spk1")},
        {
            **FRONTEND,
            "enh_separator_conf": {"num_spk": 1, "layer": 1, "unit": 4},
            "asr_decoder": None,
            "asr_model_conf": {"ctc_weight": 1.0},
        },
        prefix="asr_",
    ),
    # ESPnet 202611
    "gan_tok": Task(
        "espnet2.tasks.gan_tok.GANSpeechTokenizerTask",
        waveform() | text() | {"spembs": torch.randn(2, 512)},
        {
            **FRONTEND,
            "asr_embedding_conf": {"embed_dim": 20},
            "asr_specaug": None,
            "asr_normalize": None,
            "asr_decoder": None,
            "asr_model_conf": {"ctc_weight": 1.0},
            "model_conf": {"reconstruction_weight": 0.0},
            "skip_discriminator_prob": 1.0,
        },
        prefix="asr_",
        files=centroids,
    ),
    "espnet3 asr": Task("espnet3.systems.esp2_asr.task.ASRTask", speech() | text(), CTC_ONLY),
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
    task_name: str, name: str, modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    spec = TASKS[task_name]
    if spec.module not in modules:
        pytest.skip(f"this ESPnet has no {spec.module}")
    task = getattr(modules[spec.module], spec.path.rpartition(".")[2])
    args = arguments(task, spec, name)
    for key, value in spec.files(tmp_path).items():
        setattr(args, key, value)
    if task_name == "cls" and find_spec("torcheval") is None:
        with pytest.raises(ImportError, match="torcheval"):  # after the encoder was built
            task.build_model(args)
        assert name == "dfsmn_san" or isinstance(args.encoder_conf["genotype"], dict)
        return
    model = task.build_model(args).train()
    batch = {key: value.clone() for key, value in spec.batch.items()}
    if spec.loss:
        result = model(**batch)
        loss = result["loss"] if isinstance(result, dict) else result[0]
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
