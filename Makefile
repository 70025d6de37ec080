# `make test` and `make bench` need nothing but Python 3.10 or newer: each sets itself up in .venv.

PYTHON ?= python3
OUT ?= reports
SWEEP ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help test bench check gpu clean

help:
	@echo 'make test    all tests that need no GPU; ARGS="-k lstm" goes to pytest'
	@echo 'make bench   the benchmark; SWEEP=name picks the shapes, ARGS goes to pytest'
	@echo 'make check   ruff, the format and mypy'
	@echo 'make gpu     GPU tests and a quick sweep with this machine'\''s own python3; OUT=folder takes the reports'
	@echo 'make clean   removes the environment and what tools left behind'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	@touch $@

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

bench: $(READY)
	$(BIN)/python -m pytest --benchmark $(if $(SWEEP),--sweep $(SWEEP)) $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A GPU machine is often without a network: it runs the bare checkout with the torch and triton that it has. The sweep
# runs even where a test fails, since a machine is lent for minutes; the exit status still tells.
gpu:
	@status=0; \
	python3 -m pytest -m gpu $(ARGS) || status=$$?; \
	python3 -m pytest --benchmark --sweep $(or $(SWEEP),quick) --reports=$(OUT) || status=$$?; \
	exit $$status

clean:
	rm -rf $(VENV) build dist .benchmarks .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
