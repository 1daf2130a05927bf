"""The encoders that are compared: the list, and each as one document that builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.common.fields import Declared, anything, choice, number, option, text
from nas_encoder.common.problems import Problems
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import load_genotype

if TYPE_CHECKING:
    from torch import nn

# What an encoder is to the comparison.
SEARCHED, CHANCE, CELLS = "searched", "chance", "cells"
PEER, NARROWED = "peer", "narrowed"
ROLES = (SEARCHED, CHANCE, CELLS, PEER, NARROWED)
GENOTYPE = "genotype"
TITLES = {"oneshot": "best of a one-shot search", "fast": "fast searched blocks"}  # by strategy
_SEARCH = "_search"


@dataclass(frozen=True)
class Encoder(Declared):
    """An encoder of the list ``conf/encoders.yaml``, or with its genotype, of one corpus.

    Attributes:
        title: Its name in tables.
        role: ``searched``; ``chance``: the best of a random search; ``cells``; ``peer``: as its
            authors ship it; ``narrowed``: a peer with a narrower front end.
        build: Its name in :data:`nas_encoder.tables.PEERS`.
        options: Its options. A genotype that is searched is added to them.
        search: For a genotype, the strategy whose result it is; null if ``options`` has it.
        corpus: The corpus that it was searched on; null for the one that it is trained on.
        lookahead_ms: What it may see ahead; null for whole utterances.
    """

    title: str = option("", text("a text"))
    role: str = option(PEER, choice("role", ROLES))
    build: str = option(GENOTYPE, text("a name"))
    options: Mapping[str, Any] = option(dict, anything)
    search: str | None = option(None, text("a strategy or null"))
    corpus: str | None = option(None, text("a corpus or null"))
    lookahead_ms: float | None = option(None, number(0, 1e9))

    def conflicts(self, found: Problems) -> None:
        """Check that a genotype comes from one place, and only a genotype from a search."""
        if (self.search is not None) != (self.build == GENOTYPE and GENOTYPE not in self.options):
            found.conflict("search", "is for a genotype that 'options' does not hold", "options")


def read_encoders(path: Path) -> dict[str, Encoder]:
    """Read the list; ConfigError with all problems if it is wrong."""
    document = read_yaml(path, ConfigError)
    if not isinstance(document, Mapping) or not document:
        raise ConfigError(str(path), ["must map names of encoders to their descriptions"])
    found, problems = {}, []
    for name, entry in document.items():
        try:
            found[str(name)] = Encoder.from_dict(entry, str(name))
        except ConfigError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
            continue
    if problems:
        raise ConfigError(str(path), problems)
    return found


def found_by(strategy: str) -> tuple[str, Encoder]:
    """Return the name and the encoder for the result of a search that the list does not name."""
    title = TITLES.get(strategy, f"best of a {strategy} search")
    return f"{strategy}{_SEARCH}", Encoder(title=title, role=SEARCHED, search=strategy)


def unlisted(name: str) -> Encoder:
    """Return the encoder of a name that is not in the list: of a search, or of a random point."""
    if name.endswith(_SEARCH):
        return found_by(name.removesuffix(_SEARCH))[1]
    return Encoder(title=name, role=CHANCE, search="random")


def write_spec(
    path: Path, encoder: Encoder, genotype: Path | None, network: Mapping[str, Any]
) -> None:
    """Write the document that builds an encoder, with its genotype and the search's network."""
    document = asdict(encoder)
    if encoder.lookahead_ms is None:
        del document["lookahead_ms"]  # as in documents of runs before there was one
    if genotype is not None:
        found = load_genotype(genotype).to_dict()
        document["options"] = {**network, **encoder.options, GENOTYPE: found}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(path, document, ConfigError)


def build(spec: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build the encoder of a document of :func:`write_spec`; F is ``input_size``."""
    from nas_encoder.peers import build_peer  # the plan does without torch

    return build_peer(spec["build"], spec["options"], input_size)
