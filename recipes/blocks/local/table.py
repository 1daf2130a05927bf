"""Measures a table of latencies with ``nas-encoder bench``, going on where that was stopped.

Snakemake removes the output of a job that is stopped. So what is measured is in another file beside
it until all is there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nas_encoder.cli.main import main as nas_encoder
from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the whole table")
    parser.add_argument("bench", nargs="+", help="after '--': options of nas-encoder bench")
    args = parser.parse_args(arguments)
    output: Path = args.output
    part = output.with_name(f"{output.stem}_measured{output.suffix}")
    if output.exists() and not part.exists():
        write_atomically(part, output.read_bytes(), ConfigError)
    status = nas_encoder(["bench", *args.bench, "--output", str(part)])
    if status == 0:
        write_atomically(output, part.read_bytes(), ConfigError)
    return status


if __name__ == "__main__":
    sys.exit(main())
