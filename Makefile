# One command for each task; CI calls the same ones. Everything is set up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# no byte code ahead of time: most of it is never imported, and the demo starts earlier
PIP := $(BIN)/pip install -qq --no-compile
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test shapes faults adopt redaction install format check bench build lock clean

demo: $(VENV)/demo.stamp  ## see llmctx at work in one minute; ARGS="--json" or ARGS="--keep"
	@$(BIN)/llmctx demo $(ARGS)

test: $(VENV)/dev.stamp  ## all tests; ARGS="-k name" is passed to pytest
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

shapes: $(VENV)/dev.stamp  ## all scenarios of calls, twice; the second time on a busy machine
	$(BIN)/python -m pytest tests/promises/test_attribution.py --all-shapes $(ARGS)
	$(BIN)/python -m pytest tests/promises/test_attribution.py --all-shapes --busy --timeout 600 $(ARGS)

faults: $(VENV)/dev.stamp  ## all faults that llmctx must survive, at length; ARGS="--seeds 50 --seconds 60"
	$(BIN)/python -m tests.faults $(ARGS)

adopt: $(VENV)/dev.stamp  ## adopt and partition tables of a million rows while they are written to; ARGS="100000 texts"
	$(BIN)/python -m tests.migration.million $(ARGS)

redaction: $(VENV)/dev.stamp  ## recall, precision and cost of redaction beside other tools; ARGS="--show 5"
	$(BIN)/python -m tests.redaction $(ARGS)

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

bench: $(VENV)/dev.stamp  ## the cost of llmctx, as ratios in one run
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
