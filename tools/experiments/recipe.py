"""What a recipe's ``recipe.yaml`` says: its stages, its options, and what their values may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError, InputError

Options = dict[str, Any]
KEYS = ("about", "stages", "notes", "options", "tiny", "choices")
FOLDERS = ("expdir", "datadir", "downloads")

HELP = """\
usage: run.sh [--stage N] [--stop_stage N] [--nj N] [--expdir DIR] [--tiny true] ...

{about}
{stages}

What is done already is left out, what was stopped goes on; a job whose command, inputs or
parameters changed is done again. Jobs of several stages run side by side where none waits for the
other. Logs: EXPDIR/log.
{notes}
options and their defaults:
{options}

--profile is how jobs are run: 'local', 'slurm' or 'shell' of tools/experiments/profiles, or the
folder of any Snakemake profile; --nj is then how many jobs are submitted at a time.
"""


@dataclass(frozen=True)
class Recipe:
    """One recipe.

    Attributes:
        folder: Holds ``recipe.yaml`` and ``Snakefile``.
        about: What it is for.
        stages: Name -> what is done in it, in order.
        notes: More for the help.
        options: Name -> default. A whole number stays one.
        tiny: What ``--tiny true`` sets.
        choices: Option of several words -> ``first``, the word it must begin with, and
            ``words``, those that it may hold, or ``files``, where a file is for each.
    """

    folder: Path
    about: str
    stages: dict[str, str]
    notes: str
    options: Options
    tiny: Options
    choices: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Recipe:
        """Read ``recipe.yaml`` of a folder.

        Raises:
            ConfigError: Keys are unknown or missing, or name options that are not declared.
        """
        path = folder / "recipe.yaml"
        found = read_yaml(path, ConfigError)
        problems = [f"{key}: unknown key" for key in found if key not in KEYS]
        problems += [f"{key}: is missing" for key in ("about", "stages") if key not in found]
        if problems:
            raise ConfigError(str(path), problems)
        general = {
            "stage": 1,
            "stop_stage": len(found["stages"]),
            "nj": 2,
            "seed": 1,
            "tiny": "false",
            "expdir": "exp",
            "datadir": "data",
            "downloads": "downloads",
            "profile": "local",
        }
        options = {**general, **found.get("options", {})}
        tiny, choices = found.get("tiny", {}), found.get("choices", {})
        problems = [
            f"{section}: '{name}' is no option"
            for section, names in (("tiny", tiny), ("choices", choices))
            for name in names
            if name not in options
        ]
        if problems:
            raise ConfigError(str(path), problems)
        stages = {name: str(text) for name, text in found["stages"].items()}
        about, notes = found["about"], found.get("notes", "")
        return cls(folder, about, stages, notes, options, tiny, choices)

    def help(self) -> str:
        """Return what ``--help`` shows."""
        width = max(map(len, self.stages)) + 2
        stages = [
            f"  {number}  {name:<{width}}{text}"
            for number, (name, text) in enumerate(self.stages.items(), 1)
        ]
        options = [
            f"  --{name} " + (f'"{value}"' if " " in str(value) or value == "" else str(value))
            for name, value in self.options.items()
        ]
        return HELP.format(
            about=self.about,
            stages="\n".join(stages),
            notes=self.notes,
            options="\n".join(options),
        )

    def parse(self, arguments: Sequence[str]) -> Options:
        """Return the options of a command line, as Kaldi's recipes take them: ``--name value``.

        Raises:
            InputError: An option is unknown, has no value, or one that it may not have.
        """
        options = dict(self.options)
        given = list(arguments)
        while given:
            word = given.pop(0)
            name = word[2:].replace("-", "_")
            if not word.startswith("--"):
                raise InputError(f"unexpected argument '{word}'; --help shows how it is used")
            if name not in options:
                raise InputError(f"unknown option {word}; --help lists them")
            if not given:
                raise InputError(f"{word} needs a value")
            options[name] = given.pop(0)
        problems = []
        for name, default in self.options.items():
            if isinstance(default, int):
                if not re.fullmatch("[0-9]+", str(options[name])):
                    problems.append(f"--{name}: must be a whole number, got '{options[name]}'")
                else:
                    options[name] = int(options[name])
        if options["tiny"] == "true":
            options.update(self.tiny)
        for name, rule in self.choices.items():
            problems += self._wrong_words(name, options[name], rule)
        if problems:
            raise InputError("\n".join(problems))
        for name in FOLDERS:
            options[name] = str((self.folder / options[name]).resolve())
        return options

    def _wrong_words(self, name: str, value: str, rule: dict[str, Any]) -> list[str]:
        words = value.split()
        if "first" in rule:
            if len(words) < 2 or words[0] != rule["first"]:
                return [
                    f"--{name}: must be {rule['first']} and then at least one other, got '{value}'"
                ]
            words = words[1:]
        known = rule.get("words")
        if known is not None:
            return [
                f"--{name}: must be of '{' '.join(known)}', got '{word}'"
                for word in words
                if word not in known
            ]
        files = [rule["files"].format(word) for word in words]
        return [
            f"--{name}: there is no {file}" for file in files if not (self.folder / file).is_file()
        ]
