#!/usr/bin/env bash
# Searched block encoders against those of ESPnet, NeMo and Zipformer's authors, on four corpora.
# See --help; --small tries it in an hour, --tiny true in a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../../tools/experiments/path.sh
exec python -m tools.experiments.recipe "$@"
