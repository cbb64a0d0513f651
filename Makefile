# `make demo` and `make test` need Python 3.11 or newer, make and a package index; they make
# everything else themselves, in .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# PYTHON=/path/to/python chooses the interpreter that .venv is made with.
PYTHON ?= $(firstword $(shell for name in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& command -v "$$name"; done; true))

SOURCES := engine registry_service tests scripts $(wildcard benchmarks/*.py)

# More arguments for pytest: make test PYTEST_ARGS='-k cli -x'
PYTEST_ARGS ?=

.PHONY: help demo test lint format soak bench clean

help:  ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(STAMP): setup.cfg pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
	  echo "make: no Python 3.11 or newer was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "make: $(PYTHON) is no Python 3.11 or newer; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; fi
	@echo "setting up $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## Run a daemon and a registry on loopback, and pull and push through them
	@$(BIN)/python scripts/demo.py

test: $(STAMP)  ## Run the tests
	@$(BIN)/python -m pytest -m 'not soak' $(PYTEST_ARGS)

lint: $(STAMP)  ## Check style and types
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy $(SOURCES)

format: $(STAMP)  ## Format the code
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix-only --quiet $(SOURCES)

soak: $(STAMP)  ## Run the tests that take minutes
	@$(BIN)/python -m pytest -m soak --timeout 3600 $(PYTEST_ARGS)

bench: $(STAMP)  ## Measure; the result is one line of JSON for each measure
	@for script in $(wildcard benchmarks/bench_*.py); do $(BIN)/python "$$script"; done

clean:  ## Remove what was made
	@rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
