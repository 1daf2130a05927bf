"""Runs the recipe in the working directory; every ``run.sh`` ends here.

It reads the options that ``recipe.yaml`` declares, keeps a second run out of EXPDIR, and has
Snakemake run ``Snakefile`` with the options as its configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas_encoder import errors
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import ConfigError, NasEncoderError
from tools.experiments.resumable import BASH, tail

ROOT = Path(__file__).resolve().parents[2]
PROFILES = Path(__file__).with_name("profiles")
END_SECONDS = 30.0  # that jobs have to end after an interruption
GENERAL = {
    **{"stage": 1, "stop_stage": 0, "nj": 2, "seed": 1, "tiny": "false"},
    **{"expdir": "exp", "datadir": "data", "downloads": "downloads", "profile": "local"},
}
NOTES = """\
What is done already is left out, what was stopped goes on; a job whose command, inputs or
parameters changed is done again. Jobs of several stages run side by side where none waits for the
other. Logs: EXPDIR/log. --profile is how they run: local, slurm or shell of
tools/experiments/profiles, or the folder of any Snakemake profile; --nj is how many at a time.
"""
# Starts of lines that are not shown; all lines are in EXPDIR/.snakemake/log.
HIDDEN = ("    input: ", "    output: ", "    resources: ", "Select jobs", "Execute ", "Using ")
# An error of a Snakefile: its name, its text, and where it was raised.
RAISED = re.compile(r'(\w+) in file ".*", line \d+:')
TRACE = re.compile(r'  File ".*", line \d+, in ')


def value(default: Any, pattern: str, text: str) -> Any:
    """Return an option's value, which must match the pattern: an integer if its default is one."""
    if isinstance(default, int) and not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be a whole number, got '{text}'")
    if not re.fullmatch(pattern, text):
        raise argparse.ArgumentTypeError(f"must match '{pattern}', got '{text}'")
    return type(default)(text)


def read_options(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Return the options of a command line; exit with status 2 if they are wrong.

    Args:
        folder: Folder with ``recipe.yaml``: ``about``, ``stages``, ``options`` with their defaults,
            ``tiny`` with the defaults that ``--tiny true`` sets, ``sizes`` with those of flags such
            as ``--small``, ``patterns`` that values must match.
        arguments: ``--name value``, as in Kaldi's and ESPnet's recipes.
    """
    recipe = read_yaml(folder / "recipe.yaml", ConfigError)
    stages = [
        f"  {number}  {name:<12}{text}"
        for number, (name, text) in enumerate(recipe["stages"].items(), 1)
    ]
    parser = argparse.ArgumentParser(
        prog="run.sh",
        description="\n".join([recipe["about"], *stages]),
        epilog=NOTES + recipe.get("notes", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    declared = {**GENERAL, "stop_stage": len(stages), **recipe.get("options", {})}
    for name, default in declared.items():
        check = partial(value, default, recipe.get("patterns", {}).get(name, ".*"))
        names = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        shown = str(default).replace("%", "%%")
        parser.add_argument(*names, type=check, default=default, metavar="", help=f"({shown})")
    for name, defaults in recipe.get("sizes", {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=f"other defaults: {defaults}")
        if f"--{name}" in arguments:
            parser.set_defaults(**defaults)
    options = vars(parser.parse_args(arguments))
    if options["tiny"] == "true":
        parser.set_defaults(**recipe.get("tiny", {}))  # what is typed stays
        options = vars(parser.parse_args(arguments))
    for name in ("expdir", "datadir", "downloads"):
        options[name] = str((folder / options[name]).resolve())
    script = folder / "run.sh"
    shown = str(script.relative_to(ROOT) if ROOT in folder.parents else script)
    return {**options, "last_stage": len(stages), "command": shlex.join([shown, *arguments])}


def forget_lost(expdir: Path) -> None:
    """Delete the costs of jobs whose outputs, which Snakemake does not own, are gone."""
    for path in (expdir / "costs").rglob("*.json"):
        outputs = json.loads(path.read_text(encoding="utf-8"))["outputs"]
        if not all((expdir / output).exists() for output in outputs):
            path.unlink()


def is_ours(name: str) -> bool:
    """Return whether an error of that name says what its user did wrong."""
    found = getattr(errors, name, None)
    return isinstance(found, type) and issubclass(found, NasEncoderError)


def show(lines: Iterable[str], expdir: Path, stage: int) -> None:
    """Print Snakemake's messages and, after a failure, the end of the job's log."""
    ours, start = False, ""
    for line in lines:
        if (raised := RAISED.match(line)) and is_ours(raised[1]):
            ours, start = True, "error: "
        elif not line.startswith(HIDDEN) and not (ours and TRACE.match(line)):
            print(f"{start}{line}", end="", file=sys.stderr, flush=True)
            start = ""
        found = re.match(r"\s+log: (.+) \(check log file", line)
        if found and (log := expdir / found[1]).is_file():
            print(f"    {log} ends:\n{tail(log)}", file=sys.stderr, flush=True)
        if line.startswith("MissingInputException") and stage > 1:
            hint = "it needs what another stage makes, which was not done"
            print(f"error: {hint}; begin at an earlier --stage", file=sys.stderr)


def run(folder: Path, options: dict[str, Any]) -> int:
    """Run the stages; return the exit status."""
    expdir, profile = Path(options["expdir"]), PROFILES / options["profile"]
    forget_lost(expdir)
    config = expdir / "options.yaml"
    write_yaml(config, options, ConfigError)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell lets its background jobs ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    process = subprocess.Popen(
        [
            *(BASH, "-c", 'exec "$0" "$@"', sys.executable, "-m", "snakemake"),
            *("--snakefile", folder / "Snakefile", "--directory", expdir, "--configfile", config),
            *("--profile", profile if profile.is_dir() else folder / options["profile"]),
            *("--jobs", str(options["nj"])),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        show(process.stderr, expdir, options["stage"])
        return 1 if process.wait() else 0
    except KeyboardInterrupt:
        # Like Ctrl-C in a terminal: to Snakemake, which cancels submitted jobs, and to its jobs.
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    folder = Path.cwd()
    options = read_options(folder, sys.argv[1:] if arguments is None else arguments)
    expdir = Path(options["expdir"])
    expdir.mkdir(parents=True, exist_ok=True)
    work = "stages {stage} to {stop_stage}, {nj} jobs side by side".format(**options)
    print(time.strftime("%F %T"), work, flush=True)
    try:
        with FileLock(expdir / ".lock", timeout=0):
            status = run(folder, options)
    except Timeout:
        print(f"error: another run works in {expdir}; wait for it", file=sys.stderr)
        return 1
    results = expdir / "results"
    if status == 0 and options["stop_stage"] >= options["last_stage"] and results.is_dir():
        print((results / "RESULTS.md").read_text(encoding="utf-8"), end="")
        print(f"{time.strftime('%F %T')} results: {results}")
    return status


if __name__ == "__main__":
    sys.exit(main())
