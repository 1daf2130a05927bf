#!/usr/bin/env bash
# The benchmark table of what recipes here or ESPnet's own run.sh trained. See --help.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=python3
if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then
    PYTHON=$ROOT/.venv/bin/python # `make setup` builds it; an active environment takes precedence
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONIOENCODING=UTF-8
exec "$PYTHON" -m tools.benchmark "$@"
