# Needs Python 3.11 or later and nothing else; everything goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip makes PEP 517 builds in an environment of their own; the constraints hold there too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo test lint typecheck check install install-test bench clean

demo: $(VENV)/.installed-demo ## build .venv and let the bundled model tell a story
	@$(BIN)/polyllama run tiny "Once upon a time" --echo --backend reference --dtype float32 --temperature 0.8 --seed 7

test: lint typecheck ## everything: linting, types, the whole test suite
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.installed-test
	$(BIN)/python tools/typecheck.py

check: test

install: $(VENV)/.installed-demo

install-test: $(VENV)/.installed-test

bench: $(VENV)/.installed-test ## polyllama beside transformers, in one run
	$(PIP) install -q -e '.[bench]'
	$(BIN)/python bench/run.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polyllama needs Python 3.11 or later, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -e .
	@touch $@

# torch by its exact version first: an open range would bring gigabytes of CUDA libraries.
$(VENV)/.installed-test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -q -e '.[torch,mlx,jax,test,lint]'
	@touch $@ $(VENV)/.installed-demo

clean: ## remove what make made
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
