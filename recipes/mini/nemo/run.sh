#!/usr/bin/env bash
# The demo in NeMo: synthetic speech -> training of four encoders -> table of results. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../../tools/experiments/path.sh
exec python -m tools.experiments.recipe "$@"
