PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup setup-test quickstart test test-all lint clean

# RecBole 1.2.1 asks for a Ray that does not run on today's stack; the last line replaces it (pip says so and goes on).
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	$(BIN)/pip install --quiet --disable-pip-version-check -U "ray[tune]>=2.50"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test,dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check -U "ray[tune]>=2.50"
	touch $@

setup: $(VENV)/.installed

setup-test: $(VENV)/.installed-test

quickstart: setup
	$(BIN)/run_recbole --model=ScaledSASRec --dataset=ml-100k --config_files=properties/tiny.yaml

# What CI runs: everything but the tests marked `slow`.
test: setup-test
	$(BIN)/python -m pytest -q -m "not slow"

test-all: setup-test
	$(BIN)/python -m pytest -q

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
