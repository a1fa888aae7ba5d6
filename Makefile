# Two commands matter: `make run` and `make test`. Both build .venv when it is missing or its pins have changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test lint types imports unit bench setup clean

run: $(READY)  ## the default pipeline through Prefect, to its report
	temper run

test: $(READY) lint types imports unit  ## everything that must hold

lint: $(READY)
	ruff check .
	ruff format --check .

types: $(READY)
	mypy

imports: $(READY)
	lint-imports --no-logo

# A file's tests stay together, for they share what is dear to make. Those of deepspeed come last and alone: one of them kills
# the processes of a group, which in the middle of building an operator would leave its lock to whoever builds beside it.
unit: $(READY)
	pytest -n auto --maxprocesses 4 --dist loadfile --ignore tests/e2e/test_deepspeed.py
	pytest tests/e2e/test_deepspeed.py

bench: $(READY)  ## every figure as a ratio against its peer, in one run
	@for file in tests/bench/bench_*.py; do echo "== $$file"; PYTHONPATH=. python $$file || exit 1; done

setup: $(READY)

# torch goes first and by name: asked for through another package, pip may take a build for another machine.
$(READY): pyproject.toml infra/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' infra/constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint infra/constraints.txt --editable ".[deepspeed,dev]"
	touch $@

clean:
	rm -rf $(VENV) .temper .mypy_cache .ruff_cache .pytest_cache
