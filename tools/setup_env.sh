#!/bin/sh
# Finds a Python that can build the development environment and hands over to setup_env.py.
# Order: $PYTHON if set (then nothing else), python3.11, python3.12, python3.
set -u

here=$(dirname "$0")
probe='
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, fcntl, venv
except ImportError as error:
    sys.exit("lacks a standard module (%s); on Debian and Ubuntu install python3-venv" % error)
'
rejected=""

try() {  # candidate, arguments of setup_env.py
    candidate=$1
    shift
    if ! command -v "$candidate" >/dev/null 2>&1; then
        rejected="$rejected
  $candidate: not found"
    elif reason=$("$candidate" -I -c "$probe" 2>&1); then
        exec "$candidate" -I "$here/setup_env.py" "$@"
    else
        rejected="$rejected
  $candidate: $(printf '%s\n' "$reason" | head -n 1)"
    fi
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON" "$@"
else
    for name in python3.11 python3.12 python3; do
        try "$name" "$@"
    done
fi
cat >&2 <<MESSAGE
setup: no suitable Python. The pinned packages need Python 3.11 or 3.12 with venv.$rejected
Install one, or name it: make setup PYTHON=/path/to/python3.11
MESSAGE
exit 1
