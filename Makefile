# make nightly: install, then the main job.   make test: install, then the tests.   make help: all of it.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
CONFIG ?= configs/digits-dcgan.yaml
BENCHMARKS ?= benchmarks/train_step.py benchmarks/prepare.py benchmarks/quality.py benchmarks/hw06.py benchmarks/points.py

.PHONY: help install nightly test test-slow test-stack stack-up stack-down stack-status check bench ui screenshots constraints clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	@python=$$(for name in python3.13 python3.12 python3.11 python3; do \
		"$$name" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
		&& echo "$$name" && break; done); \
	if [ -z "$$python" ]; then \
		echo "make: no Python 3.11, 3.12 or 3.13 with venv and pip on the PATH; install one (Debian: apt-get install python3-venv)" >&2; \
		exit 2; \
	fi; \
	echo "installing with $$python into $(VENV)"; \
	"$$python" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@UV_SYSTEM_CERTS=true VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

nightly: install  ## the main job: CONFIG=configs/digits-dcgan.yaml
	@$(BIN)/ganpipe run "$(CONFIG)"; code=$$?; \
	if [ $$code -eq 3 ]; then echo "the gate kept the champion: a normal night, production is unchanged"; exit 0; fi; \
	exit $$code

test: install  ## the quick tests
	@$(BIN)/python -m pytest -n 2 -m "not slow and not gpu and not stack"

test-slow: install  ## all tests that need no GPU and no servers of others
	@$(BIN)/python -m pytest -n 2 -m "not gpu and not stack"

test-stack: install  ## the tests on real servers, which they start (on Debian as root: installs them, too)
	@$(BIN)/python -m pytest -m stack

stack-up: install  ## PostgreSQL, S3, MLflow, Prefect and a worker as processes on this machine, in .ganpipe/stack
	@$(BIN)/python infra/stack.py up

stack-down: install  ## stop them; the data stay
	@$(BIN)/python infra/stack.py down

stack-status: install  ## which of them are healthy
	@$(BIN)/python infra/stack.py status

check: install  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: install  ## the benchmarks, one after the other
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python "$$file"; done

ui: install  ## MLflow's and Prefect's pages
	@$(BIN)/ganpipe ui

screenshots: install  ## the pictures of web pages in docs/, afresh; the pages are checked on the way
	@GANPIPE_TEST_SCREENSHOTS=docs $(BIN)/python -m pytest -m stack tests/looks

constraints: install  ## resolve constraints.txt afresh
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --quiet \
		--no-annotate --no-header --no-emit-index-url --output-file constraints.txt

clean:  ## remove what was installed and cached; runs and models in .ganpipe stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
