# Sourced by the run.sh of each toolkit: where the package is, and one thread for each process.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# `make setup` builds this environment; one that is active already comes first.
if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then
    PATH="$ROOT/.venv/bin:$PATH"
fi
export PATH
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
# Two trainings of one thread are faster than one of two, and unset they take all cores each.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export MPLBACKEND=Agg PYTHONIOENCODING=UTF-8
