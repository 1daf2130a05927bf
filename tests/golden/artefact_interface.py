"""What make_artefacts.py records of the interface: options, keys of JSON, names, configurations."""

# ruff: noqa: I001  (the order depends on which of the modules are still there)

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

from golden.artefact_cases import CHAIN_GENOTYPE

# Whole documents are compared: nothing in them depends on the machine. {name} is a file below.
SAME = [
    "zoo --json",
    "show darts_v2 --json --classes 10",
    "show asrnet_b --layers 5 --channels 6 --output-size 8 --stem-stride 1 2 --json",
    "show nasbench_asr_example --json",
    "show interface/genotypes/tdnn_chain_0.yaml --json",
    "table show synth_timit --top 3 --json",
    "table query synth_timit 099d7fde492b1fd57c58900b1103745b --json",
    "table query synth_timit [[4,1],[1,0,0],[5,1,0,0]] --seed 1234 --target 4 --json",
]
# Of these, the keys.
KEYS = [
    "bench asrnet_b --layers 3 --channels 2 --frames 40 --seconds 0.001 --repeats 3 --json",
    "bench --operations --space darts --layers 3 --channels 2 --input-size 8 --output-size 4 "
    "--frames 24 --seconds 0.001 --repeats 3 --checks 1 --output latency.yaml --json",
    "data check --train data/train --valid data/valid --num-mel-bins 12 --json",
]


def interface() -> dict[str, Any]:
    """Return all of it; write genotypes and configurations below interface/."""
    return {
        "genotypes": genotypes(),
        "options": options(),
        "same": {line: json_of(line) for line in SAME},
        "keys": {line: keys(json_of(line)) for line in KEYS},
        "configs": configs(),
        "names": names(),
    }


def json_of(line: str) -> Any:
    from nas_encoder.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(line.split()) == 0, line
    return json.loads(said.getvalue())


def keys(value: Any) -> Any:
    """Return a document with its values left out, and one element of each list."""
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    return None


def genotypes() -> dict[str, str]:
    """Write the zoo and, of every space, some that are drawn; return their hashes."""
    import random

    from nas_encoder import Genotype, list_genotypes, load_genotype
    from nas_encoder.spaces import get_space, list_spaces

    folder = Path("interface/genotypes")
    folder.mkdir(parents=True)
    found = {f"zoo_{name}": load_genotype(name) for name in list_genotypes()}
    rng = random.Random(0)
    for space in list_spaces():
        for number in range(3):
            found[f"{space}_{number}"] = get_space(space).sample(rng)
    found["tdnn_chain_0"] = Genotype.from_dict(CHAIN_GENOTYPE)
    for name, genotype in found.items():
        genotype.save(folder / f"{name}.yaml")
    return {name: genotype.hash for name, genotype in found.items()}


def options() -> dict[str, Any]:
    """Return, for each command (``table build`` too), its options and positional arguments."""
    from nas_encoder.cli.main import COMMANDS, build_parser

    found: dict[str, Any] = {}

    def walk(parser: argparse.ArgumentParser, words: list[str]) -> None:
        rows = found.setdefault(" ".join(words), [])
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    if words or name == COMMAND:
                        walk(sub, [*words, name])
                continue
            default = action.default
            rows.append(
                {
                    "options": list(action.option_strings),
                    "dest": action.dest,
                    "nargs": action.nargs,
                    "required": action.required,
                    "choices": None if action.choices is None else sorted(action.choices),
                    "default": list(default) if isinstance(default, tuple) else default,
                }
            )

    for COMMAND in COMMANDS:
        walk(build_parser(only=COMMAND), [])
    return found


def configs() -> dict[str, Any]:
    """Copy the shipped configurations; return what each is with its defaults."""
    from nas_encoder.resources import find_config, list_configs
    from nas_encoder.search.settings import load_any_search_config
    from nas_encoder.search.tabular.config import load_table_config

    found: dict[str, Any] = {}
    for kind, load in (("search", load_any_search_config), ("table", load_table_config)):
        folder = Path("interface/configs", kind)
        folder.mkdir(parents=True)
        for name in list_configs(kind):
            shutil.copy(find_config(name, kind), folder)
            found[f"{kind}/{name}"] = load(name).to_dict()
    return found


def names() -> dict[str, Any]:
    """Return what is registered."""
    import espnet2.tasks.asr as asr
    import nemo.core.classes.common as common

    from nas_encoder.baselines import BASELINES
    from nas_encoder.ops.table import OPERATIONS
    from nas_encoder.resources import conf_root
    from nas_encoder.search.gradient import STRATEGIES
    from nas_encoder.search.trial_names import STRATEGIES as TRIAL_STRATEGIES
    from nas_encoder.spaces import list_spaces

    root = conf_root()
    return {
        "spaces": list_spaces(),
        "operations": list(OPERATIONS),
        "gradient strategies": list(STRATEGIES),
        "trial strategies": list(TRIAL_STRATEGIES),
        "baselines": list(BASELINES),
        "train configs": sorted(str(path.relative_to(root)) for path in root.glob("train/*/*")),
        "espnet": [n for n, c in asr.encoder_choices.classes.items() if "nas_encoder" in str(c)],
        "nemo": [p for p in common.ALLOWED_TARGET_PREFIXES if p.startswith("nas_encoder.")],
    }
