# Everything a person does here. Needs python3 (3.11 to 3.13) and make, nothing else; `make` lists the targets.

PYTHON ?= python3
VENV   ?= .venv
TASK   ?= signs
# By version, so that a build of it that the machine has (CPU, another CUDA) serves.
TORCH  ?= torch==2.13.0
# In the order of testpaths: long files first, so that both processes end together.
BY_FILE := -n 2 --dist loadfile --no-loadscope-reorder
# Further words for the command behind a target: make train ARGS="--num_epochs 3", make test ARGS="-k resume".
ARGS   ?=

BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check
LOCKED  := install -qq --no-deps --require-hashes
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate \
           --no-emit-index-url --no-emit-package torch --quiet \
           --custom-compile-command "make lock" $(ARGS)

# The image. torch comes with the base image: any will do that has a Python with torch 2.13.
DOCKER     ?= docker
BASE_IMAGE ?= $(shell sed -n 's/^ARG BASE_IMAGE=//p' image/Dockerfile)
IMAGE      ?= signs-trainer
VERSION    := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG        ?= $(VERSION)
# Where the code can be had, for the image's label.
SOURCE     ?=

.DEFAULT_GOAL := help
.PHONY: help venv train test unit e2e lint bench proof image chart manifests lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.installed  ## set up .venv (the other targets do it by themselves)

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit( \
	  "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12 ..." % v)'
	@echo "Setting up $(VENV) (once; torch is the large one)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install "$(TORCH)"
	@$(PIP) $(LOCKED) -r requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

train: venv  ## train on generated data: table, report and exported model at the end (TASK=signs)
	@$(BIN)/trainer train --task $(TASK) --config quick $(ARGS)

test: venv  ## run the tests, two files at a time
	@$(BIN)/python -m pytest $(BY_FILE) $(ARGS)

unit: venv  ## run the fast tests only
	@$(BIN)/python -m pytest tests/unit $(BY_FILE) $(ARGS)

e2e: venv  ## run the tests on the cluster of the current context, in namespaces of their own (25 minutes)
	@$(BIN)/python -m pytest tests/e2e --timeout 900 $(ARGS)
	@[ -z "$$S3_ENDPOINT_URL" ] || TEST_S3_ENDPOINT="$$S3_ENDPOINT_URL" TEST_S3_ACCESS_KEY="$$AWS_ACCESS_KEY_ID" \
	  TEST_S3_SECRET_KEY="$$AWS_SECRET_ACCESS_KEY" $(BIN)/python -m pytest tests/integration/test_s3_store.py

lint: venv  ## style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

$(VENV)/.peers: $(VENV)/.installed tests/bench/requirements.txt
	@echo "Installing the peers that make bench compares with"
	@$(PIP) $(LOCKED) -r tests/bench/requirements.txt
	@touch $@

bench: $(VENV)/.peers  ## measure against hand-written loops and the peers (ARGS="loop signs" for some)
	@$(BIN)/python -m tests.bench $(ARGS)

proof: venv  ## the whole tables and the long runs (hours)
	@$(BIN)/python -m pytest -m proof -s $(ARGS)
	@$(BIN)/python -m tests.bench scale

image:  ## build the image (BASE_IMAGE=..., IMAGE=signs-trainer, TAG=the version)
	@DOCKER_BUILDKIT=1 $(DOCKER) build --file image/Dockerfile --tag $(IMAGE):$(TAG) \
	  --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg VERSION=$(VERSION) --build-arg SOURCE=$(SOURCE) \
	  --build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown) .
	@$(DOCKER) history --human=false --format '{{.Size}} {{.CreatedBy}}' $(IMAGE):$(TAG) | awk \
	  '{ bytes += $$1 } / VERSION=/ { printf "$(IMAGE):$(TAG): %.0f MB over $(BASE_IMAGE)\n", bytes / 1e6; exit }'

chart: venv  ## renew the chart's schema, README and presets (ARGS=--check only compares)
	@$(BIN)/python -m charts.tools chart $(ARGS)

manifests: venv  ## the same, and manifests/ out of the chart
	@$(BIN)/python -m charts.tools $(ARGS)

lock: venv  ## renew the locks: project, bench peers, image, S3 test server (ARGS=--upgrade for newer versions)
	@$(PIP) install -qq "uv>=0.9"
	@echo "torch ; sys_platform == 'never'" > $(VENV)/no-torch.txt
	@$(COMPILE) pyproject.toml --all-extras --group dev --group torch-needs --override $(VENV)/no-torch.txt \
	  -o requirements.lock
	@$(COMPILE) pyproject.toml --all-extras --group bench --group torch-needs --override $(VENV)/no-torch.txt \
	  --constraint requirements.lock -o tests/bench/requirements.txt
	@$(COMPILE) pyproject.toml --extra report --extra export --extra translation --extra images \
	  --override $(VENV)/no-torch.txt --constraint requirements.lock -o image/requirements.lock
	@echo hatchling | $(COMPILE) - --constraint requirements.lock -o image/build.lock
	@printf 'swift==2.38.3\nanycrc\n' | $(COMPILE) - -o tests/s3/requirements.txt

clean:  ## remove .venv and caches (runs and data stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
