"""Runs the recipe of the folder that it is called in; every ``run.sh`` ends here.

It reads options, keeps a second run out of the experiments' folder, and lets Snakemake do the
rest: ``Snakefile`` of the recipe, with the options as its configuration.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from nas_encoder.common.documents import write_yaml
from nas_encoder.errors import ConfigError, NasEncoderError
from tools.experiments.recipe import Options, Recipe
from tools.experiments.resumable import BASH, tail

ROOT = Path(__file__).resolve().parents[2]
PROFILES = Path(__file__).with_name("profiles")
END_SECONDS = 30.0  # for jobs to end after an interruption
_LOG = re.compile(r"\s+log: (.+) \(check log file")
# Of each job; all of it is in EXPDIR/.snakemake/log.
HIDDEN = ("    input: ", "    output: ", "    resources: ", "Select jobs", "Execute ", "Using ")
_MISSING = re.compile("^Missing input files for rule|MissingInputException")


def snakemake(recipe: Recipe, options: Options) -> list[str | Path]:
    """Return the command; the options are written where it reads them."""
    expdir = Path(options["expdir"])
    profile = PROFILES / options["profile"]
    config = expdir / "options.yaml"
    write_yaml(config, options, ConfigError)
    return [
        *(BASH, "-c", 'exec "$0" "$@"', sys.executable, "-m", "snakemake"),
        *("--snakefile", recipe.folder / "Snakefile", "--directory", expdir),
        *("--configfile", config, "--jobs", str(options["nj"])),
        *("--profile", profile if profile.is_dir() else recipe.folder / options["profile"]),
    ]


def forget_lost(expdir: Path) -> None:
    """Forget what jobs have cost whose outputs are no longer there, so that they are done again.

    They lie in folders that Snakemake does not own; see :mod:`tools.experiments.resumable`.
    """
    for path in (expdir / "costs").rglob("*.json"):
        outputs = json.loads(path.read_text(encoding="utf-8"))["outputs"]
        if not all((expdir / output).exists() for output in outputs):
            path.unlink()


def show(lines: Iterable[str], expdir: Path) -> bool:
    """Print what Snakemake says, and below a failure the end of its log.

    Returns:
        Whether it said that an input is missing which no job of these stages makes.
    """
    lacking = False
    for line in lines:
        if not line.startswith(HIDDEN):
            print(line, end="", file=sys.stderr, flush=True)
        lacking = lacking or _MISSING.search(line) is not None
        if found := _LOG.match(line):
            log = expdir / found[1]
            if log.is_file():
                print(f"    {log} ends:\n{tail(log)}", file=sys.stderr, flush=True)
    return lacking


def run(recipe: Recipe, options: Options) -> int:
    """Run the stages; return the exit status."""
    expdir = Path(options["expdir"])
    forget_lost(expdir)
    process = subprocess.Popen(
        snakemake(recipe, options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    assert process.stderr is not None
    try:
        lacking = show(process.stderr, expdir)
        status = process.wait()
    except KeyboardInterrupt:
        # As Ctrl-C in a terminal: to Snakemake, which cancels what it has submitted, and its jobs.
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if lacking and options["stage"] > 1:
        print(
            "error: needs files of an earlier stage, which was not done; begin at an earlier "
            "--stage",
            file=sys.stderr,
        )
    return 1 if status else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        recipe = Recipe.read(Path.cwd())
        if {"--help", "-h"} & set(arguments):
            print(recipe.help())
            return 0
        options = recipe.parse(arguments)
    except NasEncoderError as error:
        print(f"run.sh: {error}", file=sys.stderr)
        return 2
    shown = recipe.folder.relative_to(ROOT) if ROOT in recipe.folder.parents else recipe.folder
    options["command"] = " ".join([str(shown / "run.sh"), *arguments])
    expdir = Path(options["expdir"])
    expdir.mkdir(parents=True, exist_ok=True)
    began, last = time.strftime("%F %T"), options["stop_stage"]
    print(f"{began} stages {options['stage']} to {last}, {options['nj']} jobs side by side", flush=True)
    try:
        with FileLock(expdir / ".lock", timeout=0):
            status = run(recipe, options)
    except Timeout:
        print(f"error: another run works in {expdir}; wait for it", file=sys.stderr)
        return 1
    except NasEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results = expdir / "results"
    if status == 0 and last >= len(recipe.stages) and results.is_dir():
        print((results / "RESULTS.md").read_text(encoding="utf-8"), end="")
        print(f"{time.strftime('%F %T')} results: {results}")
    return status


if __name__ == "__main__":
    sys.exit(main())
