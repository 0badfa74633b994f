# Two commands matter on a fresh machine: `make demo` and `make test`. Both need only Python 3.10 or newer, make and pip's way to its packages.
# PostgreSQL refuses root. As root, whatever runs a server runs as ACCOUNT, from a place that this account can read.

ACCOUNT ?= nobody
export ACCOUNT

.PHONY: help demo test test-every lint bench screenshots clean

help:
	@echo "make demo         a disposable PostgreSQL 18 with real backups, and the console on it"
	@echo "make test         lint, types and every test, against real PostgreSQL"
	@echo "make test-every   the same, and each test that takes every PostgreSQL with all of them (longer)"
	@echo "make lint         lint and types only"
	@echo "make bench        the speed targets, measured against their rivals in one run (minutes)"
	@echo "make screenshots  the pictures in screenshots/, from the running console"
	@echo "make clean        remove the virtual environment and the caches"

demo:
	@sh .ci/stage demo demo

test:
	@sh .ci/stage test test

test-every:
	@EVERY_POSTGRES=1 sh .ci/stage test test

lint:
	@sh .ci/stage test lint

bench:
	@sh .ci/stage test bench

screenshots:
	@sh .ci/stage test screenshots

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
