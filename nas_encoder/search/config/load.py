"""Reads a search configuration: a shipped name or a file, plus command-line settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nas_encoder.common.settings import read_config
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.strategies import TRIALS, strategies


def load_search_config(name_or_path: str | Path, settings: Sequence[str] = ()) -> SearchConfig:
    """Read a shipped configuration or a file, with ``key=value`` settings on top.

    Args:
        name_or_path: For example ``"he2020_revised"`` or ``"my/search.yaml"``.
        settings: For example ``"weights.lr=0.02"`` or ``"stages.0.epochs=3"``.

    Raises:
        ConfigError: A file, a setting or a value is wrong; all problems are listed.
    """
    document, path = read_config("search", name_or_path, settings)
    return SearchConfig.from_dict(document, str(path))


def load_any_search_config(
    name_or_path: str | Path, settings: Sequence[str] = ()
) -> SearchConfig | TrialsConfig:
    """Read the configuration of a gradient search or of a search by trials.

    Arguments and errors are those of :func:`load_search_config`.
    """
    document, path = read_config("search", name_or_path, settings)
    trials = isinstance(document, dict) and document.get("strategy") in strategies(TRIALS)
    return (TrialsConfig if trials else SearchConfig).from_dict(document, str(path))
