"""What the scripts of recipes have in common."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError, NasEncoderError, StoppedError

P = ParamSpec("P")


def command(main: Callable[P, None]) -> Callable[P, int]:
    """Return ``main`` as a function that prints our errors and returns the exit status."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            main(*args, **kwargs)
        except StoppedError as stopped:
            again = shlex.join([sys.executable, *sys.argv])
            print(f"{stopped}; run the same command again to go on:\n  {again}", file=sys.stderr)
            return stopped.status
        except NasEncoderError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    return run


def write_json(path: Path, document: Any, indent: int | None = 2, ascii_only: bool = True) -> None:
    """Write a JSON file atomically; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only) + "\n"
    write_atomically(path, text.encode(), DataError)
