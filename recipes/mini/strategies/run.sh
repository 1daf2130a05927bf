#!/usr/bin/env bash
# Does a search find better genotypes than chance? Every strategy against random genotypes of the
# same space, each trained from scratch for the same steps. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../../tools/experiments/path.sh
exec python -m tools.experiments.recipe "$@"
