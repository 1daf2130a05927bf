#!/usr/bin/env bash
# The demo: synthetic speech -> search -> ESPnet training -> table of results. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../../tools/experiments/path.sh
exec python -m tools.experiments.recipe "$@"
