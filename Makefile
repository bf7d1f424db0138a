# One obvious command for everything; CI calls the same ones. All set-up happens in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test install format check bench build lock clean

demo: $(VENV)/demo.stamp  ## the whole way in one minute; ARGS="--json" or ARGS="--keep"
	@$(BIN)/llmctx demo $(ARGS)

test: $(VENV)/dev.stamp  ## every test; ARGS="-k name" passes on
	$(BIN)/python -m pytest $(ARGS)

install: $(VENV)/dev.stamp  ## the development environment

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(VENV)/dev.stamp  ## style, types, floors, changelog
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.changelog

bench: $(VENV)/dev.stamp  ## what llmctx costs, as ratios in one run
	$(BIN)/python -m bench $(ARGS)

build: $(VENV)/dev.stamp  ## sdist and wheel in dist/
	$(BIN)/python -m hatchling build

lock:  ## renew the hashed requirements (needs uv on the PATH)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --all-extras --group dev pyproject.toml -o requirements/dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --extra demo --group build -c requirements/dev.lock pyproject.toml -o requirements/demo.lock

clean:
	rm -rf $(VENV) dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: requirements/demo.lock pyproject.toml | $(BIN)/python
	@echo "setting up the demo (once, about a minute) ..."
	@$(BIN)/pip install --quiet --require-hashes -r requirements/demo.lock
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(VENV)/demo.stamp $@
