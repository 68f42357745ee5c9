# Everything a newcomer types. `make` alone lists it.
PYTHON ?= python3
CORES ?= all
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
SNAKEMAKE := snakemake --cores $(CORES)

# Kernels of other processors. With the last, MKL's exp rounds otherwise, as it does on AMD's.
KERNELS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-assets picture plan check golden lint test test-fast test-kernels test-slurm test-gpu test-all bench-gpu verify-weights clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: $(VENV)/.installed  ## .venv with the pinned versions of constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test,dev,slurm,trackers]'
	@touch $@

demo: setup  ## the default experiments, from clips to report (6 minutes on 2 cores)
	$(SNAKEMAKE)

demo-assets: setup  ## train the demo's VAE again (about 20 minutes; its weights are in demo/assets)
	python demo/train_vae.py

picture: setup  ## the README's picture, from the demo's results
	python demo/make_picture.py

plan: setup  ## what would run, why, and what it costs
	@cogtune plan

check: setup  ## check every config without running anything
	cogtune config check

golden: setup  ## write the golden outputs of the tests again, to be looked at in git diff
	python -m tests.unit.config.test_golden

lint: setup  ## ruff, pyright, snakefmt, snakemake --lint
	ruff check . && ruff format --check .
	pyright
	snakefmt --check Snakefile workflow
	snakemake --lint

test: setup lint  ## linters and all CPU tests
	pytest -m "not slow and not gpu and not slurm"

test-fast: setup  ## three quarters of the unit tests, of every folder, in under a minute; no linters
	OMP_NUM_THREADS=1 pytest -q tests/unit -m "not slow and not heavy and not gpu and not slurm" --durations=5 --durations-min=1

test-kernels: setup  ## parity with the kernels of other processors, and with 1 and 2 threads (a minute and a half)
	@for kernels in $(KERNELS); do for threads in 1 2; do \
		echo "$$kernels, $$threads threads"; \
		env $$kernels OMP_WAIT_POLICY=PASSIVE PARITY_THREADS=$$threads pytest -q tests/parity/test_upstream.py tests/parity/test_limits.py -k 'not rounding' || exit; \
	done; done

test-gpu: setup  ## tests on a CUDA device
	pytest -m gpu tests/gpu

test-slurm: setup  ## tests on a Slurm that they start themselves (as root, with the packages slurm-wlm and munge)
	@# They mostly wait: three groups side by side, each with a Slurm of its own.
	@logs=$$(mktemp -d); groups=; \
	for name in test_workflow test_training; do \
		pytest -q -m "slurm and not slow" --durations=5 tests/slurm/$$name.py > $$logs/$$name 2>&1 & groups="$$groups $$!"; \
	done; \
	pytest -m "slurm and not slow" --durations=10 tests/slurm --ignore=tests/slurm/test_workflow.py --ignore=tests/slurm/test_training.py; failed=$$?; \
	for group in $$groups; do wait $$group || failed=$$?; done; \
	cat $$logs/*; rm -r $$logs; exit $$failed

bench-gpu: setup  ## speed and memory on a CUDA device, beside diffusers and the plan (docs/performance.md)
	python -m bench.gpu

verify-weights: setup  ## compare the real weights in MODEL=folder with diffusers and transformers
	@test -n "$(MODEL)" || { echo "make verify-weights: set MODEL, such as MODEL=weights/cogvideox-5b"; exit 2; }
	python -m tests.verify_weights "$(MODEL)"

test-all: setup lint  ## also the tests that take over a minute
	pytest

clean:  ## remove results (the store, with everything computed, stays)
	rm -rf results
