# A machine with make and python3 (3.11 or newer, with venv) needs nothing else typed: each target first builds the
# environments it uses, from the locks in tests/environments, and builds them again only when a lock changes.
#
# PYTHON=python3.12 chooses another interpreter; ARGS='...' is passed on by demo, test and bench.

PYTHON ?= python3
ARGS ?=
UV := uv==0.13.9

# The real MLflow clients and the open-source server that the tests run, each apart from the proxy and the others.
MLFLOWS := mlflow-3 mlflow-2.22 mlflow-2.9 mlflow-1.30 mlflow-server

DEV := .venv/.installed
CLIENTS := $(patsubst %,.venv-%/.installed,$(MLFLOWS))

.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast redis-server nginx curl openssl lint format bench environments lock upgrade clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(DEV) .venv-mlflow-3/.installed ## Storm an emulated workspace with real clients, without and with the proxy
	@.venv/bin/mlflow-proxy demo --client-python "$(CURDIR)/.venv-mlflow-3/bin/python" $(ARGS)

# Four at a time: many of them wait for a budget and not for a processor.
test: $(DEV) $(CLIENTS) redis-server nginx curl openssl ## Run every test, and say what they cover of the package
	.venv/bin/python -m pytest --numprocesses 4 --dist worksteal --cov --cov-report=term $(ARGS)

test-fast: $(DEV) ## Run what opens no socket to speak of: units, and the budget in virtual time
	.venv/bin/python -m pytest --numprocesses auto --dist worksteal tests/unit tests/simulation $(ARGS)

# The tests start real servers of their own, and run the commands of the documents; Debian's packages are the quickest way
# to both. Programs for root are not on everyone's PATH.
redis-server: PACKAGE := redis-server
nginx: PACKAGE := nginx-light
curl: PACKAGE := curl
openssl: PACKAGE := openssl
redis-server nginx curl openssl:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v $@ >/dev/null || { echo "Installing $@"; \
	    sudo=$$([ "$$(id -u)" -eq 0 ] || echo sudo); \
	    $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq \
	        --no-install-recommends $(PACKAGE) >/dev/null; } || { \
	    echo "make: the tests need $@: install it (Debian's package is $(PACKAGE))" >&2; exit 1; }

lint: $(DEV) ## Check style, types and which package may import which
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy
	.venv/bin/lint-imports --no-cache

format: $(DEV) ## Put the code in the form that lint wants
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

bench: $(DEV) ## Measure the storm against the floor
	@.venv/bin/python -m tests.bench $(ARGS)

environments: $(DEV) $(CLIENTS) ## Build every environment that the tests use

clean: ## Remove the environments and caches
	rm -rf .venv .venv-* .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- Environments -----------------------------------------------------------------------------------------------------

# The stamp comes last, so an interrupted build is done again. Compiling apart from pip uses every core. The clients'
# environments have no pip of their own: the development one's fills them, which is quicker and adds nothing to the lock.
PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check
INSTALL := install --no-compile --no-deps --require-hashes --requirement

$(DEV): pyproject.toml .venv/.locked
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@broken=$$(.venv/bin/python -m pip check) || { \
	    echo "$$broken" >&2; echo "make: the lock lags behind pyproject.toml: make lock" >&2; exit 1; }
	@touch $@

.venv/.locked: tests/environments/dev.txt
	@$(PYTHON) -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "make: $(PYTHON) must be Python 3.11 or newer with venv: apt-get install python3-venv, or PYTHON=..." >&2; exit 1; }
	@echo "Building .venv from $<"
	@$(PYTHON) -m venv --clear .venv
	@$(PIP) $(INSTALL) $<
	@.venv/bin/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

.venv-%/.installed: tests/environments/%.txt | .venv/.locked
	@echo "Building $(@D) from $<"
	@$(PYTHON) -m venv --clear --without-pip $(@D)
	@$(PIP) --python $(@D)/bin/python $(INSTALL) $<
	@$(@D)/bin/python -m compileall -qq -j 0 $(@D)/lib || true
	@touch $@

# --- Locks ------------------------------------------------------------------------------------------------------------

COMPILE = .venv-uv/bin/uv pip compile --quiet --python .venv-uv/bin/python --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' $(UPGRADE)

lock: ## Lock again after a dependency changed, keeping every version that still fits
upgrade: ## Lock again with the newest versions that fit
upgrade: UPGRADE := --upgrade
lock upgrade: .venv-uv/.installed
	$(COMPILE) pyproject.toml --group dev --output-file tests/environments/dev.txt
	$(COMPILE) pyproject.toml --constraint tests/environments/dev.txt --output-file deploy/requirements.txt
	@set -e; for name in $(MLFLOWS); do echo "Locking $$name"; \
	    $(COMPILE) "tests/environments/$$name.in" --output-file "tests/environments/$$name.txt"; done
	@$(COMPILE) pyproject.toml --extra demo >/dev/null  # a user installs the proxy and a client in one environment

.venv-uv/.installed: Makefile | .venv/.locked
	@$(PYTHON) -m venv --clear --without-pip .venv-uv
	@$(PIP) --python .venv-uv/bin/python install $(UV)
	@touch $@
