"""What the tables of configurations for ESPnet's recipes and for NeMo's have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError

BINS, MASK = 80, 27  # both toolkits mask up to 27 of 80 bins


@cache
def read_table(path: Path) -> Any:
    """Return a table, which is read once."""
    return read_yaml(path, ConfigError)


@dataclass(frozen=True)
class Choice:
    """One configuration: a corpus, an encoder and a loss, by their names in a table."""

    corpus: str
    encoder: str
    loss: str

    @property
    def name(self) -> str:
        """Name among those of its corpus."""
        return f"{self.encoder}_{self.loss}"


def masked(bins: int) -> int:
    """Return how many of so many bins a mask covers at most."""
    return MASK * bins // BINS


def entry(key: str, value: Any, indent: str = "") -> Iterator[str]:
    """Yield the lines of an entry: mappings as blocks, lists in one line."""
    if isinstance(value, Mapping):
        yield f"{indent}{key}:"
        for name, item in value.items():
            yield from entry(name, item, indent + "  ")
    else:
        text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=1000)
        yield f"{indent}{key}: {text[1:-2]}"
