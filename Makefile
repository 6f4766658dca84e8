# Everything a developer types. `make demo` and `make test` need python3 (3.11+), python3-venv,
# git and make, and set up the rest in .venv; as any user, without Docker.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help venv demo up test test-parts test-faults test-histories test-unit faults test-browser test-apache test-community bench lint format types clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## the whole fleet on this machine, watching a small service of its own
	@exec $(BIN)/lighthouse up --demo

up: $(READY) ## the whole fleet on this machine; DATABASE_URL and REDIS_URL name other servers
	@exec $(BIN)/lighthouse up

# Side by side: the faults are whole fleets that mostly wait for a clock, and cost the others little.
# What they print comes when they end, whole.
test: $(READY) ## all tests, on servers that they start themselves
	@$(MAKE) --no-print-directory -j3 test-parts test-faults test-histories

HISTORIES := tests/faults/test_simulator.py tests/faults/test_self_outage.py \
  tests/faults/test_processes.py

test-parts: $(READY)
	$(BIN)/python -m pytest tests/unit tests/integration tests/migration

test-faults: $(READY)
	@output=$$($(BIN)/python -m pytest tests/faults $(HISTORIES:%=--ignore=%) 2>&1); status=$$?; \
	  printf '%s\n' "$$output"; exit $$status

test-histories: $(READY)
	@output=$$($(BIN)/python -m pytest $(HISTORIES) 2>&1); status=$$?; \
	  printf '%s\n' "$$output"; exit $$status

test-unit: $(READY) ## the tests that need no server
	$(BIN)/python -m pytest tests/unit

faults: $(READY) ## every part killed, stopped, cut off and filled up, in full length
	$(BIN)/python -m pytest -m "" tests/faults

test-browser: $(READY) ## browser steps in a real Chromium (root installs it when it is missing)
	.ci/test-browser $(BIN)/python -m pytest tests/browser

test-apache: $(READY) ## the database's tests on Debian's TimescaleDB package (needs root)
	.ci/test-apache $(BIN)/python -m pytest -m database

test-community: $(READY) ## the same on LIGHTHOUSE_TEST_DATABASE_URL, or in Docker
	$(if $(LIGHTHOUSE_TEST_DATABASE_URL),,LIGHTHOUSE_TEST_CONTAINERS=1) \
	  $(BIN)/python -m pytest -m database

bench: $(READY) ## all figures, alone on the machine, 15 minutes; QUICK=1 in 2 measures nothing
	.ci/bench $(BIN)/python -m tests.bench

lint: $(READY) ## style and format, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(READY) ## style and format, changing what can be changed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## types
	$(BIN)/mypy

venv: $(READY) ## the virtual environment alone

# Made anew when the packages change: an old one may hold what is no longer named.
$(READY): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Lighthouse needs Python 3.11 or newer; set PYTHON to one" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "python3-venv is missing; install it: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once, about a minute) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint deploy/constraints.txt --editable '.[local,browser,dev]'
	@touch $@

clean: ## remove the virtual environment, caches and the demo's data
	rm -rf $(VENV) .lighthouse build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
