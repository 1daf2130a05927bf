#!/usr/bin/env bash
# Encoders searched under a bound of the lookahead against streaming ones of ESPnet and NeMo.
# See --help; --small tries it in half an hour, --tiny true in a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../tools/experiments/path.sh
exec python -m tools.experiments.recipe "$@"
