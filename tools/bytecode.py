"""Byte-compile one process's share of the modules in some folders, for ``setup_env.py``.

Usage: ``bytecode.py SHARE SHARES FOLDER ...``; shares are counted from 0. Modules that hardly
anything imports are left to whoever does, as are those that do not compile (templates, say).
"""

from __future__ import annotations

import compileall
import re
import sys
from collections.abc import Sequence
from pathlib import Path

SELDOM = re.compile(r"/tests?/|/transformers/models/(?!auto/)")  # a third of all modules


def main(argv: Sequence[str]) -> None:
    """Compile the share; what is up to date already stays as it is."""
    share, shares = int(argv[0]), int(argv[1])
    files = sorted(str(file) for folder in argv[2:] for file in Path(folder).rglob("*.py"))
    for file in [file for file in files if not SELDOM.search(file)][share::shares]:
        compileall.compile_file(file, quiet=2)


if __name__ == "__main__":
    main(sys.argv[1:])
