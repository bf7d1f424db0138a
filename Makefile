# One command for each task; CI calls the same ones. Everything is set up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# no byte code ahead of time: most of it is never imported, and the demo starts earlier
PIP := $(BIN)/pip install -qq --no-compile
ARGS ?=
# per Python: `make test-lowest PYTHON=python3.12`
LOWEST := .venvs/lowest-$(notdir $(PYTHON))
NEWEST := .venvs/newest-$(notdir $(PYTHON))
PEERS := opentelemetry langfuse
PLATFORMS := .venvs/platforms-$(notdir $(PYTHON))
RELEASE := .venvs/release-$(notdir $(PYTHON))
# what tells whether a library fits: its callbacks, graphs, requests, statements and settings; streams that libraries
# of that time leave unclosed are their own
COMPATIBILITY := tests/unit tests/integration/capture tests/integration/graph tests/integration/identity \
  tests/integration/storage/queries tests/integration/delivery/destinations tests/integration/cli/test_read.py \
  tests/integration/test_calllog.py tests/integration/test_middleware.py \
  tests/migration/test_commands.py tests/migration/test_adoption.py \
  tests/promises/test_attribution.py tests/promises/test_authority.py \
  --ignore tests/unit/dashboard/test_rendering.py --ignore tests/unit/capture/payload/test_failures.py --ignore tests/unit/delivery/test_pricing.py \
  --ignore tests/unit/telemetry --ignore tests/integration/graph/test_agents.py --ignore tests/integration/graph/test_agent_key.py --ignore tests/unit/capture/payload/test_blocks.py \
  --ignore tests/integration/capture/test_row_values.py --ignore tests/integration/capture/test_tracing.py \
  -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::ResourceWarning
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# images of containers set it; hundreds of processes of the tests would each compile every library anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-lowest test-newest platforms shapes faults scale adopt redaction install install-browser install-prometheus monitoring messages vendor docs reference format check bench build matrix lock clean

demo: $(VENV)/demo.stamp  ## see llmctx at work in one minute; ARGS="--json" or ARGS="--keep"
	@$(BIN)/llmctx demo $(ARGS)

# what fails beside others is run once more alone: it counts if it fails again, and is named either way
ALONE = { test $$? -eq 1 && echo "once more, alone:" && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(ARGS) -v && \
  echo "passed alone, after it had failed beside others: it depends on something that it should not, see above"; }

# three processes on two cores: half of a test's time is waiting, for a server, a process, a second that is promised
test: $(VENV)/dev.stamp  ## all tests; ARGS="-k name" is passed to pytest
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS) || $(ALONE)

test-lowest: $(LOWEST)/stamp  ## the lowest versions that pyproject.toml allows; PYTHON=python3.12
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(COMPATIBILITY) $(ARGS)

