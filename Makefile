# Two commands are enough: `make demo` and `make test`. Each sets up a virtual environment first, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

JOBS ?= 2
VLLM ?= .venv-vllm
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
CASES ?=

.PHONY: install demo test test-long test-alfworld test-trackers test-miniwob test-teachers test-export test-vllm test-families test-floors newcomer campaign check lint format docs clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */make \1\t/' | expand -t 16

install: $(VENV)/.ok  ## set up .venv with gtrturbo and its development tools

$(VENV)/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps mergekit==0.1.5 immutables==0.21
	touch $@

demo: install  ## the tiny VLM from nothing, PPO alone beside the free teacher: a few minutes on two cores
	RUN=$(RUN) examples/demo.sh

test: install  ## run the tests, a process per core
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal -m "not long"

test-long: install  ## the tests that take longest: whole runs, split weights, memory that is measured
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal -m long

campaign: install  ## kill, damage and mislead every command thousands of times: half an hour on two cores; CASES=NAME replays one
	PYTHONPATH=tests $(BIN)/python -m campaign --jobs $(JOBS) $(CASES)

test-trackers: install  ## TensorBoard, Weights & Biases and Trackio themselves, in an environment beside .venv
	$(PYTHON) -m venv .venv-trackers
	grep -v '^pillow=' constraints.txt > .venv-trackers/constraints.txt  # Trackio takes none from 13 on.
	.venv-trackers/bin/pip install --quiet --disable-pip-version-check -c .venv-trackers/constraints.txt -e '.[dev,tensorboard,wandb,trackio]'
	.venv-trackers/bin/pytest tests/store/test_tracker_services.py

test-alfworld: install  ## ALFWorld in TextWorld itself, in an environment beside .venv: needs gcc and cmake, 6 minutes the first time
	$(PYTHON) -m venv .venv-alfworld
	.venv-alfworld/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,alfworld]'
	.venv-alfworld/bin/pytest -rA tests/tasks/test_alfworld_*.py tests/stages/test_real_alfworld.py

test-teachers: install  ## a teacher on `transformers serve`, in an environment beside .venv
	$(PYTHON) -m venv .venv-teachers
	.venv-teachers/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e . 'transformers[serving]>=5.23'
	GTRTURBO_SERVE=$(CURDIR)/.venv-teachers/bin/python $(BIN)/pytest tests/stages/test_real_serve.py

test-miniwob: install  ## MiniWoB's pages in a real Chromium, in an environment beside .venv: the experts, killed browsers, a rollout
	command -v chromedriver >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends chromium chromium-driver; }
	$(PYTHON) -m venv .venv-miniwob
	.venv-miniwob/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,miniwob,minigrid]'
	GTRTURBO_MINIWOB=all .venv-miniwob/bin/pytest tests/tasks/test_miniwob.py tests/tasks/test_miniwob_browser.py tests/tasks/test_minigrid.py

test-vllm: install $(VLLM)/.ok  ## the stages against a real vLLM for CPUs, in an environment of its own (VLLM=FOLDER): half an hour or more on two cores
	GTRTURBO_VLLM=$(abspath $(VLLM))/bin/python $(BIN)/pytest tests/stages/test_real_vllm.py

$(VLLM)/.ok: tests/vllm_environment.sh
	PYTHON=$(PYTHON) sh tests/vllm_environment.sh $(VLLM)
	touch $@

test-families: install  ## a tiny random model of every family through every stage, and the table of docs/engines.md: ten minutes on two cores
	GTRTURBO_FAMILIES=all $(BIN)/pytest tests/models/test_family_table.py tests/models/test_parts.py
	$(BIN)/python tests/family_stages.py

test-export: install  ## turns loaded by TRL, datasets, pyarrow and atif themselves, in an environment beside .venv
	$(PYTHON) -m venv .venv-export
	.venv-export/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' atif datasets
	.venv-export/bin/pip install --quiet --disable-pip-version-check --no-deps trl accelerate
	.venv-export/bin/pytest tests/report/test_exporting.py tests/report/test_pushing.py

test-floors:  ## a part of the tests with the lowest versions that pyproject.toml names, in an environment beside .venv
	$(PYTHON) -m venv .venv-floors
	.venv-floors/bin/pip install --quiet --disable-pip-version-check -c tests/floors.txt -e '.[dev]'
	.venv-floors/bin/pytest tests/test_cli.py tests/models tests/stages/test_sft_stage.py tests/stages/test_ppo_step_stage.py

newcomer: install  ## type every line of the README, the quick start and the page of stages, in a fresh copy: half an hour
	$(BIN)/python tests/newcomer.py

check: lint test  ## lint and test

lint: install  ## ruff and pyright
	$(BIN)/ruff check gtrturbo tests docs examples
	$(BIN)/ruff format --check gtrturbo tests docs examples
	$(BIN)/pyright

format: install  ## format the code
	$(BIN)/ruff format gtrturbo tests docs examples
	$(BIN)/ruff check --fix gtrturbo tests docs examples

docs: install  ## write the pages that are made from the code, and build the site into build/site
	$(BIN)/python -m docs.commands && $(BIN)/python -m docs.metrics && $(BIN)/python -m docs.messages && $(BIN)/python -m docs.options && $(BIN)/python -m docs.tasks
	test -x .venv-docs/bin/mkdocs || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.7'
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

clean:  ## remove what was built, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
