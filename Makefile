# One obvious command for everything; CI calls the same ones. All set-up happens in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# no byte code ahead of time: most of it is never imported, and the demo starts sooner
PIP := $(BIN)/pip install -qq --no-compile
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test shapes faults adopt install format check bench build lock clean

demo: $(VENV)/demo.stamp  ## the whole way in one minute; ARGS="--json" or ARGS="--keep"
	@$(BIN)/llmctx demo $(ARGS)

test: $(VENV)/dev.stamp  ## every test; ARGS="-k name" passes on
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

shapes: $(VENV)/dev.stamp  ## every shape in which a call can be made, twice; the second time on a busy machine
	$(BIN)/python -m pytest tests/promises/test_attribution.py --all-shapes $(ARGS)
	$(BIN)/python -m pytest tests/promises/test_attribution.py --all-shapes --busy --timeout 600 $(ARGS)

faults: $(VENV)/dev.stamp  ## everything that is to be survived, at length; ARGS="--seeds 50 --seconds 60"
	$(BIN)/python -m tests.faults $(ARGS)

adopt: $(VENV)/dev.stamp  ## tables of a million rows, adopted and partitioned beside their writers; ARGS="100000 texts"
	$(BIN)/python -m tests.migration.million $(ARGS)

install: $(VENV)/dev.stamp  ## the development environment

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(VENV)/dev.stamp  ## style, types, floors, changelog
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.packaging.changelog

bench: $(VENV)/dev.stamp  ## what llmctx costs, as ratios in one run
	$(BIN)/python -m bench $(ARGS)

build: $(VENV)/dev.stamp  ## sdist and wheel in dist/
	$(BIN)/python -m hatchling build

lock:  ## renew the hashed requirements (needs uv on the PATH)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --all-extras --group dev pyproject.toml -o requirements/dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --extra demo --group build -c requirements/dev.lock pyproject.toml -o requirements/demo.lock

clean:
	rm -rf $(VENV) dist

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: requirements/demo.lock pyproject.toml | $(BIN)/python
	@echo "setting up the demo (once, a minute or two) ..." >&2
	@$(PIP) --require-hashes -r requirements/demo.lock
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements/dev.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(VENV)/demo.stamp $@
