"""The genotypes of a recipe: those that it searches, and those that it is given.

    run.sh --search "cells blocks" --genotype "mine=my_genotype.yaml b=asrnet_b"

Each becomes an encoder beside the others: ``searched_cells``, ``searched_blocks``, ``mine``, ``b``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.problems import Problems
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces import get_space

_SIZED = re.compile(r"([a-z_]+)\(([a-z_]+=[0-9]+(?:,[a-z_]+=[0-9]+)*)\)")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
SHIPPED = Path(__file__).resolve().parents[2] / "conf" / "search"


@dataclass(frozen=True)
class Source:
    """Where an encoder's genotype comes from.

    Attributes:
        genotype: A file, which a search may have to write first, or what else
            :func:`read_genotype` takes.
        sized: Whether genotypes of its space have widths and depths of their own.
    """

    genotype: str
    sized: bool


@dataclass(frozen=True)
class Search:
    """One search.

    Attributes:
        config: What ``nas-encoder search --config`` takes.
        file: The configuration.
        source: The genotype that is found.
        seeds: How many of them the configuration asks for; 0 if it names none.
        options: More of them.
    """

    config: str
    file: Path
    source: Source
    seeds: int
    options: str

    def seed_options(self, seed: int) -> str:
        """Return options for as many seeds, the first of which is the recipe's."""
        if not self.seeds:
            return f"--seed {seed}"
        return f"--seeds {' '.join(str(seed + place) for place in range(self.seeds))}"


def _pairs(words: str, option: str) -> dict[str, str]:
    found, problems = {}, Problems()
    for word in words.split():
        name, equals, value = word.partition("=")
        if not (equals and value and _NAME.fullmatch(name)):
            problems.add(option, f"must be NAME=VALUE, with a name of a-z, 0-9 and _; got '{word}'")
        elif name in found:
            problems.add(option, f"'{name}' is there twice")
        found[name] = value
    if problems:
        raise ConfigError("options", problems.lines)
    return found


def _options_of(words: str, names: Collection[str]) -> dict[str, str]:
    """Return each search's words: those after its name, and those before any name."""
    common: list[str] = []
    found: dict[str, list[str]] = {name: [] for name in names}
    target = common
    for word in words.split():
        if word in found:
            target = found[word]
        else:
            target.append(word)
    return {name: " ".join([*common, *own]) for name, own in found.items()}


def searches(names: str, configs: str, words: str, recipe: Path) -> dict[str, Search]:
    """Return the chosen searches by the names of their encoders.

    Args:
        names: Option ``--search``: words.
        configs: Option ``--search_config``: ``NAME=CONFIG`` for each, a shipped name or a file.
        words: Option ``--search_args``: options of ``nas-encoder search``, after the name of a
            search for it alone.
        recipe: The recipe's folder, from which files are named.

    Raises:
        ConfigError: A search has no configuration, or it cannot be read.
    """
    known, found = _pairs(configs, "--search_config"), {}
    options = _options_of(words, known)
    for name in dict.fromkeys(names.split()):
        if name not in known:
            rule = f"must be of {', '.join(known)}, the names in --search_config; got '{name}'"
            raise ConfigError("--search", [rule])
        file = SHIPPED / f"{known[name]}.yaml"
        shipped = file.is_file()
        if not shipped:
            file = Path(recipe, known[name])
        document: Any = read_yaml(file, ConfigError)
        if not (isinstance(document, Mapping) and isinstance(document.get("space"), str)):
            raise ConfigError(
                str(file), ["space: is missing; it must be the configuration of a search"]
            )
        space = get_space(document["space"])
        source = Source(f"search/{name}/genotype.yaml", space.has("scaling"))
        config = known[name] if shipped else str(file)
        found[f"searched_{name}"] = Search(
            config, file, source, len(document.get("seeds", ())), options[name]
        )
    return found


def read_genotype(source: str) -> Genotype:
    """Load a genotype: of a file, of the zoo, or a known encoder like ``conformer(width=64)``."""
    if sized := _SIZED.fullmatch(source):
        sizes = (word.split("=") for word in sized[2].split(","))
        return load_genotype({"known": sized[1], **{name: int(value) for name, value in sizes}})
    return load_genotype(source)


def given(
    words: str, recipe: Path, others: Mapping[str, Source] = MappingProxyType({})
) -> dict[str, Source]:
    """Return the genotypes of the option ``--genotype``, after others, by their encoders' names.

    Args:
        words: ``NAME=GENOTYPE`` for each, see :func:`read_genotype`.
        recipe: The recipe's folder, from which files are named.
        others: Those that are searched.

    Raises:
        ConfigError: A word has another form, or a name is one of the others.
        GenotypeError: There is no such genotype.
    """
    found = dict(others)
    for name, value in _pairs(words, "--genotype").items():
        if name in others:
            raise ConfigError("--genotype", [f"'{name}' is what --search calls its own; rename it"])
        is_file = "/" in value or value.endswith((".yaml", ".yml"))
        source = Path(recipe, value).resolve() if is_file else value
        genotype = read_genotype(str(source))
        found[name] = Source(str(source), get_space(genotype.space).has("scaling"))
    return found


def require_names(names: Collection[str], others: Collection[str], lacking: str) -> None:
    """Refuse names with two meanings, and none at all.

    Args:
        names: Those of ``--encoders``.
        others: Those of ``--genotype``.
        lacking: What is said where there are none: who else could name one.

    Raises:
        ConfigError: They are.
    """
    if both := sorted(set(names) & set(others)):
        rule = f"must not be a name of --encoders: {', '.join(both)}"
        raise ConfigError("--genotype", [rule])
    if not (names or others):
        raise ConfigError("--encoders", [f"must name one, if {lacking}"])
