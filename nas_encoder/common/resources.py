"""The shipped configurations.

Every Hydra application of an environment imports this module (``hydra_plugins/``), so it imports
what error messages need only when one is raised.
"""

from __future__ import annotations

from pathlib import Path

from nas_encoder.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent


def conf_root() -> Path:
    """Return the folder of shipped configurations, in a wheel or a source checkout."""
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parent / "conf"


def list_configs(kind: str) -> list[str]:
    """Return the names of the shipped configurations of a kind, for example ``"search"``."""
    return sorted(path.stem for path in (conf_root() / kind).glob("*.yaml"))


def find_config(name_or_path: str | Path, kind: str) -> Path:
    """Return the file of a shipped name (``tiny``) or of a path.

    Raises:
        ConfigError: Neither exists; the message lists the shipped names.
    """
    text = str(name_or_path)
    names = list_configs(kind)
    if text in names:
        return conf_root() / kind / f"{text}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    from nas_encoder.common.problems import guess, show

    rule = f"no file {show(text)} and no shipped {kind} config of that name{guess(text, names)}"
    raise ConfigError("config", [f"{rule}; shipped: {', '.join(names)}"])
