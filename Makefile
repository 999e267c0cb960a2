# Needs make and python3 with its venv module (Debian, Ubuntu: apt install make python3-venv); the rest goes into $(VENV).
#
#   make demo    the whole path on the embedded model: solve, run, compare
#   make test    all tests but those on downloaded weights
#   make lint    ruff, mypy and the import rules
#
# CONSTRAINTS holds the versions that the tests were run with;  make demo CONSTRAINTS=  takes the newest in
# pyproject.toml's ranges. torch on Linux is the CUDA build, several GB. Without an NVIDIA GPU the CPU build is
# enough: give pip the CPU index named on PyTorch's "get started" page, as in
#   make demo PIP_EXTRA="--extra-index-url <address> --retries 0"

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PIP_EXTRA ?=
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) $(PIP_EXTRA)

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/flexplan demo

# One thread a worker: workers and flexplan's own I/O threads share the cores.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not real_weights" $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "flexplan needs Python 3.11 or newer; try: make PYTHON=python3.12 VENV=.venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -e ".[runtime]"
	touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(PIP) -e ".[dev]"
	touch $@ $(VENV)/.demo
