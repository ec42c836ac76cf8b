# Everything a fresh machine with Python 3.11 or later needs: 'make demo' and 'make test' set themselves up.

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench bench-detection bench-outcomes bench-humility bench-alerting lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

help: ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/.ready: requirements/build.lock requirements/all.lock pyproject.toml sdk/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Driftline needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 demo")'
	@echo "Installing pinned packages into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements/build.lock
	@$(PIP) --require-hashes --no-build-isolation -r requirements/all.lock
	@$(PIP) --no-build-isolation --no-deps -e sdk -e .
	@touch $@

setup: $(VENV)/.ready ## Install the packages and the embedded broker's jars
	@$(BIN)/driftline broker --download-only

demo: setup ## Run the whole pipeline on real data and write demo-report.html
	@$(BIN)/driftline demo

test: setup ## Run the tests, with a real broker
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.ready ## Lint, format, types, direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy sdk/driftline streams services
	@$(BIN)/lint-imports

.venv-peers/.ready: requirements/peers.lock $(VENV)/.ready
	@echo "Installing the peers into .venv-peers …"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r $< \
		|| { echo "The peers cannot be installed here; the benches go on without them."; rm -rf .venv-peers; mkdir .venv-peers; }
	@touch $@

bench: setup .venv-peers/.ready ## Measure throughput, latency, memory, detection and the peers; writes build/bench/*.json
	@$(BIN)/python -m bench.run

bench-detection: setup ## Measure false alarms, delays and the known detectors on the same streams, in some five minutes
	@$(BIN)/python -m bench.detection

bench-outcomes: setup .venv-peers/.ready ## Measure how outcomes are joined, what waiting costs, and estimates beside NannyML's, in some fifteen minutes
	@$(BIN)/python -m bench.outcomes

bench-humility: setup ## Measure whether humility's guarantees hold, how soon their end is noticed, and what a decision costs, in some ten minutes
	@$(BIN)/python -m bench.humility

bench-alerting: setup ## Measure who is told, how soon, and what is lost through kills and a storm of refusals, beside Alertmanager, in some fifty minutes
	@$(BIN)/python -m bench.alerting

lock: $(VENV)/.ready ## Pin the dependencies anew (needs uv)
	@uv pip compile -q pyproject.toml --extra demo --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-package driftline --no-emit-index-url --no-header -o requirements/all.lock
	@uv pip compile -q requirements/peers.in --universal --python-version 3.11 --generate-hashes --no-emit-package nvidia-nccl-cu12 --no-emit-index-url --no-header -o requirements/peers.lock
	@uv pip compile -q requirements/build.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements/build.lock

clean: ## Remove what the commands made, but not the broker's jars
	@rm -rf $(VENV) .venv-peers build .driftline demo-baseline.html demo-report.html demo-report.json
