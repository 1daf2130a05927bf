# Every target starts from a fresh checkout: it builds .venv first where that is needed.
# `make setup PYTHON=/path/to/python3.11` chooses the interpreter.

VENV := .venv/bin
# Several processes that each take all cores slow each other down.
export OMP_NUM_THREADS ?= 1
WORKERS ?= 2
# Tests start more than a hundred processes, which need not each compile our modules.
PYTEST := $(VENV)/python -m compileall -q nas_encoder tools && \
	$(VENV)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help setup environment demo demo-nemo test test-fast lint bench bench-gpu reliability clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup:  ## build .venv: ESPnet, NeMo and this package, from pinned versions
	@PYTHON='$(PYTHON)' sh tools/setup_env.sh

# What the other targets call: silent where .venv is complete already.
environment:
	@PYTHON='$(PYTHON)' sh tools/setup_env.sh --if-needed $(NO_DOCTOR)

demo: environment  ## synthetic corpus -> search -> ESPnet training -> table of results
	PATH="$(CURDIR)/$(VENV):$$PATH" bash recipes/mini/espnet/run.sh

demo-nemo: environment  ## the same corpus and genotype in NeMo, against its own encoders
	PATH="$(CURDIR)/$(VENV):$$PATH" bash recipes/mini/nemo/run.sh

test: NO_DOCTOR = --no-doctor  # the tests ask it themselves
test: environment lint  ## all checks and all tests
	$(PYTEST)

test-fast: environment  ## the tests that are not marked slow
	$(PYTEST) -m "not slow"

lint: environment  ## ruff and strict mypy
	$(VENV)/ruff check .
	$(VENV)/mypy

bench: environment  ## measurements side by side (takes long; nothing depends on it)
	@for command in $(filter-out %/alignment.py %/oneshot.py %/gpu.py %/gpu_training.py \
			%/endless_stream.py, \
			$(wildcard benchmarks/*.py)) "benchmarks/oneshot.py step"; do \
		echo "$(VENV)/python $$command"; $(VENV)/python $$command || exit 1; \
	done

bench-gpu: environment  ## what a GPU has to show, in 12 minutes: gpu.json
	$(VENV)/python benchmarks/gpu.py --device cuda --json gpu.json

reliability: environment  ## thousands of bad inputs tried; writes docs/reliability.md
	$(VENV)/python tests/reliability.py

clean:  ## delete build results and caches; keeps .venv and experiments
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
