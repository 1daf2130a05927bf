# Sourced with ROOT set: Python of the active environment, else of the one that `make setup` builds.
# Conda's base is none that anybody chose for this: it is active in every shell.
if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$ROOT/.venv/bin/python" ] &&
    { [ -z "${CONDA_PREFIX:-}" ] || [ "${CONDA_DEFAULT_ENV:-}" = base ]; }; then
    export PATH="$ROOT/.venv/bin:$PATH"
fi
