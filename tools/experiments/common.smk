# Included first by every recipe's Snakefile. The working directory is EXPDIR; `config` holds the
# options of run.sh. A Snakefile ends with `rule all: input: *TARGETS`.
from pathlib import Path

from tools.experiments.equal_time import run_of
from tools.experiments.recipe import ROOT

RECIPE = workflow.basedir
DATA, DOWNLOADS = config["datadir"], config["downloads"]
TARGETS = []
# Threads of jobs that can use several or must run alone; a cluster's nodes need not have --nj.
ALL_CORES = config["nj"] if config["profile"] == "local" else 1
RESUMABLE = "python -m tools.experiments.resumable"


# A job is one command, which replaces its shell and ends with Snakemake.
shell.executable(str(ROOT / "tools" / "experiments" / "bash"))
shell.prefix("set -euo pipefail; exec ")


def stage(number, *targets):
    """Return whether a stage is to be done. Its targets are files, or input functions."""
    wanted = config["stage"] <= number <= config["stop_stage"]
    if wanted:
        TARGETS.extend(targets)
    return wanted


def named_or_file(value, shipped=None):
    """Return a shipped name as it is, and a path as one that is right in every folder."""
    path = Path(RECIPE, value)
    return str(path) if path.is_file() and not (shipped and shipped.is_file()) else value
