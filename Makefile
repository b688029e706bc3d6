# Set-up, checks and demonstration; `make help` lists everything.
# Settings: PYTHON=python3.12 (which interpreter), DEMO_ARGS, PYTEST_ARGS, LOCK_ARGS (say --upgrade), TUFC (a checkout).

PYTHON      ?=
DEMO_ARGS   ?=
PYTEST_ARGS ?=
LOCK_ARGS   ?=
TUFC        ?=
export PYTHON

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup venv broker demo test test-slow faults check format bench fuzz conformance peers tflite docs protos protos-check lock clean

BIN := .venv/bin
# A process that has nothing left to do takes tests of another. One more than there are processors, for tests wait for
# processes, brokers and time; five at most.
WORKERS := -n $(shell echo $$(($$(nproc) < 4 ? $$(nproc) + 1 : 5))) --dist worksteal
# Programs take the broker from DSOPS_MOSQUITTO; asked for when a recipe runs, for set-up may have just made it.
WITH_BROKER = DSOPS_MOSQUITTO="$$(tools/broker.sh --path)"

# One thread each: the matrices are small, and many processes share the machine.
demo test test-slow faults bench: export OMP_NUM_THREADS = 1
demo test test-slow faults bench: export OPENBLAS_NUM_THREADS = 1

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-16s%s\n", $$1, $$2 }'

setup: venv broker ## Set up everything that demo and test need

venv: ## Create .venv from requirements.lock, with dsops in it
	@tools/venv.sh

broker: ## Find a mosquitto 2 broker, or get one
	@tools/broker.sh

demo: setup ## Show the whole loop on this machine (DEMO_ARGS=...)
	@$(WITH_BROKER) $(BIN)/dsops demo $(DEMO_ARGS)

test: setup ## Run the tests (PYTEST_ARGS=...)
	@$(WITH_BROKER) $(BIN)/pytest -q $(WORKERS) -m "not slow and not faults" $(PYTEST_ARGS)

test-slow: setup ## Run the fault suites and heavy models that `make test` leaves out
	@$(WITH_BROKER) $(BIN)/pytest -q $(WORKERS) -m slow $(PYTEST_ARGS)

faults: setup ## Kill, cut the power, fill the disk and garble the network at every step (root for most of it)
	@$(WITH_BROKER) $(BIN)/pytest -q $(WORKERS) -m faults tests/faults tests $(PYTEST_ARGS)

check: venv ## Lint, formatting, types, import rules, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	tools/protos.sh --check

format: venv ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Run every benchmark; results go to benchmarks/results/
	@mkdir -p benchmarks/results
	@failed=0; for file in benchmarks/*.py; do PYTHONPATH=tests/unit/runtime $(WITH_BROKER) $(BIN)/python "$$file" || failed=1; done; exit $$failed

fuzz: venv ## Fuzz the bundle reader and the TFLite check (FUZZ_SECONDS=600)
	@tools/fuzz.sh

conformance: venv ## Run the tuf-conformance suite on the agent's TUF client (TUFC=checkout)
	@tools/conformance.sh "$(TUFC)"

peers: ## Install the peers of the build benchmark into .tools (several GB)
	@tools/peers.sh

tflite: ## Make .tools/tflite, a device's environment with tflite-runtime, for the tests that need one (Python 3.11)
	@tools/tflite.sh

docs: venv ## Write the parts of docs/ that are made from the programs
	$(BIN)/python tools/reference.py

protos: venv ## Generate core/dsops/api from protos/
	tools/protos.sh core

protos-check: venv ## Fail when core/dsops/api is not what protos/ generates
	tools/protos.sh --check

lock: ## Pin the requirements anew in requirements.lock (LOCK_ARGS=--upgrade)
	tools/lock.sh $(LOCK_ARGS)

clean: ## Remove .venv, .tools, caches and build output
	rm -rf .venv .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
