# Every target does its own set-up: it makes .venv from uv.lock and needs only Python 3.11 (with venv), make and git.
#
#   make demo     simulate one preset and write the result to out/demo
#   make test     lint, types, layers and tests
#   make bench    measure the simulator itself; writes benchmarks/results.json and history.jsonl
#   make bench-peers  ask other simulators the same, installed apart into .venv-peers, and time them
#   make docs     build the documentation into site/
#   make compiled compile the engine, which then is up to 1.5 times as quick; needs a C compiler. `make plain` undoes it
#   make lock     renew uv.lock after a change of pyproject.toml

PYTHON ?= python3
JOBS ?= 2
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.synced
DOCS_STAMP := $(VENV)/.synced-docs

export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV PYTHONHOME

# Nothing that pip or uv fetched by hand into .venv is removed: uv itself and an optional torch live there too.
SYNC := $(BIN)/uv sync --quiet --frozen --inexact --python $(BIN)/python

.DELETE_ON_ERROR:
.PHONY: help setup demo test lint types layers tests bench bench-peers compiled plain test-compiled docs lock format clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

$(STAMP): uv.lock pyproject.toml Makefile
	@command -v "$(PYTHON)" > /dev/null || \
	  { echo "moesim needs Python 3.11 or newer; '$(PYTHON)' was not found. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "moesim needs Python 3.11 or newer; '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Name a newer one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo "'$(PYTHON)' has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) from uv.lock (about a minute the first time)"
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then "$(PYTHON)" -m venv --clear $(VENV); fi
	@if ! $(BIN)/python -c 'import pip' 2> /dev/null; then $(BIN)/python -m ensurepip > /dev/null; fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@$(SYNC)
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@$(SYNC) --group docs
	@touch $@

demo: $(STAMP)
	$(BIN)/moesim simulate examples/gpt-oss-20b-h100.toml --out out/demo

test: lint types layers tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports --no-cache

tests: $(STAMP)
	$(BIN)/pytest -n $(JOBS)

bench: $(STAMP)
	$(BIN)/python -m benchmarks

bench-peers: $(STAMP)
	@"$(PYTHON)" -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	$(BIN)/python -m benchmarks.peers

compiled: $(STAMP)
	@command -v "$${CC:-cc}" > /dev/null || \
	  { echo "compiling needs a C compiler and the headers of Python; on Debian: apt-get install gcc python3-dev" >&2; exit 1; }
	$(BIN)/python hatch_build.py

plain:
	rm -rf simulator/_compiled

test-compiled: compiled
	$(BIN)/pytest tests/serving tests/analytic tests/elastic tests/closed_form tests/run tests/project/test_compiled.py

docs: $(DOCS_STAMP)
	$(BIN)/zensical build --strict

lock: $(STAMP)
	$(BIN)/uv lock
	@$(MAKE) --no-print-directory setup

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) out site .mypy_cache .ruff_cache .pytest_cache .hypothesis
