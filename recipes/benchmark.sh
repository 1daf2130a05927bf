#!/usr/bin/env bash
# The benchmark table of what recipes here or ESPnet's own run.sh trained. See --help.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/tools/environment.sh"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONIOENCODING=UTF-8
exec python3 -m tools.benchmark "$@"
