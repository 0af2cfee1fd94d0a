# make help lists the targets. Everything runs in .venv, which `make setup` makes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# deepspeed, ninja and python are found by name, as in an activated environment.
export VIRTUAL_ENV := $(CURDIR)/.venv
export PATH := $(VIRTUAL_ENV)/bin:$(PATH)

# Where DeepSpeed compiles its ops: this environment's own, so that checkouts do not build over each other.
export TORCH_EXTENSIONS_DIR ?= $(VIRTUAL_ENV)/torch_extensions

# DeepSpeed finds a GPU by itself; where there is none, saying so saves its search and a warning.
ifeq ($(shell nvidia-smi -L 2>/dev/null),)
export DS_ACCELERATOR ?= cpu
endif

.PHONY: help setup demo test test-fast test-distributed lint format clean distclean

help:  ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup:  ## make .venv and install everything (quick when nothing changed)
	@tools/setup.sh

demo: setup  ## text, vocabulary, sparse pre-training on two ranks, report; run again to go on where it was
	@python launch/demo.py $(DEMO_ARGS)

test: lint test-fast test-distributed  ## the whole suite, the quick part first

test-fast: setup  ## tests of one process
	pytest -m "not distributed"

test-distributed: setup  ## tests that start ranks
	pytest -m distributed

lint: setup  ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

format: setup  ## let ruff rewrite what it can
	ruff check --fix .
	ruff format .

clean:  ## remove what `make demo` made
	rm -rf build runs/demo

distclean: clean  ## remove .venv and caches too
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
