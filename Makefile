# Two commands matter: `make run` and `make test`. Both build .venv when it is missing or its pins have changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test lint types imports unit soak bench setup lock audit clean

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

soak: $(READY)  ## a small pipeline, killed 200 times at random moments
	pytest -m soak tests/chaos

bench: $(READY)  ## every figure as a ratio against its peer, in one run
	@for file in tests/bench/bench_*.py; do echo "== $$file"; PYTHONPATH=. python $$file || exit 1; done

# Both ask the package index, `audit` a database of vulnerabilities as well; so neither is part of `test`.
lock: $(READY)  ## infra/requirements.lock anew, after infra/constraints.txt or pyproject.toml has changed
	$(BIN)/python -m pip install --quiet --constraint infra/constraints.txt ".[locks]"
	head -n 2 infra/requirements.lock > infra/requirements.lock.draft
	uv pip compile --quiet pyproject.toml --extra deepspeed --constraint infra/constraints.txt --generate-hashes \
	  --python-version 3.11.7 --python-platform x86_64-manylinux_2_28 --no-emit-package torch \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate $${PIP_FIND_LINKS:+--find-links "$$PIP_FIND_LINKS"} \
	  >> infra/requirements.lock.draft
	mv infra/requirements.lock.draft infra/requirements.lock

audit: $(READY)  ## known vulnerabilities of what the images install
	$(BIN)/python -m pip install --quiet --constraint infra/constraints.txt ".[locks]"
	@pip-audit --requirement infra/requirements.lock --disable-pip --require-hashes --strict \
	  || { echo "audit: a package has a known vulnerability, or could not be audited: then the database cannot be reached from here" >&2; exit 1; }

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
