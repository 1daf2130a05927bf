"""The configurations for NeMo's training scripts, put together from table.yaml.

``write.py`` writes them to conf/train/nemo, where NeMo finds them by ``--config-name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nas_encoder.errors import ConfigError
from tools import recipe_tables
from tools.espnet_recipes.configs import table as espnet_table
from tools.experiments.schedules import merge
from tools.recipe_tables import entry, masked, read_table

TABLE = Path(__file__).with_name("table.yaml")
CONF = Path("conf", "train", "nemo")
NOTICE = "Written by python -m tools.nemo_recipes.write: change its table, not this file."
LABELS = "${model.labels}"
# The transducer's loss of the package warp-rnnt, as nas_encoder.nemo.rnnt_loss names it for NeMo.
WARP_RNNT = "warp_rnnt"
LOSSES = ("auto", "default", "pytorch", WARP_RNNT)


def table() -> Any:
    """Return the table."""
    return read_table(TABLE)


class Choice(recipe_tables.Choice):
    """One configuration of NeMo's."""

    @property
    def config_name(self) -> str:
        """Name among all configurations, NeMo's ``--config-name``."""
        return f"{self.corpus}_{self.name}"

    @property
    def file(self) -> Path:
        """Its place in this repository."""
        return CONF / f"{self.config_name}.yaml"

    @property
    def heads(self) -> list[str]:
        """The decoders that give transcripts, ``ctc`` or ``rnnt``."""
        return list(table()["losses"][self.loss]["heads"])


def choices(corpus: str) -> list[Choice]:
    """Return all configurations for a corpus."""
    return [
        Choice(corpus, encoder, loss)
        for encoder in table()["encoders"]
        for loss in table()["losses"]
    ]


def choice_of(corpus: str, name: str) -> Choice:
    """Return the configuration of that name.

    Raises:
        ConfigError: There is none.
    """
    known = {choice.name: choice for choice in choices(corpus)}
    if name not in known:
        raise ConfigError("--encoders", [f"must be of {', '.join(known)}; got '{name}'"])
    return known[name]


def loss_name(wanted: str, ngpu: int) -> str:
    """Return NeMo's name of the transducer's loss.

    ``auto`` is warp-rnnt's where it is installed and GPUs are used, else NeMo's own.

    Raises:
        ConfigError: warp-rnnt is asked for without a GPU, on which alone it runs, or is missing.
    """
    if wanted not in LOSSES:
        raise ConfigError("--rnnt_loss", [f"must be of {', '.join(LOSSES)}; got '{wanted}'"])
    if wanted == "auto":
        return WARP_RNNT if ngpu and _installed() else "default"
    if wanted == WARP_RNNT and not ngpu:
        raise ConfigError("--rnnt_loss", [f"{WARP_RNNT} runs on GPUs only; give --ngpu, or auto"])
    if wanted == WARP_RNNT and not _installed():
        raise ConfigError("--rnnt_loss", [f"{WARP_RNNT} is not installed; it builds with CUDA"])
    return wanted


def _installed() -> bool:
    return find_spec(WARP_RNNT) is not None


def _model(section: str, name: str) -> dict[str, Any]:
    """Return the part of ``model`` of an encoder or a loss."""
    about = table()[section][name]
    base = _model(section, about["like"]) if "like" in about else {}
    return merge(base, about["model"])


def encoder_config(choice: Choice) -> dict[str, Any]:
    """Return ``model.encoder``."""
    about, corpus = table()["encoders"][choice.encoder], table()["corpora"][choice.corpus]
    options = _model("encoders", choice.encoder)
    if about["size"] == "espnet":
        sizes = espnet_table()["corpora"][choice.corpus]["encoders"][choice.encoder]["sizes"]
        options |= sizes
        options.setdefault("d_model", sizes.get("channels"))
    else:
        size = table()["sizes"][corpus["size"]]
        options |= {**size["encoder"], **size.get(choice.name, {})}
    options |= corpus.get("encoders", {}).get(choice.encoder, {})
    target = options.pop("_target_")
    return {"_target_": target, "feat_in": "${model.preprocessor.features}", **options}


