"""Compare search algorithms on a table: regret curves over at least 20 seeds, in one picture.

Random search, regularized evolution, Hyperband and TPE search the table as if they trained; the
result of a gradient search in the same space is looked up. A part of 'nas-encoder table'.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path

EXAMPLES = """examples:
  nas-encoder table compare synth_timit --output exp/compared
  nas-encoder table compare nb-asr.sqlite --output exp/compared --runs 50 --trials 300
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("source", help="name of a shipped table, SQLite file or folder of pickles")
    parser.add_argument("--output", required=True, metavar="DIR", help="for the three files")
    parser.add_argument("--runs", type=int, default=20, help="seeds of each (default 20)")
    parser.add_argument(
        "--trials",
        type=int,
        help="budget, in whole trainings (default: as many as architectures, at most 150)",
    )
    parser.add_argument(
        "--algorithms",
        nargs="+",
        default=["random", "evolution", "hyperband", "tpe"],
        metavar="NAME",
        help="some of: random evolution hyperband tpe (default all)",
    )
    parser.add_argument(
        "--gradient",
        nargs="+",
        default=[],
        metavar="GENOTYPE",
        help="results of gradient searches in the same space (default: those in the table)",
    )
    parser.add_argument("--population", type=int, help="of the evolution")
    parser.add_argument("--sample", type=int, help="of the evolution")
    parser.add_argument("--target", type=int, help="target epochs (default the most there are)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare, write the files, print where they are."""
    from nas_encoder.common.provenance import environment
    from nas_encoder.search.report.pictures import require_matplotlib
    from nas_encoder.search.trials.run import require_optuna
    from nas_encoder.tabular import load_table

    require_optuna()
    require_matplotlib()
    from nas_encoder.search.report.comparison import write_comparison
    from nas_encoder.search.trials.compare import CompareSettings, Comparison

    began = time.monotonic()
    table = load_table(args.source)
    asked = (args.runs, args.trials, args.population, args.sample, args.target)
    comparison = Comparison(table, CompareSettings(tuple(args.algorithms), *asked))
    gradient = comparison.gradient(args.gradient)
    document = {
        "table": Path(args.source).stem,
        "note": table.about.get("note"),
        **comparison.run(),
        "gradient": gradient,
        "command": shlex.join(_words(args)),
        "seconds": round(time.monotonic() - began, 1),
        "environment": environment(),
    }
    paths = write_comparison(Path(args.output), document)
    if args.json:
        print(json.dumps(document))
        return 0
    for name, found in document["algorithms"].items():
        print(f"{name:<10} regret {found['median'][-1]:6.2f} (median of {args.runs})")
    for result in gradient["results"]:
        print(f"gradient   regret {result['regret']:6.2f} ({result['genotype']})")
    if not gradient["available"]:
        print(f"gradient   not available: {gradient['why']}")
    print("\n".join(map(str, paths)))
    return 0


def _words(args: argparse.Namespace) -> list[str]:
    words = ["nas-encoder", "table", "compare", args.source, "--output", args.output]
    for name in ("runs", "trials", "population", "sample", "target", "algorithms", "gradient"):
        value = getattr(args, name)
        if value not in (None, []):
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
