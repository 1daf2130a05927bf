"""Writes the configurations of the NeMo recipes to conf/train/nemo, from table.yaml.

A test compares the files with what this would write.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import ConfigError
from tools.nemo_recipes.configs import CONF, NOTICE, files
from tools.scripts import command

ROOT = Path(__file__).resolve().parents[2]


def stale(root: Path = ROOT) -> list[Path]:
    """Return the files that are not there, not up to date, or of no configuration any more."""
    wanted = files()
    there = {
        path.relative_to(root): text
        for path in (root / CONF).glob("*.yaml")
        if NOTICE in (text := path.read_text(encoding="utf-8"))
    }
    changed = [path for path, text in wanted.items() if there.get(path) != text]
    return [*changed, *sorted(set(there) - set(wanted))]


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    wanted = files()
    for path in stale():
        if path not in wanted:
            raise ConfigError(str(path), ["is of no configuration any more; delete it"])
        write_atomically(ROOT / path, wanted[path].encode(), ConfigError)
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
