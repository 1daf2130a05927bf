"""Tells which tables of the installed ESPnet hold our encoders, for ``nas-encoder doctor``."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from nas_encoder.autoload import hook_for
from nas_encoder.espnet.interface import AbsEncoder
from nas_encoder.espnet.registration import EXCLUDED
from nas_encoder.tables import NAS, encoder_stems

# Tables of a task's other encoders, and why ours are not in them.
OTHERS = {
    "espnet2.tasks.lid.encoder_condition_choices": "is not used by the task's model",
    "espnet2.tasks.s2st.unit_encoder_choices": "encodes the states of a decoder",
    "espnet2.tasks.s2t_ctc.promptencoder_choices": "encodes a text prompt",
    "espnet2.tasks.st.extra_mt_encoder_choices": "encodes the source text",
    "espnet2.tasks.st.hier_encoder_choices": "encodes the output of the speech encoder",
    "espnet2.tasks.st.md_encoder_choices": "encodes the states of a decoder",
}


def task_modules() -> list[str]:
    """Return the modules of the installed ESPnet that the import hook serves, without importing."""
    names = []
    for package in ("espnet2.tasks", "espnet3.systems"):
        try:
            spec = find_spec(package)
        except ModuleNotFoundError:  # ESPnet 202511 has no espnet3
            continue
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            files = (path.relative_to(folder) for path in Path(folder).rglob("*.py"))
            names += [".".join((package, *file.with_suffix("").parts)) for file in files]
    ours = "nas_encoder.espnet.registration"
    return sorted(name for name in names if hook_for(name) == ours and "__" not in name)


def encoder_tables(module: ModuleType) -> dict[str, Any]:
    """Return the tables by name from which the tasks of a module choose encoders of speech."""
    items = [item for item in vars(module).values() if isinstance(item, type)]
    tasks = [item for item in items if item.__module__ == module.__name__]
    listed = [id(c) for task in tasks for c in getattr(task, "class_choices_list", ())]
    return {
        name: choices
        for name, choices in vars(module).items()
        if id(choices) in listed
        and (name == "encoder_choices" or getattr(choices, "base_type", None) is AbsEncoder)
    }


def survey() -> dict[str, dict[str, Any]]:
    """Import the tasks of the installed ESPnet and return the state of each table of encoders.

    Returns:
        ``module.table`` -> ``encoders`` (ours in it), ``state`` (``registered``, ``not offered``,
        ``missing``; with the module as the key also ``not importable``) and ``why``, if known.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in task_modules():
        try:
            module = import_module(name)
        except Exception as error:  # mostly a package that ESPnet does not require
            why = f"{type(error).__name__}: {error}"
            found[name] = {"encoders": [], "state": "not importable", "why": why}
            continue
        for table, choices in encoder_tables(module).items():
            path = f"{name}.{table}"
            ours = [stem for stem in encoder_stems() if _is_ours(choices.classes.get(stem.lower()))]
            reason = EXCLUDED.get(name) or OTHERS.get(path)
            state = "registered" if NAS in ours else "missing" if reason is None else "not offered"
            found[path] = {"encoders": ours, "state": state, "why": reason}
    return found


def _is_ours(encoder: Any) -> bool:
    return hasattr(encoder, "portable_conf")
