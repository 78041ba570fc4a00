# One word for each habit. `make up ARGS="--port 9000"` passes options on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SHELL := /bin/bash
# Not as .SHELLFLAGS, which the make of macOS does not know: a failed installation would be taken for a done one.
PIPED := set -o pipefail;
# One moving line on a terminal, a line for every ten packages elsewhere; errors as they are.
PROGRESS := 2>&1 | awk -v tty="$$([ -t 2 ] && echo 1)" ' \
	/^(Collecting|Installing|Building|Obtaining)/ { n++; \
		if (tty) printf "\r\033[K  %d  %s %s", n, $$1, $$2; else if (n % 10 == 0) print "  " n " packages …"; fflush() } \
	/^ERROR/ { print } END { if (tty) printf "\r\033[K" }'
CLIENTS := .venv-clients
NODE_CLIENTS := tests/clients/node
# What some client wants for other vendors, and half a minute of installing can be spared without.
UNUSED := boto3 botocore s3transfer jmespath tokenizers huggingface-hub hf-xet fsspec filelock zstandard pip setuptools
# What a vendor's own SDK wants for its servers, its terminal and its tokenizers.
VENDORS_UNUSED := fastapi starlette uvicorn click opentelemetry-api opentelemetry-sdk opentelemetry-semantic-conventions \
	tiktoken regex typer shellingham rich markdown-it-py mdurl pygments annotated-doc colorama pip setuptools
PYTEST_ARGS ?=
KILLS ?= 200
SEEDS ?= 0..1000
STEPS ?= 10000
JOBS ?= 1
ARGS ?=

# Where this is set, each of the hundreds of processes that a run of the suite starts compiles all its sources again.
export PYTHONDONTWRITEBYTECODE :=

BENCHES := $(filter-out bench-__init__ bench-report bench-house bench-crash bench-ladder,$(patsubst bench/%.py,bench-%,$(wildcard bench/*.py)))

.PHONY: up install dev clients test test-uvicorn check format prove prove-sqlite prove-postgres crash bench simulate lock clean

up: install ## install into .venv, start the platform, ask the model one question, print the answer and its bill
	@exec $(BIN)/steelyard up $(ARGS)

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Steelyard needs Python 3.11 or newer; set PYTHON=…"; exit 1; }
	@echo "Installing into $(VENV) …"
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) 2>/dev/null || $(PYTHON) -m virtualenv --quiet $(VENV) \
		|| { echo "Cannot make a virtual environment. On Debian: apt install python3-venv"; exit 1; }
	@$(PIPED) $(PIP) install --require-hashes -r requirements.lock $(PROGRESS)
	@$(PIPED) $(PIP) install --no-deps --editable . $(PROGRESS)
	@touch $@

dev: $(VENV)/.dev

$(VENV)/.dev: $(VENV)/.installed requirements-dev.lock
	@echo "Installing the test tools into $(VENV) …"
	@$(PIPED) $(PIP) install --require-hashes -r requirements-dev.lock $(PROGRESS)
	@touch $@

clients: $(CLIENTS)/old/.installed $(CLIENTS)/new/.installed $(CLIENTS)/vendors/.installed $(NODE_CLIENTS)/node_modules/.package-lock.json ## the client libraries that tests/clients drives, beside .venv

$(CLIENTS)/%/.installed: tests/clients/python/%.lock | $(VENV)/.installed
	@echo "Installing client libraries into $(CLIENTS)/$* …"
	@rm -rf $(@D) && $(PYTHON) -m venv --without-pip $(@D)
	@$(PIPED) $(PIP) --python $(@D)/bin/python install --no-compile --no-deps --require-hashes -r $< $(PROGRESS)
	@touch $@

$(NODE_CLIENTS)/node_modules/.package-lock.json: $(NODE_CLIENTS)/package-lock.json
	@if command -v npm >/dev/null; then echo "Installing client libraries into $(@D) …"; npm ci --prefix $(NODE_CLIENTS) \
		--no-audit --no-fund --loglevel=error --ignore-scripts; else echo "No Node here: its clients will not be driven."; fi

test: dev ## the whole suite, two tests at a time; `make test PYTEST_ARGS="-n 0 tests/unit"` for a part of it
	@BIN=$(BIN) sh tests/browser/find-chromium.sh
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

check: dev ## lint, import contract, types, tidy rules: seconds
	@$(BIN)/ruff check src tests bench
	@$(BIN)/ruff format --check src tests bench
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q --durations=0 tests/tidy

format: dev
	@$(BIN)/ruff check --fix src tests bench
	@$(BIN)/ruff format src tests bench

prove: dev ## kill a private platform 200 times on SQLite and 200 times on PostgreSQL, both at once
	@$(MAKE) --no-print-directory -j2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) prove-sqlite prove-postgres

prove-sqlite: dev
	@echo "The books in SQLite"; $(BIN)/steelyard prove --kills $(KILLS) $(ARGS)

prove-postgres: dev
	@echo "The books in PostgreSQL"; $(BIN)/steelyard prove --kills $(KILLS) --postgres $(ARGS)

crash: KILLS = 2000
crash: dev ## every kill test, and the proof with 2,000 kills; `make crash KILLS=10000` for a longer one
	@$(BIN)/python -m pytest tests/crash $(PYTEST_ARGS)
	@$(BIN)/python -m bench.crash --kills $(KILLS) $(ARGS)

test-uvicorn: dev ## both fronts against the oldest and the newest uvicorn that pyproject.toml allows
	@for version in "==0.34.0" "<1"; do rm -rf $(VENV)/other && \
		$(PIP) install --quiet --no-deps --target $(VENV)/other "uvicorn$$version" && \
		PYTHONPATH=$(VENV)/other $(BIN)/python -c 'import uvicorn; print("uvicorn", uvicorn.__version__)' && \
		PYTHONPATH=$(VENV)/other $(BIN)/python -m pytest -q --durations=0 tests/unit/gateway/test_fronts.py \
		tests/unit/gateway/test_rehearsal.py tests/unit/gateway/test_public.py || exit 1; done; rm -rf $(VENV)/other

bench: $(BENCHES) ## every measurement of bench/README.md; results in bench/results

bench-%: dev ## one of them: `make bench-posting`; `make bench-routing ARGS="--trace FILE"`
	@$(BIN)/python -m bench.$* $(ARGS)

simulate: dev ## the books in seeded worlds full of faults; `make simulate SEEDS=0..100 STEPS=5000 JOBS=2`
	@PYTHONPATH=src:. $(BIN)/python -m tests.simulator --seeds $(SEEDS) --steps $(STEPS) --jobs $(JOBS) --json bench/results/simulator.json

lock: ## rewrite the lock files from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	for each in old new; do uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		$(addprefix --no-emit-package ,$(UNUSED)) tests/clients/python/$$each.in -o tests/clients/python/$$each.lock; done
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
		$(addprefix --no-emit-package ,$(VENDORS_UNUSED)) tests/clients/python/vendors.in -o tests/clients/python/vendors.lock
	npm install --prefix $(NODE_CLIENTS) --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

clean:
	rm -rf $(VENV) $(CLIENTS) $(NODE_CLIENTS)/node_modules dist
