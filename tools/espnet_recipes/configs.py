"""The configurations for ESPnet's recipes (``egs2``), put together from table.yaml.

ESPnet's ``--asr_config`` reads one plain file, so the parts that a corpus, an encoder and a loss
contribute are put together here; ``write.py`` writes the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools import recipe_tables
from tools.experiments.schedules import merge
from tools.recipe_tables import BINS, entry, masked, read_table

TABLE = Path(__file__).with_name("table.yaml")
NOTICE = "Written by python -m tools.espnet_recipes.write: change its table, not this file."
CHUNK = 5120  # samples, 0.32 s
SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Features", ("frontend", "frontend_conf", "specaug", "specaug_conf")),
    ("Network", ("encoder", "encoder_conf", "decoder", "decoder_conf", "joint_net_conf")),
    ("Loss; the checkpoints that are averaged", ("model_conf", "best_model_criterion")),
    ("Training", ()),
)


def table() -> Any:
    """Return the table."""
    return read_table(TABLE)


class Choice(recipe_tables.Choice):
    """One configuration of ESPnet's."""

    @property
    def name(self) -> str:
        """Name after ``train_asr_`` or ``training_``."""
        short = self.loss == "hybrid" and table()["encoders"][self.encoder].get("short", False)
        return self.encoder if short else super().name

    @property
    def file(self) -> Path:
        """Its place in this repository."""
        return conf_folder(self.corpus) / f"train_asr_{self.name}.yaml"


def conf_folder(corpus: str) -> Path:
    """Return the folder of a corpus's configurations, from the root of the repository."""
    return Path("recipes", corpus, "espnet", "conf")


def choices(corpus: str) -> list[Choice]:
    """Return all configurations for a corpus."""
    return [
        Choice(corpus, encoder, loss)
        for encoder, about in table()["encoders"].items()
        for loss in about["losses"]
    ]


def train_config(choice: Choice) -> dict[str, Any]:
    """Return the configuration that ESPnet's ``asr_train`` reads."""
    corpus, loss = table()["corpora"][choice.corpus], table()["losses"][choice.loss]
    encoder = table()["encoders"][choice.encoder]
    own = corpus["encoders"][choice.encoder]
    config: dict[str, Any] = {
        **_features(corpus, encoder),
        "encoder": encoder["encoder"],
        "encoder_conf": {**own["sizes"], **_unless_sized(encoder["common"], own["sizes"])},
        **corpus["config"],
    }
    if choice.loss != "hybrid":
        config = {key: value for key, value in config.items() if not key.startswith("decoder")}
    config |= loss["config"]
    config = merge(config, corpus.get("losses", {}).get(choice.loss, {}).get("config", {}))
    if choice.loss == "interctc":
        taps = own["taps"]
        config["encoder_conf"] |= {"interctc_layer_idx": taps}
        weight = round(len(taps) / (len(taps) + 1), 2)
        config["model_conf"] = {**config["model_conf"], "interctc_weight": weight}
    parts = _parts(config["batch_bins"], encoder, loss)
    config |= {
        "batch_bins": config["batch_bins"] // parts,
        "accum_grad": config["accum_grad"] * parts,
        "grad_clip": 5.0,
        "use_amp": encoder.get("amp", False) and choice.loss != "transducer",
        "keep_nbest_models": 10,
        "num_att_plot": 0,
        "num_workers": 4,
        "log_interval": 200,
        "seed": 2022,
    }
    return config


def _unless_sized(common: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in common.items() if key not in sizes}


