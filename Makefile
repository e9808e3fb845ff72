# Each target sets up all it needs: a virtual environment in .venv with this project and its extras.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint style types imports clean

demo: $(VENV)/.train
	$(BIN)/python -m experiments.demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: style types imports

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

# Which package may import which: the contracts are in pyproject.toml.
imports: $(VENV)/.test
	$(BIN)/lint-imports

KERNELS := hatch_build.py bnn_jax/native/build.py $(wildcard bnn_jax/native/cpp/*)

$(VENV)/.train: pyproject.toml $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.test: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .jax_cache
