# Two commands matter to a newcomer: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Quiet pip; constraints.txt holds the versions that were tested together.
PIP := $(BIN)/pip --disable-pip-version-check install -qq -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo up notebook test check fix bench bench-train prove clean

help: ## What can be made here
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: $(INSTALLED) ## Make the environment in .venv

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Making the environment in $(VENV) (about a minute, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first: its plain wheel for Linux brings gigabytes of CUDA, the CPU index does not. Where that index cannot
	@# be reached pip warns and takes what the machine has. On a GPU host: make install TORCH_INDEX=
	@$(PIP) --no-deps $(if $(TORCH_INDEX),--retries 1 --extra-index-url $(TORCH_INDEX)) torch
	@$(PIP) -e '.[train,test]'
	@touch $@

# As many processes as there are cores, four at most: each may have a trainer of its own beside it (about 1.5 GB for both).
# `worksteal` gives each of them whole stretches of the list, so that what a file's tests share is made once, seldom twice.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal
# What trains in a test is tiny: more threads would only wait for each other.
TEST_THREADS ?= 2
TORCH_INDEX ?= $(shell command -v nvidia-smi >/dev/null 2>&1 || echo https://download.pytorch.org/whl/cpu)

demo: $(INSTALLED) ## From an empty folder to a fine-tuned, served model (4 minutes)
	@$(BIN)/python examples/demo.py $(if $(MODEL),--model $(MODEL))

up: $(INSTALLED) ## Start the platform on http://127.0.0.1:8000 with its data in ./data
	@$(BIN)/luthier up --data data

notebook: $(INSTALLED) ## JupyterLab on examples/interactive.ipynb, beside a platform that is up
	@test -x $(BIN)/jupyter-lab || $(PIP) -e '.[notebook]'
	@$(BIN)/jupyter-lab examples/interactive.ipynb

test: $(INSTALLED) ## Everything that CI runs: format, lint, types, contracts, tests
	@$(MAKE) --no-print-directory check

check: $(INSTALLED)
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-logo >$(VENV)/imports.log 2>&1 || { cat $(VENV)/imports.log; exit 1; }
	@$(BIN)/pyright --warnings >$(VENV)/pyright.log 2>&1 || { cat $(VENV)/pyright.log; exit 1; }
	@OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/pytest -m 'not prove' $(PYTEST_ARGS)

fix: $(INSTALLED) ## Repair what can be repaired
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

bench: $(INSTALLED) ## Benchmarks, with their figures in benchmarks/results
	@$(BIN)/python benchmarks/run.py

bench-train: $(INSTALLED) ## Training beside TRL and LLaMA-Factory (an hour on an idle machine)
	@$(BIN)/python benchmarks/train.py

prove: $(INSTALLED) ## The full figures of every promise, recorded in docs/proofs
	@$(BIN)/pytest -m prove $(PROVE_ARGS)

clean: ## Remove the environment and caches (not your data)
	@rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build
