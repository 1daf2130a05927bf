"""Writes the configurations of recipes/*/espnet from table.yaml.

A test compares the files with what this would write.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import ConfigError
from tools.espnet_recipes import configs, espnet3
from tools.scripts import command

ROOT = Path(__file__).resolve().parents[2]


def files() -> dict[Path, str]:
    """Return the texts of all configurations by their places in this repository."""
    found: dict[Path, str] = {}
    for corpus in configs.table()["corpora"]:
        found |= configs.files(corpus) | espnet3.files(corpus)
    return found


def stale(root: Path = ROOT) -> list[Path]:
    """Return the files that are not there, not up to date, or not ours."""
    wanted = files()
    there = {
        path.relative_to(root)
        for folder in {path.parent for path in wanted}
        for path in (root / folder).glob("*")
    }
    changed = [
        path
        for path in sorted(there & set(wanted))
        if (root / path).read_text(encoding="utf-8") != wanted[path]
    ]
    return [*changed, *sorted(there ^ set(wanted))]


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    wanted = files()
    for path in stale():
        if path not in wanted:
            raise ConfigError(str(path), ["is in the folder of our configurations; move it away"])
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(ROOT / path, wanted[path].encode(), ConfigError)
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
