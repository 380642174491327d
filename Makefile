PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# RecBole comes last and alone: its cap on Ray (2.6.3) has no wheel for Python 3.12 and does not run on today's stack.
RECBOLE := recbole==1.2.1

.PHONY: pages setup setup-test quickstart test coverage mutants test-fast test-all test-pythons resolve lint clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -e .
	$(PIP) install --no-deps $(RECBOLE)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -e ".[test,dev]"
	touch $@

setup: $(VENV)/.installed

setup-test: $(VENV)/.installed-test

quickstart: setup
	$(BIN)/run_recbole --model=ScaledSASRec --dataset=ml-100k --config_files=properties/tiny.yaml

# What CI runs: everything but the tests marked `slow`, whole files at a time (fixtures are made once), on two cores where
# there are two; `make test WORKERS=8` takes more (1.5 GB each).
CORES := $(shell nproc 2> /dev/null || echo 1)
WORKERS ?= $(if $(filter 1,$(CORES)),1,2)
SUITE = $(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --dist loadfile
test: setup-test
	$(SUITE)

# The same, and which lines it runs, by test. Lines run by commands in further processes are not counted.
coverage: setup-test
	$(SUITE) --cov=recbole_scale --cov-context=test --cov-report=term

# How many of COUNT small changes to the code do the tests notice? By the lines that `make coverage` has noted.
mutants: setup-test
	$(BIN)/python benchmarks/mutants.py --count $(or $(COUNT),100) --commit $$(git rev-parse --short HEAD)

# What needs no training: laws, data, sizes, package, documents, and the rules of imports. For between two edits.
FAST := $(addprefix tests/test_,laws.py histories.py windows.py ladder.py sizes.py package.py readme.py records.py)
test-fast: setup-test
	$(BIN)/python -m pytest -q -m "not slow" $(FAST)
	$(BIN)/python -m pytest -q tests/test_imports.py -k "up or circular"

test-all: setup-test
	$(BIN)/python -m pytest -q

# On each Python at hand: install as a user does, plan, train, the README's commands, test-fast. Downloads torch for each.
PYTHONS := 3.10 3.11 3.12 3.13
test-pythons:
	$(PYTHON) benchmarks/pythons.py --pythons $(PYTHONS) $(if $(KEEP),--keep $(KEEP))

# The dependencies of every Python that we promise, resolved but not installed.
resolve: setup-test
	for version in 3.10 3.11 3.12 3.13; do \
	  $(BIN)/uv pip compile --quiet --no-header --python-version $$version --only-binary :all: --all-extras pyproject.toml \
	    --output-file .venv/resolved-$$version.txt > /dev/null || exit 1; \
	done

# The example pages from their committed rows, and pictures of them (these need Chromium).
pages: setup-test
	$(BIN)/recbole-scale report --rows results/ml-1m/runs.jsonl --dataset ml-1m --holdout 1.57M --predict 10x,829M \
	  --others results/ml-1m/baselines/runs.jsonl results/quality/ten-minutes.jsonl --challenges results/ml-1m/challenges/challenges.jsonl \
	  --out docs/pages/ml-1m.html
	$(BIN)/recbole-scale report --rows results/synthetic/runs.jsonl --holdout 197K --predict 10x \
	  --others results/synthetic/others.jsonl --out docs/pages/synthetic.html
	$(BIN)/python tests/helpers/pictures.py docs/pages/ml-1m.html docs/images/page-ml-1m light dark
	$(BIN)/python tests/helpers/pictures.py docs/pages/synthetic.html docs/images/page-synthetic light phone

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-3.* build dist *.egg-info
