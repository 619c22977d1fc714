# make repro   the whole pipeline, from videos to probe
# make experiments   the report's experiments, and the tables of the pages
# make test    the fast tests; `make test-all` adds the slow ones
# make gpu     on a machine with a GPU: how fast it is, in under eight minutes; PART=3 tests what it does differently
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# The files of tests run side by side, each with one thread: one more than there are cores, since some wait, and 8 at most.
PYTEST := OMP_NUM_THREADS=1 python -m pytest --numprocesses $(shell expr $$(nproc) + 1) --maxprocesses 8 --dist loadfile \
	--no-loadscope-reorder

.PHONY: repro experiments test test-all gpu lint setup

repro: setup
	python -m stages.check
	dvc repro

experiments: setup
	dvc repro experiments/dvc.yaml
	python -m stages.tables

test: setup
	$(PYTEST)

test-all: setup
	$(PYTEST) -m "slow or not slow"

gpu: setup
	PYTHON=python benchmarks/gpu.sh

lint: setup
	ruff check .
	ruff format --check .

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, {sys.version.split()[0]} found; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-deps --requirement requirements.lock
	touch $@

# After a change of dependencies in pyproject.toml; needs uv.
.PHONY: lock
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --constraint .ci/torch-pair.txt --output-file requirements.lock