test-newest: $(NEWEST)/stamp  ## the newest versions that pip finds; PYTHON=python3.13, there also ARGS="--eager"
	$(NEWEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(COMPATIBILITY) $(ARGS)

platforms: $(PLATFORMS)/stamp  ## on and beside what people deploy to: langgraph dev, Aegra, …; PYTHON=python3.12
	$(PLATFORMS)/bin/python -m pytest tests/platforms $(ARGS)

shapes: $(VENV)/dev.stamp  ## all scenarios of calls, twice; the second time on a busy machine
	$(BIN)/python -m pytest tests/promises/test_attribution.py tests/promises/test_authority.py --all-shapes --timeout 600 $(ARGS)
	$(BIN)/python -m pytest tests/promises/test_attribution.py --all-shapes --busy --timeout 600 $(ARGS)

faults: $(VENV)/dev.stamp  ## all faults that llmctx must survive, at length; ARGS="--seeds 50 --seconds 60"
	$(BIN)/python -m tests.faults $(ARGS)

scale: $(VENV)/dev.stamp  ## applications, brokers, shippers and a database under faults; ARGS="--seed 3 --minutes 10"
	$(BIN)/python -m tests.scale $(ARGS)

adopt: $(VENV)/dev.stamp  ## adopt and partition tables of a million rows while they are written to; ARGS="100000 texts"
	$(BIN)/python -m tests.migration.million $(ARGS)

redaction: $(VENV)/dev.stamp  ## recall, precision and cost of redaction beside other tools; ARGS="--show 5"
	$(BIN)/python -m tests.redaction $(ARGS)

install: $(VENV)/dev.stamp  ## the development environment

install-browser:  ## Chromium and fonts for Chinese, of Debian: without them `make test` leaves the browser's tests out
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk

monitoring: $(VENV)/dev.stamp  ## Prometheus and an OTLP receiver beside a server under load; ARGS="--load-minutes 10"
	$(BIN)/python -m pytest tests/monitoring --timeout 3600 -s $(ARGS)

install-prometheus: | $(BIN)/python  ## Prometheus and promtool of Debian, unpacked in .venv: without them `make test` leaves their tests out
	apt-get update -qq && mkdir -p $(VENV)/prometheus && cd $(VENV)/prometheus && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb

messages: $(VENV)/dev.stamp  ## what the pages have gained goes into their Chinese catalogue, which is compiled
	$(BIN)/python -m tests.packaging.messages

vendor: $(VENV)/dev.stamp  ## fetch the browser's libraries of the dashboard anew, as its manifest names them (needs npm)
	$(BIN)/python -m tests.packaging.vendor

docs: $(VENV)/dev.stamp  ## the site of the docs in site/, strict; see mkdocs.yml
	$(BIN)/python -m tests.packaging.site

reference: $(VENV)/dev.stamp  ## the pages of docs/reference that are made from settings, commands, columns and errors
	$(BIN)/python -m tests.packaging.reference

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(VENV)/dev.stamp  ## style, types, floors, changelog, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.packaging.changelog
	$(BIN)/python -m tests.packaging.reference --check
	$(BIN)/python -m tests.packaging.site

bench: $(VENV)/dev.stamp  ## the cost of llmctx, as ratios in one run
	$(BIN)/python -m bench $(ARGS)

.PHONY: peers
peers: $(VENV)/dev.stamp $(PEERS:%=.venvs/peer-%/stamp)  ## the cost of llmctx beside OpenTelemetry's, LangSmith's and Langfuse's recorders
	$(BIN)/python -m bench peers $(ARGS)

build: $(RELEASE)/stamp  ## sdist and wheel in dist/, inspected and tried in fresh environments; PYTHON=python3.12
	$(RELEASE)/bin/python -m tests.packaging.release --python $(PYTHON) $(ARGS)

matrix: $(VENV)/dev.stamp  ## Python x lowest and newest libraries x PostgreSQL; ARGS="--python 3.12 --libraries newest"
	$(BIN)/python -m tests.packaging.matrix $(ARGS)

lock:  ## renew the hashed requirements (needs uv on the PATH)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --all-extras --group dev pyproject.toml -o requirements/dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --extra demo --group build -c requirements/dev.lock pyproject.toml -o requirements/demo.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --resolution lowest-direct --extra agents --extra cli --extra demo --extra nats --extra otel --extra parquet --extra patterns --extra prometheus --extra redis pyproject.toml requirements/lowest.in -o requirements/lowest.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --extra all --extra demo pyproject.toml requirements/platforms.in -o requirements/platforms.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --group release -c requirements/dev.lock -o requirements/release.lock

clean:
	rm -rf $(VENV) .venvs dist site

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

$(LOWEST)/stamp: requirements/lowest.lock pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -qq --no-compile --no-deps --require-hashes -r requirements/lowest.lock
	$(@D)/bin/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(PLATFORMS)/stamp: requirements/platforms.lock pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -qq --no-compile --no-deps --require-hashes -r requirements/platforms.lock
	$(@D)/bin/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(RELEASE)/stamp: requirements/release.lock
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -qq --no-compile --require-hashes -r requirements/release.lock
	@touch $@

.venvs/peer-%/stamp: bench/peers-%.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -qq --no-compile -r $<
	@touch $@

.PHONY: $(NEWEST)/stamp  # newest is what is newest today
$(NEWEST)/stamp:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install -qq --no-compile -r requirements/compat.in
	$(@D)/bin/pip install -qq --no-compile --no-build-isolation -e ".[all,demo]"
	@touch $@
