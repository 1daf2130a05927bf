"""Finds trainings: those of the recipes here, with either toolkit, and of ESPnet's own run.sh.

- recipe with ESPnet: ``models/RUN/config.yaml``, ``decode/RUN[[/WAY]/TEST]/1best_recog/text``;
- recipe with NeMo: ``conf/RUN.yaml``, ``models/RUN/checkpoints``, ``decode/RUN[/WAY/TEST]/text``;
- ESPnet's ``asr.sh``: ``asr_TAG/config.yaml``, ``asr_TAG/WAY/[org/]TEST/text``.

``RUN`` is the encoder's name, of ``recipes/mini`` after ``epochs/`` or ``time/``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.interchange.frames import section
from tools.benchmark.costs import of_espnet, of_recipe, speech_of_espnet, speech_of_manifest
from tools.benchmark.trained import Decoding, Trained

TEXT = "1best_recog/text"
CONFIG = "config.yaml"
DEFAULT_TEST = "test"  # of recipes with one test set
_AVERAGES = ("*.ave.pth", "*.best.pth", "*.ave_*best.pth")


def find(folders: Sequence[tuple[str, Path]]) -> list[Trained]:
    """Return all trainings in (label, folder) of experiments, or of single trainings.

    The only training of a folder gets the folder's label, if it has one, as its name.

    Raises:
        DataError: A folder does not exist or holds no training; all problems are listed.
    """
    found: list[Trained] = []
    problems = []
    for label, folder in folders:
        own: list[Trained] = []
        if not os.path.isdir(folder):
            problems.append(f"{folder}: is no folder")
            continue
        for layout in (recipe_with_espnet, recipe_with_nemo, of_asr_sh):
            own += layout(folder)
        if not own:
            problems.append(
                f"{folder}: holds no trained model: neither models/NAME/config.yaml (recipes with "
                "ESPnet), conf/NAME.yaml and models/NAME (recipes with NeMo), nor "
                "asr_*/config.yaml or config.yaml (ESPnet's run.sh)"
            )
        if label and len(own) == 1:
            own = [replace(own[0], name=label)]
        found += [replace(one, group=label or folder.resolve().name) for one in own]
    if problems:
        raise DataError("benchmark", problems)
    return _named_apart(found)


def _named_apart(found: Sequence[Trained]) -> list[Trained]:
    """Put the folder's name before names that several trainings have."""
    names = [one.name for one in found]
    result = [
        replace(one, name=f"{one.group}/{one.name}") if names.count(one.name) > 1 else one
        for one in found
    ]
    names = [one.name for one in result]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        rule = "are found twice; give each folder once, and labels, as LABEL=FOLDER"
        raise DataError("benchmark", [f"{', '.join(twice)}: {rule}"])
    return result


def options_of(root: Path) -> Mapping[str, Any]:
    """Return the options of a recipe's run; none if it is no such folder."""
    path = root / "options.yaml"
    return read_yaml(path, ConfigError) if path.is_file() else {}


_OF_NO_CORPUS = (None, "mini", "blocks", "prompts")  # recipes that are not of a published one


def _corpus(options: Mapping[str, Any]) -> tuple[str | None, bool | None]:
    words = str(options.get("command", "")).partition(" ")[0].split("/")
    place = words.index("recipes") + 1 if "recipes" in words else len(words)
    name = words[place] if place < len(words) else None
    if name in _OF_NO_CORPUS:
        return None, True if name == "mini" else None
    own = options.get("tiny") == "true" or not options.get("corpus_dir")
    return name, own and not options.get("manifests")


def recipe_with_espnet(root: Path) -> Iterator[Trained]:
    """Yield the trainings of a recipe of ours with ESPnet."""
    options = options_of(root)
    corpus, synthetic = _corpus(options)
    for path in sorted((root / "models").rglob(CONFIG)):
        model = path.parent
        run = model.relative_to(root / "models").as_posix()
        config = read_yaml(path, ConfigError)
        if not isinstance(config, Mapping) or "encoder" not in config:
            continue  # a folder of another kind
        train = config.get("train_data_path_and_name_and_type") or [[None]]
        data = _above(root, train[0][0])  # of DATA/espnet/train/wav.scp
        decodings = [
            Decoding(way, test, text, data and _kaldi_reference(data, test))
            for way, test, text in _texts(root / "decode" / run, TEXT)
        ]
        speech = speech_of_espnet(config, [root])
        costs = of_recipe(root / "costs" / "train" / f"{run}.json", speech, options.get("ngpu", 0))
        yield Trained(
            run, "espnet", root, model, weights_of(model), config, tuple(decodings), costs,
            corpus, synthetic, data=data and data.parent,
        )  # fmt: skip


def _above(root: Path, file: object) -> Path | None:
    """Return the folder of prepared data of a toolkit that holds the folder of a file."""
    return Path(root, file).parent.parent if isinstance(file, str) else None


