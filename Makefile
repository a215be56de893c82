# Two commands for a newcomer: `make example` installs and upscales a photo, `make test` installs and runs the fast tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One worker per core, four at most; each takes whole test files.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: example test test-all lint docs wheel

example: $(VENV)/installed
	$(BIN)/linearsr upscale examples/photo.jpg -o photo_x4.png --overwrite

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build -W -E -a --keep-going -q -d build/doctrees docs build/site

wheel: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build
	ls -lh dist

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --editable '.[dev]'
	touch $@
