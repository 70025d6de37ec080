# `make test` and `make bench` need nothing but Python 3.10 or newer: each sets itself up in .venv, or with
# CONSTRAINTS=newest, by the versions of constraints-newest.txt, in .venv-newest.

PYTHON ?= python3
OUT ?=
BUDGET ?= 430
SWEEP ?=
ARGS ?=
CONSTRAINTS ?=

# Each file of constraints has an environment of its own, so that they can stand side by side.
SUFFIX := $(if $(CONSTRAINTS),-$(CONSTRAINTS))
PINS := constraints$(SUFFIX).txt
VENV := .venv$(SUFFIX)
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs

.PHONY: help test slow bench check docs gpu tune clean

help:
	@echo 'make test    the tests that need no GPU; ARGS="-k lstm -n 0" goes to pytest; CONSTRAINTS=newest: with the newest torch'
	@echo 'make slow    the rest of them: exhaustive products, and such as start processes or compile much'
	@echo 'make bench   the benchmark; SWEEP=name picks the shapes, ARGS goes to pytest'
	@echo 'make check   ruff, the format and mypy'
	@echo 'make docs    the documentation in site/, beginning at site/index.html; a warning is an error'
	@echo 'make gpu     tests, sanitizer and sweeps on this GPU, with its own python3; BUDGET=seconds, OUT=folder'
	@echo 'make tune    the variants of docs/tuning.md on this GPU, with its own python3; BUDGET=seconds, OUT=folder'
	@echo 'make clean   removes the environment and what tools left behind'

$(READY): pyproject.toml setup.py $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[test,check,clients]'
	@touch $@

$(DOCS): pyproject.toml setup.py $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[docs]'
	@touch $@

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

slow: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow $(ARGS)

bench: $(READY)
	$(BIN)/python -m pytest --benchmark $(if $(SWEEP),--sweep $(SWEEP)) $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The variable is the theme's, which else says at each build that mkdocs will be followed by something else.
docs: $(DOCS)
	$(BIN)/python docs/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo site/index.html

# A GPU machine is often without a network: it runs the bare checkout with the torch and triton that it has. What was
# found lies in OUT, and a later run goes on from there; where there is no git, GATEFUSE_COMMIT says what is measured.
gpu:
	@python3 -m gatefuse.bench.gpu --budget=$(BUDGET) $(if $(OUT),--out=$(OUT)) $(ARGS)

# The same, for changes to the kernels that are to be tried beside the unchanged ones.
tune:
	@python3 -m gatefuse.bench tune --budget=$(BUDGET) $(if $(OUT),--out=$(OUT)) $(ARGS)

clean:
	rm -rf .venv .venv-* build dist site .benchmarks .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
