"""The README.md that a model hub shows beside a trained model, from its files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from nas_encoder import __version__
from nas_encoder.common.documents import plain
from nas_encoder.common.problems import show
from nas_encoder.common.provenance import machine
from nas_encoder.errors import ConfigError
from nas_encoder.interchange import card
from nas_encoder.interchange.convert import read
from nas_encoder.interchange.files import Archive, read_file
from nas_encoder.interchange.frames import frame_shift, sample_rate
from nas_encoder.interchange.model import Model
from nas_encoder.network.complexity import count_macs

SECONDS = 10.0  # of speech, for multiply-adds and the real-time factor
RESULTS = "RESULTS.md"  # of ESPnet's recipes
# Option -> what each of its values must look like, and what that is called.
_RULES = {
    "repo": (r"[\w.-]+/[\w.-]+", "an owner and a name, such as 'me/librispeech_nas'"),
    "language": (r"[a-z]{2,3}(-[A-Za-z]{2,8})*", "an ISO 639 code, such as 'en' or 'zh'"),
    "datasets": (r"[\w.-]+(/[\w.-]+)?", "a data set's name, such as 'librispeech_asr'"),
    "license": (r"[a-z0-9][a-z0-9.-]*", "a hub's name for it, such as 'cc-by-4.0'"),
}


def check(about: Mapping[str, str | Sequence[str] | None]) -> None:
    """Raise ConfigError, with all problems, unless the metadata have the forms that hubs accept."""
    problems = []
    for name, value in about.items():
        rule, words = _RULES[name]
        for item in [value] if isinstance(value, str) else value or ():
            if not re.fullmatch(rule, item):
                problems.append(f"--{name}: must be {words}, got {show(item)}")
    if problems:
        raise ConfigError("card", problems)


def write_readme(
    source: Path,
    *,
    repo: str | None = None,
    language: Sequence[str] = (),
    datasets: Sequence[str] = (),
    license: str | None = None,
    requirement: str = card.WHEEL,
    results: Path | None = None,
    checkpoint: str | None = None,
    time: Callable[[nn.Module, int, int], float] | None = None,
) -> tuple[str, list[str]]:
    """Return the card of a trained model, and what prevents others from using the model.

    Args:
        source: As for ``convert``: ESPnet's folder, a ``.pth`` file in one or a packed archive; a
            ``.nemo`` file or its unpacked folder.
        repo: Where it is to be uploaded, ``owner/name``.
        language: ISO 639 codes.
        datasets: Names of the data sets.
        license: A hub's identifier.
        requirement: What users give to pip for this package.
        results: Markdown with results; by default the RESULTS.md beside or in the model.
        checkpoint: The ``.pth`` file in the folder.
        time: Measures the seconds of a network on (frames, features), for the real-time factor.

    Raises:
        CheckpointError: The model cannot be read.
        ConfigError: Metadata have a wrong form; all problems are listed.
    """
    check({"repo": repo, "language": language, "datasets": datasets, "license": license})
    model = read(source, checkpoint, convertible=False)
    given = {"language": list(language), "datasets": list(datasets), "license": license}
    about: dict[str, Any] = {name: value for name, value in given.items() if value}
    if len(language) == 1:
        about["language"] = language[0]
    data = ("training", "validation")
    sections: dict[str, Mapping[str, Any] | str] = {
        "Use": _use(model, source, repo),
        "Model": _facts(model, time),
        "Results": _results(source, results),
        "Training": {
            "card written": f"{card.today()}, nas_encoder {__version__}",
            **{name: value for name, value in model.facts.items() if name not in data},
        },
        "Data": {name: model.facts.get(name) for name in data},
        "Configuration": card.folded(
            "as the toolkit saved it",
            card.fenced(yaml.safe_dump(model.config, sort_keys=False, allow_unicode=True), "yaml"),
        ),
    }
    title, genotype = repo or _name(model), model.encoder.genotype
    text = card.render(title, model.toolkit, genotype, sections, about, requirement)
    return text, _missing(source, model)


def _missing(source: Path, model: Model) -> list[str]:
    """Return the files that a packed ESPnet model needs and does not hold."""
    if model.toolkit != "espnet" or source.is_dir() or source.suffix == ".pth":
        return []
    held, config = Archive(source), model.config
    files = {
        "normalize_conf.stats_file": (config.get("normalize_conf") or {}).get("stats_file"),
        "bpemodel": config.get("bpemodel"),
    }
    remedy = "pack again with --option and that file, in the folder that its path starts from"
    return [
        f"{source}: {name}: {file} is not in it, so that the model loads on this machine only; "
        + ("make the path in the config relative and " if Path(file).is_absolute() else "")
        + remedy
        for name, file in files.items()
        if file is not None and str(file) not in held
    ]


def _name(model: Model) -> str:
    """Return the name of the file, of a training's folder that of the folder."""
    path = Path(os.path.abspath(model.source))  # where links are, not where they lead
    return path.parent.name if path.suffix == ".pth" else path.stem


