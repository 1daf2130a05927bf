"""Make the report of a search from its run folder: one HTML file with pictures.

A search makes its own report at the end; this makes it again, or for a run that is still going
on or was stopped.
"""

from __future__ import annotations

import argparse
import json

EXAMPLES = """examples:
  nas-encoder report exp/search
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("folder", metavar="DIR", help="run folder of 'nas-encoder search'")
    parser.add_argument("--json", action="store_true", help="print the file's path as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the report; print where it is."""
    from nas_encoder.search.folder import RunFolder
    from nas_encoder.search.report.build import build_report

    path = build_report(RunFolder(args.folder))
    print(json.dumps({"report": str(path)}) if args.json else path)
    return 0
