#!/usr/bin/env bash
# Two hours of recorded speech in five languages, from Debian's packages. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../tools/experiments/path.sh
exec python -m tools.experiments.recipe "$@"
