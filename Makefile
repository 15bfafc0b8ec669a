# Two commands matter: `make quickstart` and `make test`. Both set up .venv first, and both are safe to repeat.
#   PYTHON=python3.12 make ...   uses another Python (3.11 or newer)
#   ARGS="--seed 1"              is handed to the command behind a target
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTS := $(VENV)/.tests-installed
ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint types docs bench bench-parts soak check-learning check-resume check-ranks check-labels gpu-check lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Made anew when missing, brought up to date when a pin or an entry point changed. The lock file pins whatever an extra
# brings: a user of the pipeline and the labelling page needs half of what the tests need.
$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Trivium needs Python 3.11 or newer; name one: PYTHON=python3.12 make ..." >&2; exit 2; }; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (once, a few minutes)"
	@$(PIP) install -c requirements.lock -e ".[label]"
	@touch $@

$(TESTS): $(STAMP)
	@echo "installing what the tests need"
	@$(PIP) install -c requirements.lock -e ".[test]"
	@touch $@

setup: $(STAMP) ## make .venv with the pinned dependencies of the pipeline and the labelling page

quickstart: $(STAMP) ## train M0, M1, R and M2 from built-in data, evaluate, write the report
	@$(BIN)/trivium run $(ARGS)

lint: $(TESTS) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TESTS) ## pyright
	$(BIN)/pyright

# One thread for each of two workers: more only fight for the same cores.
test: lint types ## lint, types and the whole test suite, a small pipeline from corpus to M2 included
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m "not gpu and not network" $(ARGS)

docs: $(TESTS) ## write the pages that are made from the tests
	$(BIN)/python scripts/bad_input_page.py

bench: $(TESTS) ## measure against other libraries in turn; writes benchmarks/RESULTS.md and results.json
	$(BIN)/python benchmarks/everything.py $(ARGS)

bench-parts: $(TESTS) ## how fast the quickstart's parts and the sandbox are
	@set -e; for file in bench_quick sandbox; do echo "== $$file"; $(BIN)/python benchmarks/$$file.py $(ARGS); done

soak: $(STAMP) ## 20,000 programs of all kinds through the sandbox: does anything grow? (minutes)
	$(BIN)/python benchmarks/sandbox.py --soak 20000 $(ARGS)

check-learning: $(STAMP) ## the quickstart's learning figures, several full runs (long)
	$(BIN)/python benchmarks/check_learning.py $(ARGS)

check-resume: $(STAMP) ## fifty SIGKILLs over a small run, which must end as the one left alone (ten minutes)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/check_resume.py $(ARGS)

check-ranks: $(STAMP) ## two ranks under torchrun, killed, restarted and resharded, against one process (three minutes)
	$(BIN)/python benchmarks/check_ranks.py $(ARGS)

check-labels: $(STAMP) ## a scripted annotator on the labelling page of a small run: do the labels reach R and report? (two minutes; seven with ARGS=--quickstart)
	$(BIN)/python benchmarks/check_labels.py $(ARGS)

# GPU_PYTHON=python3 uses a Python that already has torch instead of .venv.
gpu-check: $(if $(GPU_PYTHON),,$(TESTS)) ## on a CUDA device: its tests, speed against transformers and TRL, then the recipe gpu from text to M2
	PYTHONPATH=src $(or $(GPU_PYTHON),$(BIN)/python) -m pytest -m gpu
	PYTHONPATH=src $(or $(GPU_PYTHON),$(BIN)/python) benchmarks/gpu.py $(ARGS)
	PYTHONPATH=src $(or $(GPU_PYTHON),$(BIN)/python) -m trivium run gpu

lock: $(STAMP) ## choose the pins anew from pyproject.toml's ranges
	$(BIN)/python scripts/lock.py

clean: ## remove .venv and caches, never runs/
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