def _features(corpus: Mapping[str, Any], encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return front end and masks, which belong together: masks are made for a number of bins."""
    frontend, bins = dict(corpus["frontend"]), encoder.get("bins", BINS)
    if "bins" in encoder:
        frontend |= {"win_length": 400, "hop_length": 160}
    return {
        "frontend": "default",
        "frontend_conf": {**frontend, "n_mels": bins},
        "specaug": "specaug",
        "specaug_conf": {
            "apply_time_warp": True,
            "time_warp_window": 5,
            "time_warp_mode": "bicubic",
            "apply_freq_mask": True,
            "freq_mask_width_range": [0, masked(bins)],
            "num_freq_mask": 2,
            "apply_time_mask": True,
            "time_mask_width_ratio_range": [0.0, 0.05],
            "num_time_mask": corpus["time_masks"],
        },
    }


def _parts(bins: int, *limits: Mapping[str, Any]) -> int:
    """Return into how many equal parts a batch is cut to fit the memory."""
    most = min(limit.get("most_bins", bins) for limit in limits)
    return next(parts for parts in range(1, bins) if bins % parts == 0 and bins // parts <= most)


def command_line(choice: Choice) -> str:
    """Return the command that runs ESPnet's recipe with a configuration."""
    streams = table()["encoders"][choice.encoder].get("streams", False)
    options = table()["losses"][choice.loss]["streaming" if streams else "options"]
    return f"./run.sh --asr_config conf/{choice.file.name} {options}".strip()


def stats_option(encoder: str) -> str:
    """Return the option that keeps an encoder's statistics of features apart, if it needs one.

    All trainings of a recipe share them, and those of another number of bins overwrite them.
    """
    bins = table()["encoders"][encoder].get("bins")
    return f"--asr_stats_dir exp/asr_stats_{bins}_bins" if bins else ""


def header(choice: Choice, usage: Sequence[str]) -> list[str]:
    """Return the comment at the top of a file."""
    corpus, encoder = table()["corpora"][choice.corpus], table()["encoders"][choice.encoder]
    own = corpus["encoders"][choice.encoder]
    lines = [
        f"{encoder['title']}:",
        f"an encoder of {own['millions']} M parameters.",
        f"{corpus['title']}.",
        f"Loss: {table()['losses'][choice.loss]['title']}.",
        NOTICE,
        "",
        *usage,
    ]
    if "source" in own:
        lines.append(f"Sizes of the encoder: {own['source']}")
    if "training" in corpus:
        lines.append(f"Settings of the training: {corpus['training']}")
    return [f"# {line}".rstrip() for line in lines]


def _usage(choice: Choice) -> list[str]:
    recipe = table()["corpora"][choice.corpus]["egs2"]
    lines = [
        f"In egs2/{recipe} of ESPnet, after recipes/install.sh:",
        f"    {command_line(choice)}",
    ]
    if option := stats_option(choice.encoder):
        lines.append(f"If others are trained there with 80 bins, add {option}")
    return lines


def render(choice: Choice) -> str:
    """Return the text of a training configuration."""
    left = train_config(choice)
    lines = header(choice, _usage(choice))
    for title, keys in SECTIONS:
        lines += ["", f"# {title}"]
        for key in keys or tuple(left):
            if key in left:
                lines += entry(key, left.pop(key))
    return "\n".join(lines) + "\n"


def decode_configs(corpus: str) -> dict[str, dict[str, Any]]:
    """Return the configurations that ESPnet's ``asr_inference`` reads, by their file names.

    A CTC model is decoded with ``ctc_weight: 1.0``: with less, ESPnet chooses tokens by an
    attention decoder that it lacks. Streams are cut into chunks, longer than a window of the
    features and shorter than every utterance: with others, ESPnet loses audio.
    """
    own = table()["corpora"][corpus]["decoding"]
    plain = {"lm_weight": 0.0, "penalty": 0.0, "maxlenratio": 0.0, "minlenratio": 0.0}
    ctc = {"beam_size": 10, "ctc_weight": 1.0, **plain}
    chunks = {"sim_chunk_length": CHUNK, "disable_repetition_detection": True}
    transducer = {"transducer_conf": {"search_type": "default", "score_norm": True}}
    return {
        "decode_hybrid": {**plain, **own["hybrid"]},
        "decode_hybrid_lm": {**plain, **own["hybrid_lm"]},
        "decode_hybrid_ngram": {**plain, **own["hybrid_ngram"]},
        "decode_hybrid_streaming": {**plain, **own["hybrid"], **chunks},
        "decode_ctc_greedy": {**ctc, "beam_size": 1},
        "decode_ctc": ctc,
        "decode_ctc_lm": {**ctc, **own["ctc_lm"]},
        "decode_ctc_ngram": {**ctc, **own["ctc_ngram"]},
        "decode_ctc_streaming": {**ctc, **chunks},
        "decode_transducer_greedy": {"beam_size": 1, **transducer},
        "decode_transducer": {"beam_size": 10, **transducer},
    }


def files(corpus: str) -> dict[Path, str]:
    """Return the texts of all configurations by their places in this repository."""
    found = {choice.file: render(choice) for choice in choices(corpus)}
    for name, config in decode_configs(corpus).items():
        lines = [line for key, value in config.items() for line in entry(key, value)]
        found[conf_folder(corpus) / f"{name}.yaml"] = "\n".join([f"# {NOTICE}", *lines, ""])
    return found
