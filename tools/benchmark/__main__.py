"""The benchmark table of a corpus, of everything that was trained on it.

For every encoder: error rate with its bootstrap interval, matched-pairs tests against Transformer
and DFSMN-SAN, parameters, multiply-adds, real-time factor, training time, speed and memory. Writes
BENCHMARK.md, benchmark.json, a picture for each test set, and beside them the results as ESPnet
(RESULTS.espnet.md) and NeMo (scores.nemo.csv) publish them.

EXPDIR is a folder of experiments of a recipe here (ESPnet or NeMo), of ESPnet's own run.sh (a
recipe's folder, its exp, or exp/asr_... itself). Nothing in it is changed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nas_encoder.bench.page import figure_class
from nas_encoder.cli.bench_encoders import threads
from nas_encoder.common.documents import write_atomically
from nas_encoder.common.provenance import environment, usable_cores
from nas_encoder.errors import ConfigError, DataError
from tools.benchmark.boundaries import boundaries_of
from tools.benchmark.document import (
    metric_of,
    published,
    published_for,
    references_of,
    row_of,
    title_of,
)
from tools.benchmark.layouts import find
from tools.benchmark.measured import measure, parameters_of, read_measured
from tools.benchmark.page import page
from tools.benchmark.pictures import draw
from tools.benchmark.scores import NAMES, System, compare, systems_of, unit_of
from tools.benchmark.toolkit_pages import espnet_page, nemo_table
from tools.benchmark.trained import Trained
from tools.scripts import command, write_json

EXAMPLES = """examples:
  recipes/benchmark.sh recipes/timit/espnet/exp recipes/timit/nemo/exp
  recipes/benchmark.sh ~/espnet/egs2/librispeech_100/asr1 --tests test_clean test_other
  recipes/benchmark.sh blocks=exp/asr_train_asr_blocks_raw_en conformer=exp/asr_train_asr_conformer
  recipes/benchmark.sh mine=exp_a theirs=exp_b --against theirs/conformer_ctc --bench bench.json

On a machine with a GPU its real-time factor is measured too. --bench FILE takes measurements of
another machine or run: bench.json or bench_gpu.json, which this command writes. It ends with status
1 and all problems if systems were not decoded on the same utterances with the same references.
"""


def named_folder(text: str) -> tuple[str, Path]:
    """Read ``[LABEL=]FOLDER``."""
    label, sign, path = text.partition("=")
    # os.path, unlike pathlib, takes a text that is too long for a path for no file.
    return ("", Path(text)) if not sign or os.path.exists(text) else (label, Path(path))


def named_file(text: str) -> tuple[str, Path]:
    """Read ``TEST=FILE``."""
    test, sign, path = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"must be TEST=FILE, got '{text}'")
    return test.replace("_", "-"), Path(path)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="recipes/benchmark.sh",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("folders", nargs="+", type=named_folder, metavar="[LABEL=]EXPDIR")
    add("--output", type=Path, default=Path("benchmark"), help="folder to write (benchmark)")
    add("--tests", nargs="+", help="test sets (default: all that were decoded but dev)")
    add("--against", nargs="+", default=[], metavar="NAME", help="systems to compare with")
    add("--only", nargs="+", metavar="NAME", help="trainings (default: all)")
    add("--unit", choices=tuple(NAMES), help="what is counted (default: by corpus and tokens)")
    add("--corpus", help="aishell, librispeech, librispeech_100, timit: for published figures")
    add("--language", default="", help="ISO 639, for NeMo's table")
    add("--synthetic", action="store_true", help="say that the corpus is")
    add("--reference", nargs="+", type=named_file, default=[], metavar="TEST=FILE",
        help="Kaldi text, if it is not found")  # fmt: skip
    add(
        "--threads",
        type=threads,
        default=(1, 2),
        metavar="N[,N]",
        help="of the measurements (1,2, where there are two cores)",
    )
    add("--speech", type=float, default=10.0, help="seconds of the measured utterance (10)")
    add("--repeats", type=int, default=10, help="least rounds of the measurements (10)")
    add("--bench", nargs="+", type=Path, metavar="FILE", help="measurements made before")
    add("--no-bench", action="store_true", help="no measurements of encoders")
    add("--boundaries", type=Path, metavar="DATA",
        help="prepared data with true boundaries of phones (TIMIT's recipes: found)")  # fmt: skip
    add("--no-boundaries", action="store_true", help="no alignment")
    add("--seed", type=int, default=0, help="of the bootstrap and the measurements (0)")
    return found


def choose(args: argparse.Namespace) -> list[Trained]:
    """Return the trainings that are wanted."""
    found = find(args.folders)
    names = [one.name for one in found]
    if unknown := [name for name in args.only or [] if name not in names]:
        rule = f"must be of {', '.join(names)}, got {', '.join(unknown)}"
        raise ConfigError("--only", [rule])
    return [one for one in found if not args.only or one.name in args.only]


def corpus_of(found: Sequence[Trained], given: str | None) -> str | None:
    """Return the corpus of all trainings; DataError if they are of several."""
    known = sorted({one.corpus for one in found if one.corpus is not None})
    if given is None and len(known) > 1:
        listed = "; ".join(f"{one.name}: {one.corpus}" for one in found)
        raise DataError("benchmark", [f"the trainings are of several corpora: {listed}"])
    return given or (known[0] if known else None)


def tests_of(found: Sequence[Trained], wanted: Sequence[str] | None) -> list[str]:
    """Return the names of the test sets; DataError if one was decoded by nobody."""
    known = list(dict.fromkeys(d.test for one in found for d in one.decodings))
    if not known:
        raise DataError("benchmark", ["nothing was decoded in these folders"])
    if wanted is None:
        return [name for name in known if not name.startswith("dev")] or known
    names = [name.replace("_", "-") for name in wanted]
    if missing := [name for name in names if name not in known]:
        raise DataError("--tests", [f"must be of {', '.join(known)}, got {', '.join(missing)}"])
    return names


def is_synthetic(found: Sequence[Trained], said: bool) -> bool:
    """Return whether the corpus is synthetic, as the user or a recipe's options say."""
    return said or any(one.synthetic for one in found)


