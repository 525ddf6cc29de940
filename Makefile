# Every target works from a fresh clone with git, make and python3 >= 3.11; `test` installs Debian packages when it may.
.DEFAULT_GOAL := help
.PHONY: help run demo test check bench chaos servers install debian clean

PYTHON ?= python3
WORKERS ?= 3
# SQLite's files of two thousand tests: in memory, where there is such a file system.
export PYTEST_DEBUG_TEMPROOT ?= $(shell test -w /dev/shm && echo /dev/shm)
BIN := .venv/bin
INSTALLED := .venv/.installed

help: ## What there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install ## Start Headrace on port 4000 with a simulated model: no servers, no keys
	@$(BIN)/headrace serve --config config.example.yaml

demo: install ## Watch it work, in under a minute: a stream, a tool call, a batch of 1,000 prompts, the bill
	@$(BIN)/python docs/examples/demo.py

test: install debian ## Every test, on private RabbitMQ, Redis and PostgreSQL servers
	@# The end-to-end tests start hundreds of processes, which would each compile our modules where nothing may be cached.
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q api broker shared workers
	@# A module's tests share its deployments, so one worker has them all.
	@$(BIN)/python -m tests.servers -- $(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --durations=20

check: install ## Format, lint, types, import contracts, unit tests: under a minute, no servers
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/pytest -q -n $(WORKERS) tests/unit tests/meta

bench: install debian ## Measure beside LiteLLM, Portkey and TensorZero, and batches beside Celery, on private servers
	@UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never $(BIN)/uv sync --quiet --frozen --group bench
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.batch
	@$(BIN)/python -m benchmarks.keys
	@$(BIN)/python -m benchmarks.bill

chaos: install debian ## Kill every part of a deployment in every phase of a job, and count: about ten minutes
	@$(BIN)/python -m tests.chaos --write docs/reliability.md

servers: install debian ## Start the private servers, print their addresses, stop them at Ctrl-C
	@$(BIN)/python -m tests.servers -- sh -c 'env | grep ^HEADRACE_TEST_; exec sleep infinity'

install: $(INSTALLED) ## Put what uv.lock names into .venv

$(INSTALLED): pyproject.toml uv.lock
	@deploy/debian-packages ensurepip
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@UV_PROJECT_ENVIRONMENT=.venv UV_PYTHON_DOWNLOADS=never $(BIN)/uv sync --quiet --frozen --compile-bytecode
	@touch $@

debian:
	@deploy/debian-packages servers

clean: ## Remove what the other targets made
	rm -rf .venv .bench .servers .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
