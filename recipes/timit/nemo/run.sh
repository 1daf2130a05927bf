#!/usr/bin/env bash
# timit with NeMo. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../../tools/experiments/path.sh
exec python -m tools.experiments.recipe "$@"
