# vibench: `make train` and `make test` need only Python >= 3.10 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/installed  ## .venv with vibench and everything its tests need, at the versions of constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mat,tensorboard,pictures,int8,search,eeg,dev]'
	@touch $@

train: install  ## the embedded example: simulated machines, on this machine; more with ARGS="backbone=dlinear"
	$(BIN)/vibench-train $(ARGS)

smoke: install  ## the same for eight steps
	$(BIN)/vibench-train training=smoke $(ARGS)

test: install  ## every test that needs no SLURM, no GPU and no quarter of an hour
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --ignore tests/faults --ignore tests/slurm $(ARGS)

test-faults: install  ## real faults: kills, memory limits, leaks, full disks, damaged files (a quarter of an hour)
	$(BIN)/python -m pytest --numprocesses 2 tests/faults $(ARGS)

test-slurm: install  ## sweeps on a real SLURM of this machine, which comes up and goes (root; a quarter of an hour)
	$(BIN)/python -m pytest tests/slurm $(ARGS)

lint: install  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: install  ## dist/vibench-*.whl, configs included
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

bench: install  ## start-up, first step, loop, throughput and models, as ratios taken in one run
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python -m benchmarks.fidelity
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/duration.py
	$(BIN)/python benchmarks/ranks.py
	$(BIN)/python benchmarks/host.py
	$(BIN)/python benchmarks/guard.py
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.eeg
	$(BIN)/python -m benchmarks.seizures

docs: install  ## docs/config.md, the config reference, from the schemas
	$(BIN)/python -m vibench.config.reference > docs/config.md.tmp && mv docs/config.md.tmp docs/config.md

clean:  ## everything that make made, but not multirun_outputs
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

.PHONY: help install train smoke test test-faults test-slurm lint wheel bench docs clean
