# Sourced by every recipe's run.sh: the path of the package, and one thread per process.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$ROOT/tools/environment.sh"
for needed in python nas-encoder snakemake; do
    if ! command -v $needed >/dev/null; then
        echo "run.sh: $needed is not on the PATH; 'make setup' in $ROOT installs everything" >&2
        exit 1
    fi
done
export PATH
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
# Two trainings of one thread are faster than one of two; by default each takes all cores.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export MPLBACKEND=Agg PYTHONIOENCODING=UTF-8
