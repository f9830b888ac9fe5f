# A fresh machine needs python3.11 and a network to PyPI. PIP_FLAGS passes anything on to pip, for instance
#   make test PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"    (smaller torch, no CUDA)
PYTHON    ?= python3.11
PIP_FLAGS ?=
VENV      := .venv
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed
SCAN      ?=
DATA      ?= ../shared/data
BENCHMARK ?=
TRAIN     ?=

.DEFAULT_GOAL := help
.PHONY: help setup test demo benchmark train-default reliability lint wheel-test constraints clean

help:
	@echo "make demo [SCAN=path]  enhance nilearn's MNI152 scan (or yours) into ./demo/"
	@echo "make benchmark         every method on degraded scans of DATA/val (or MNI152) into ./benchmark/; continues"
	@echo "                       DATA=../shared/data, BENCHMARK=\"more options of moediff benchmark\""
	@echo "make train-default     train the embedded weights anew into ./runs (a night on 2 cores); run again to go on"
	@echo "                       TRAIN=\"--minutes 25\" on one fast GPU"
	@echo "make test              set up, lint, type-check and run every quick test"
	@echo "make reliability       run the tests of faults, the long ones too, and write docs/reliability.md"
	@echo "make lint              ruff and mypy only"
	@echo "make wheel-test        build the wheel and enhance a phantom from an empty environment"
	@echo "make constraints       write the present versions to constraints.txt"
	@echo "make clean             remove the environment, caches and builds"

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e ".[train,report,dev]"
	touch $@

setup: $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

demo: $(STAMP)
	$(BIN)/python examples/demo.py $(if $(SCAN),"$(SCAN)")

benchmark: $(STAMP)
	$(BIN)/moediff benchmark --data "$(DATA)" -o benchmark $(BENCHMARK)

reliability: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow" -k "row0 or row1 or row2 or row3 or row4 or row5" --reliability docs/reliability.md

train-default: $(STAMP)
	$(BIN)/python scripts/train_default.py $(TRAIN)

wheel-test:
	PYTHON="$(PYTHON)" PIP_FLAGS="$(PIP_FLAGS)" .ci/wheel-test

constraints: $(STAMP)
	grep '^#' constraints.txt > constraints.new
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(torchvision|moediff)' | sed 's/+cpu$$//' >> constraints.new
	mv constraints.new constraints.txt
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
