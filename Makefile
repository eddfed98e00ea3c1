# Two commands matter: `make coverage` runs the main job, `make test` runs the tests that catch mistakes soonest.
# Each creates the environment in .venv first when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: coverage test test-all test-slow exactness factor-exactness fuzz faults sweep-faults planted lint format clean

PAPER := benchmarks/results/coverage_paper/run

coverage: $(READY)
	$(BIN)/spnpolicy benchmark coverage --preset quick
	@echo
	@echo "The same on 20x20 with 6 agents and 6 goals, as it was learned before ($(PAPER)):"
	$(BIN)/spnpolicy evaluate $(PAPER) --episodes 100
	$(BIN)/spnpolicy query $(PAPER) --given 1=stay --picture runs/coverage-paper.png

# Contracts, oracles and what catches planted bugs: minutes. The rest of the suite comes with `make test-all`.
test: $(READY)
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not full"

# Everything but the statistical and long checks of `make test-slow`.
test-all: $(READY)
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	TEST_EXAMPLES=100 $(BIN)/python -m pytest -q -n 2 -m slow --timeout 3600

# 10,000 random circuits against enumeration, about 15 minutes on one core.
exactness: $(READY)
	$(BIN)/python -m tests.exactness

# 5,000 random factor graphs against enumeration, about 2 minutes on one core.
factor-exactness: $(READY)
	$(BIN)/python -m tests.factor_q.random_graphs --count 5000

# 100,000 texts for the reader of UAI files, about 15 minutes on one core; 10 minutes of broken documents for the others.
fuzz: $(READY)
	$(BIN)/python -m tests.factor_q.uai.fuzz --count 100000
	$(BIN)/python -m tests.fuzz.readers --minutes 10

# kill -9, damage and hostile files: what is on the disk stays whole. About 5 minutes.
faults: $(READY)
	$(BIN)/python -m tests.faults.checkpoints.kill_checkpoints --kills 200
	$(BIN)/python -m tests.faults.runs.kill_runs --kills 60
	$(BIN)/python -m tests.faults.checkpoints.corrupt_checkpoints
	$(BIN)/python -m tests.attacks.refuse_attacks

# A sweep of 60 runs with workers and driver killed, on local processes and on Ray. About a quarter of an hour.
sweep-faults: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	$(BIN)/python -m tests.faults.sweeps.kill_sweep --engine local --trials 60 --out "$$(mktemp -d)/local"
	$(BIN)/python -m tests.faults.sweeps.kill_sweep --engine ray --trials 60 --out "$$(mktemp -d)/ray"

# Does the suite notice mistakes? Each bug of a list is planted in a copy. About half an hour.
planted: $(READY)
	$(BIN)/python -m tests.planted.plant --jobs 2

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

format: $(READY)
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# torch comes first and by its exact version: a loose request can fetch gigabytes of GPU libraries.
$(READY): pyproject.toml constraints.txt circuits/engine/native/doors.h circuits/engine/native/kernels.c factor_q/congestion/turns.c
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else 'spnpolicy needs Python 3.11 or newer, this is %d.%d; try: make PYTHON=python3.11' % v[:2])"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,lint]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
