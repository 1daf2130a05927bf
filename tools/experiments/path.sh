# Sourced by every recipe's run.sh: where the package is, and one thread for each process.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# `make setup` builds this environment; one that is active already comes first.
if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then
    PATH="$ROOT/.venv/bin:$PATH"
fi
for needed in python nas-encoder snakemake; do
    if ! command -v $needed >/dev/null; then
        echo "run.sh: $needed is not on the PATH; 'make setup' in $ROOT installs everything" >&2
        exit 1
    fi
done
export PATH
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
# Two trainings of one thread are faster than one of two, and unset they take all cores each.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export MPLBACKEND=Agg PYTHONIOENCODING=UTF-8