def recipe_with_nemo(root: Path) -> Iterator[Trained]:
    """Yield the trainings of a recipe of ours with NeMo."""
    options = options_of(root)
    corpus, synthetic = _corpus(options)
    for path in sorted((root / "conf").rglob("*.yaml")):
        run = path.relative_to(root / "conf").with_suffix("").as_posix()
        checkpoints = root / "models" / run / "checkpoints"
        if not checkpoints.is_dir():
            continue
        document = read_yaml(path, ConfigError)
        config = section(document, "model") if isinstance(document, Mapping) else {}
        if "encoder" not in config:
            continue
        averaged = root / "averaged" / f"{run}.nemo"
        weights = averaged if averaged.is_file() else checkpoints / f"{Path(run).name}.nemo"
        manifest = section(config, "train_ds").get("manifest_filepath")
        data = Path(root, manifest).parent if isinstance(manifest, str) else None
        decodings = [
            Decoding(way, test, text, data and _manifest_reference(data, test))
            for way, test, text in _texts(root / "decode" / run, "text")
        ]
        speech = speech_of_manifest(config)
        costs = of_recipe(root / "costs" / "train" / f"{run}.json", speech, options.get("ngpu", 0))
        held = weights if weights.is_file() else None
        yield Trained(
            run, "nemo", root, path, held, config, tuple(decodings), costs, corpus, synthetic,
            data=data and data.parent,
        )  # fmt: skip


def of_asr_sh(root: Path) -> Iterator[Trained]:
    """Yield the trainings of ESPnet's asr.sh: of its ``exp``, of a recipe, or the folder itself."""
    for place in (root, root / "exp"):
        for path in sorted([*place.glob(f"asr_*/{CONFIG}"), *place.glob(CONFIG)]):
            folder = path.parent
            config = read_yaml(path, ConfigError)
            if (
                not isinstance(config, Mapping)
                or "encoder" not in config
                or folder.name.startswith("asr_stats")
            ):
                continue
            above = list(folder.resolve().parents)
            top = next((p for p in above if (p / "dump" / "raw").is_dir()), folder)
            decodings = []
            for text in sorted([*folder.glob("*/*/text"), *folder.glob("*/org/*/text")]):
                way, test = text.relative_to(folder).parts[0], text.parent.name
                if not way.startswith(("decode", "inference")) or test == "org":
                    continue
                decodings.append(
                    Decoding(way, _dashed(test), *_scored(text, top, config, folder.name))
                )
            speech = speech_of_espnet(config, above)
            yield Trained(
                folder.name.removeprefix("asr_"), "espnet", folder, folder, weights_of(folder),
                config, tuple(decodings), of_espnet(folder, speech), _egs_corpus(top),
            )  # fmt: skip


def _egs_corpus(top: Path) -> str | None:
    parts = top.parts
    return next((parts[i + 1] for i, part in enumerate(parts[:-1]) if part == "egs2"), None)


def _scored(
    text: Path, top: Path, config: Mapping[str, Any], name: str
) -> tuple[Path, Path | None]:
    """Return the files that ESPnet scored; of a recipe with a cleaner others would differ."""
    reference, found = (text.parent / "score_wer" / f"{kind}.trn" for kind in ("ref", "hyp"))
    if reference.is_file() and found.is_file():
        return found, reference
    if config.get("cleaner") or config.get("non_linguistic_symbols"):
        return text, None
    test = text.parent.relative_to(text.parents[2]).as_posix().partition("/")[2] or text.parent.name
    for place in (top / "dump" / "raw" / test, top / "dump" / "raw" / text.parent.name,
                  top / "data" / text.parent.name):  # fmt: skip
        if (place / "text").is_file():
            return text, place / "text"
    return text, None


def _texts(folder: Path, file: str) -> Iterator[tuple[str, str, Path]]:
    """Yield (way, test, file) of what a recipe recognised below ``decode/RUN``."""
    for path in sorted(folder.rglob(file)):
        parts = path.relative_to(folder).parts[: -len(Path(file).parts)]
        if len(parts) <= 2:
            way = parts[0] if len(parts) == 2 else ""
            yield way, _dashed(parts[-1] if parts else DEFAULT_TEST), path


def _dashed(test: str) -> str:
    return test.replace("_", "-")


def _kaldi_reference(data: Path, test: str) -> Path | None:
    """Return the text of a test set, given ``DATA/SPLIT/espnet`` or ``DATA/espnet``."""
    places = (data.parent.parent / test / "espnet" / "test", data / test)
    return next((path for place in places if (path := place / "text").is_file()), None)


def _manifest_reference(data: Path, test: str) -> Path | None:
    places = (data.parent.parent / test / "nemo" / "test.json", data / f"{test}.json")
    return next((path for path in places if path.is_file()), None)


def weights_of(folder: Path) -> Path | None:
    """Return the checkpoint of a folder of ESPnet's that is decoded; None if there is none."""
    groups = (sorted(folder.glob(pattern)) for pattern in _AVERAGES)
    return next((group[0] for group in groups if group), None)