def _use(model: Model, source: Path, repo: str | None) -> str:
    place = repo or source.name
    if model.toolkit == "nemo":
        load = "restore_from" if place.endswith(".nemo") else "from_pretrained"
        code = f"""
from nemo.collections.asr.models import ASRModel

model = ASRModel.{load}({place!r})
print(model.transcribe(["speech.wav"])[0].text)
"""
        return card.fenced(code, "python")
    config = model.config
    conf = config.get("model_conf") or {}
    only = config.get("decoder") is None or conf.get("ctc_weight") == 1.0
    options = ", ctc_weight=1.0, lm_weight=0.0, beam_size=1" if only else ""
    weights = Path(model.source)
    if repo is None and weights.suffix == ".pth":  # from_pretrained takes archives and hubs' names
        folder = _name(model)
        load = f"Speech2Text({f'{folder}/config.yaml'!r}, {f'{folder}/{weights.name}'!r}{options})"
    else:
        load = f"Speech2Text.from_pretrained({place!r}{options})"
    code = f"""
import soundfile
from espnet2.bin.asr_inference import Speech2Text

model = {load}
speech, rate = soundfile.read("speech.wav")  # {sample_rate("espnet", config):g} Hz, one channel
print({"model(speech)[0][0][0]" if _taps(model) else "model(speech)[0][0]"})
"""
    note = "\n\nThe model has a CTC layer only: other weights decode nonsense." if only else ""
    return card.fenced(code, "python") + note


def _taps(model: Model) -> bool:
    """Return whether ESPnet gives the results of intermediate CTC layers too."""
    return bool((model.config.get("encoder_conf") or {}).get("interctc_layer_idx"))


def _facts(model: Model, time: Callable[[nn.Module, int, int], float] | None) -> dict[str, Any]:
    encoder = model.encoder
    network = encoder.build().eval()
    network.load_state_dict(
        {name.removeprefix("network."): tensor for name, tensor in encoder.weights.items()}
    )
    shift, rate = frame_shift(model.toolkit, model.config), sample_rate(model.toolkit, model.config)
    bins, frames = encoder.options["input_size"], round(SECONDS / shift)
    genotype = encoder.genotype
    facts = {
        "encoder": encoder.kind,
        "genotype": f"{genotype.name}, hash {genotype.hash}" if genotype else "none (a baseline)",
        "encoder options": {n: v for n, v in encoder.options.items() if n != "genotype"},
        "parameters of the encoder": encoder.parameters,
        "parameters of the model": model.parameters,
        f"multiply-adds of the encoder for {SECONDS:g} s": count_macs(network, frames, bins),
        "frame rate": f"1 output frame for {network.subsampling_factor} input frames",
        "input frames": f"{bins} features every {1000 * shift:g} ms at {rate:g} Hz",
    }
    if time is not None:
        facts["real-time factor of the encoder"] = (
            f"{time(network, frames, bins) / SECONDS:.4f} ({SECONDS:g} s, one thread, {machine()})"
        )
    return {name: plain(value) for name, value in facts.items()}


def _results(source: Path, given: Path | None) -> Mapping[str, Any] | str:
    """Return the results in Markdown; none if no file is given or found."""
    if given is not None:
        data = read_file(given)
    elif source.is_dir() or source.suffix == ".pth":
        path = (source if source.is_dir() else source.parent) / RESULTS
        data = read_file(path) if path.is_file() else b""
    else:
        archive = Archive(source)
        names = sorted(name for name in archive.names if Path(name).name == RESULTS)
        data = archive.read(names[0]) if names else b""
    return card.below(data.decode("utf-8", "replace"), 2) if data.strip() else {}
