#!/usr/bin/env bash
# Links our configurations into the recipes of a checkout of ESPnet, or takes them out. See --help.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$ROOT/tools/environment.sh"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONIOENCODING=UTF-8
exec python3 -m tools.espnet_recipes.install "$@"