def with_tokens(
    config: Mapping[str, Any], kind: str, labels: Any = "???", folder: str = "???"
) -> dict[str, Any]:
    """Return a configuration with its tokens.

    Args:
        config: One without them.
        kind: ``char`` or ``bpe``.
        labels: Of ``char``: the characters.
        folder: Of ``bpe``: the tokenizer's.
    """
    if kind == "bpe":
        return merge(config, {"model": {"tokenizer": {"dir": folder, "type": "bpe"}}})
    parts = ("train_ds", "validation_ds", "test_ds")
    model: dict[str, Any] = {"labels": labels, "use_cer": True}
    model |= {part: {"labels": LABELS} for part in parts}
    if "aux_ctc" in config["model"]:
        model["aux_ctc"] = {"use_cer": True, "decoder": {"vocabulary": LABELS}}
    elif "loss" not in config["model"]:
        model["decoder"] = {"vocabulary": LABELS}
    return merge(config, {"model": model})


def train_config(choice: Choice) -> dict[str, Any]:
    """Return the configuration without tokens."""
    about, corpus = table()["encoders"][choice.encoder], table()["corpora"][choice.corpus]
    lengths = espnet_table()["corpora"][choice.corpus]["config"]
    config = merge({"name": choice.config_name}, table()["base"])
    batches = {part: {"batch_size": about["batch"]} for part in ("train_ds", "validation_ds")}
    bins = about["bins"]
    model = {
        **batches,
        "preprocessor": {"features": bins},
        "spec_augment": {"freq_width": masked(bins), "time_masks": corpus["masks"]},
        "encoder": encoder_config(choice),
        "optim": {"sched": {"warmup_steps": lengths["scheduler_conf"]["warmup_steps"]}},
    }
    config = merge(config, {"model": model})
    config = merge(config, {"model": _model("losses", choice.loss)})
    if choice.loss != "ctc":
        hidden = table()["sizes"][corpus["size"]]["hidden"]
        sizes = {"pred_hidden": hidden, "joint_hidden": hidden}
        config = merge(config, {"model": {"model_defaults": sizes}})
    trainer = {
        "max_epochs": lengths["max_epoch"],
        "accumulate_grad_batches": corpus["update"] // about["batch"],
    }
    return merge(config, {"trainer": trainer})


def header(choice: Choice) -> list[str]:
    """Return the comment at the top of a file."""
    corpus, loss = table()["corpora"][choice.corpus], table()["losses"][choice.loss]
    kind = corpus["tokens"]
    tokens = "model.labels=[...]" if kind == "char" else "model.tokenizer.dir=tokenizer"
    given = (
        ["The labels are the lines of vocab.txt of nas-encoder data tokens --layout nemo."]
        if kind == "char"
        else []
    )
    lines = [
        f"{table()['encoders'][choice.encoder]['title']}.",
        f"{corpus['title']}. Loss: {loss['title']}.",
        "",
        f"recipes/{choice.corpus.partition('_')[0]}/nemo trains it. With NeMo's own script:",
        f"    python <NeMo>/examples/asr/{loss['scripts'][kind]} \\",
        f"      --config-name={choice.config_name} \\",
        "      model.train_ds.manifest_filepath=train.json \\",
        f"      model.validation_ds.manifest_filepath=dev.json {tokens}",
        *given,
        NOTICE,
    ]
    return [f"# {line}".rstrip() for line in lines]


def render(choice: Choice) -> str:
    """Return the text of a configuration."""
    config = with_tokens(train_config(choice), table()["corpora"][choice.corpus]["tokens"])
    lines = header(choice)
    for key, value in config.items():
        lines += ["", *entry(key, value)]
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Return the texts of all configurations by their places in this repository."""
    return {
        choice.file: render(choice) for corpus in table()["corpora"] for choice in choices(corpus)
    }
