# The project's commands. `make demo` and `make test` need nothing but a machine with Python ≥ 3.11.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp-$(shell cat requirements/dev.txt pyproject.toml | sha256sum | cut -c1-16)

# Without bytecode every process, of which tests start hundreds, would compile all it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help environment setup demo test test-fast check bench messages soak chaos cluster-up cluster-down format docs clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

# One at a time: of two that begin at once, the second finds it done.
$(STAMP):
	@$(PYTHON) tools/alone.py .make.lock $(MAKE) --no-print-directory environment STAMP=$@

environment:
	@test -e $(STAMP) || { set -ex; \
	  $(PYTHON) -m venv $(VENV); \
	  $(BIN)/pip install --quiet --require-hashes -r requirements/dev.txt; \
	  $(BIN)/pip install --quiet --no-build-isolation --no-deps -e .; \
	  rm -f $(VENV)/.stamp-*; touch $(STAMP); }

$(BIN)/temporal: $(STAMP)
	@path=$$($(BIN)/python -m knit_workflows.provision.temporal_cli) && ln -sf "$$path" $@

setup: $(STAMP) $(BIN)/temporal ## Python environment, Temporal dev server, sandbox
	@$(BIN)/python tools/sandbox.py >/dev/null

demo: setup ## run the main job on the embedded stack
	@$(BIN)/python examples/iris/demo.py

test: setup ## every test, the real Kubernetes node included where the machine allows one
	@$(BIN)/python -m tests

check: $(STAMP) $(BIN)/temporal ## the fast loop: format, lint, types, imports, quick tests
	@$(BIN)/python tools/check.py

format: $(STAMP) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## one JSON line per figure, each beside its baseline
	@$(BIN)/python -m tests.bench

messages: setup ## the texts for people that none of the quick tests brings about
	@$(BIN)/python -m tests.messages

soak: setup ## the long versions of the race and fault tests
	KNIT_RACE_SECONDS=60 KNIT_RACE_SEEDS=20 KNIT_SWEEP_MOMENTS=1000 KNIT_CHAOS_SEED=random \
	  $(BIN)/pytest -q tests/store/test_race.py tests/chaos
	KNIT_FUZZ_CASES=100000 $(BIN)/pytest -q tests/api/test_fuzz.py
	$(BIN)/pytest -q -n 2 --hypothesis-profile=exploring tests/unit tests/api/test_mapping.py
	KNIT_MODEL_STEPS=100000 $(BIN)/pytest -q -rP -n 2 tests/model

chaos: setup ## a thousand faults on a knit of real processes, recorded (docs/reliability.md)
	@$(BIN)/python -m tests.chaos.campaign $(CHAOS); code=$$?; \
	  $(BIN)/python -m tests.chaos.campaign --report; exit $$code

cluster-up: $(STAMP) ## start (or find) the real single-node Kubernetes of the tests
	@$(BIN)/python tests/cluster/up.py

cluster-down: $(STAMP) ## end it, leaving nothing behind
	@$(BIN)/python tests/cluster/down.py

docs: $(STAMP) ## write docs/reference from the code
	@$(BIN)/python tools/reference.py

clean: ## remove what was made in this folder (caches elsewhere stay)
	rm -rf $(VENV) .make.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