def notes_of(
    found: Sequence[Trained], systems: Mapping[str, Sequence[System]], synthetic: bool
) -> list[str]:
    """Return the paragraphs below the heading."""
    notes = []
    if is_synthetic(found, synthetic):
        notes.append(
            "**A synthetic corpus** (espeak-ng): it shows that the parts work together, and says "
            "nothing about recorded speech. Published figures are of the real one."
        )
    for test, own in systems.items():
        there = {system.trained.name for system in own}
        if missing := [one.name for one in found if one.name not in there]:
            notes.append(f"Not decoded on {test}: {', '.join(missing)}.")
    return notes


def ready(output: Path) -> None:
    """Make the folder of results, and see that pictures can be drawn, before anything is measured.

    Raises:
        ConfigError: The folder cannot be made.
        MissingDependencyError: matplotlib is not installed.
    """
    figure_class()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"cannot be made: {error.strerror}"
        raise ConfigError("--output", [f"the folder '{output}' {rule}"]) from None


def origin(arguments: Sequence[str]) -> dict[str, str | None]:
    """Return where the numbers are from."""
    versions: dict[str, str | None] = {}
    for package in ("espnet", "nemo_toolkit"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "command": shlex.join(["recipes/benchmark.sh", *arguments]),
        **environment(),
        **versions,
    }


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    words = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(words)
    found = choose(args)
    corpus = corpus_of(found, args.corpus)
    unit = args.unit or unit_of(found, corpus)
    references = dict(args.reference)
    tests = tests_of(found, args.tests)
    systems = {test: systems_of(found, test, unit, references) for test in tests}
    print(f"{len(found)} trainings, test sets: {', '.join(tests)}", file=sys.stderr, flush=True)
    shown = list({s.trained.name: s.trained for own in systems.values() for s in own}.values())
    ready(args.output)
    measured: Mapping[str, Mapping[str, Any]] = {}
    left_out: list[str] = []
    if args.bench:
        measured = read_measured(args.bench, shown)
    elif not args.no_bench:
        able = [count for count in args.threads if count <= usable_cores()] or [1]
        if len(able) < len(args.threads):
            left_out.append(
                f"Measured with {able} threads only: {usable_cores()} cores are usable."
            )
        measured = measure(shown, able, args.speech, args.repeats, args.seed, args.output)
    sizes = {one.name: parameters_of(one) for one in shown}
    aligned = ({}, []) if args.no_boundaries else boundaries_of(shown, args.boundaries)
    boundaries = aligned[0]
    left_out += aligned[1]
    others = published(corpus, unit)
    document: dict[str, Any] = {
        "title": title_of(corpus, shown),
        "metric": metric_of(unit),
        "unit": unit,
        "notes": [*notes_of(found, systems, args.synthetic), *left_out],
        "tests": {},
        "published": others,
        "origin": origin(words),
    }
    for test, own in systems.items():
        against = references_of(own, args.against)
        comparisons = compare(own, against, args.seed)
        rows = [
            row_of(
                system, comparisons[system.name], args.seed,
                {device: row for device, rows in measured.items()
                 if (row := rows.get(system.trained.name)) is not None},
                sizes[system.trained.name], boundaries.get(system.trained.name),
            )
            for system in own
        ]  # fmt: skip
        of_test = published_for(others["rows"], test)
        pictures = [args.output / f"{test}.{suffix}" for suffix in ("png", "svg")]
        where = environment()["gpu" if next(iter(measured), "cpu") == "cuda" else "machine"]
        title = f"{document['title']}, {test}"
        lines = [] if is_synthetic(found, args.synthetic) else of_test
        draw(rows, title, document["metric"], str(where), lines, test, pictures)
        document["tests"][test] = {
            "rows": rows, "published": of_test, "pictures": [path.name for path in pictures],
            "units": {"word": "words", "char": "characters"}.get(unit, "phones"),
            "against": against,
        }  # fmt: skip
    write_json(args.output / "benchmark.json", document, ascii_only=False)
    text = page(document)
    pages = {
        "BENCHMARK.md": text,
        "RESULTS.espnet.md": espnet_page(systems, document["origin"], sizes, unit),
        "scores.nemo.csv": nemo_table(systems, corpus, args.language),
    }
    for name, content in pages.items():
        write_atomically(args.output / name, content.encode(), DataError)
    print(text)
    print(f"results: {args.output}")


if __name__ == "__main__":
    sys.exit(main())
