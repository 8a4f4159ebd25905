# make            what there is
# make run        python -m bench, in an environment that is made on first use
# PYTHON=python3.12 make setup   another interpreter;  ARGS="solver=dps" make run   arguments
# JOBS=0 make test   all tests in one process

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# worker processes of the tests; each needs a core and up to 3 GB
JOBS ?= 2
BIN := $(VENV)/bin
SITE := build/site-venv
ROOMS := bench solvers priors operators masks datasets metrics
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint format docs docs-site lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/installed  ## make the environment in .venv from requirements.lock
	@:

run: setup  ## run the benchmark; ARGS="solver=dps mask=comod"
	$(BIN)/python -m bench $(ARGS)

test: setup  ## run the fast tests; ARGS="tests/solvers -k dps"
	$(BIN)/python -m pytest --timeout=600 -n $(JOBS) --dist worksteal $(ARGS)

test-all: setup  ## run all tests, the slow ones too
	$(BIN)/python -m pytest --timeout=3600 -n $(JOBS) --dist worksteal -m "slow or not slow" $(ARGS)

lint: setup  ## ruff, mypy and the import rules; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## let ruff repair and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## write the generated pages of docs/ from the code
	$(BIN)/python -m posterior_bench.bench.conformance.reference_pages

# The site has an environment of its own: it needs nothing of ours, and ours nothing of it.
docs-site: $(SITE)/installed  ## build the documentation site in build/site; no network, once installed
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

$(SITE)/installed: requirements-docs.lock
	@$(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/python -m pip -qq --disable-pip-version-check install -r requirements-docs.lock
	@touch $@

clean:  ## remove the environment and all caches; runs/ is kept
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Two stamps, so that an edit of pyproject.toml does not look at every pin again.
$(VENV)/locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.13; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "setup: $(VENV) from requirements.lock (minutes the first time, several GB)"
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "python venv is missing; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 2; }
	@$(PIP) install -r requirements.lock
	@touch $@

# No build isolation: the build backend is pinned by the lock like everything else.
$(VENV)/installed: $(VENV)/locked pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

TORCH := torch==2.11.0 torchvision==0.26.0
define WANTED
import tomllib
whole = tomllib.load(open("pyproject.toml", "rb"))
extras = whole["project"]["optional-dependencies"]
lists = [whole["build-system"]["requires"], whole["project"]["dependencies"], *(extras[e] for e in ("ray", "slurm", "wandb", "tensorboard", "dev"))]
print("editables", *(requirement for wanted in lists for requirement in wanted), sep="\n")
endef
export WANTED
FOR_DOCS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")

lock:  ## resolve pyproject.toml anew into requirements.lock and requirements-docs.lock
	rm -rf build/lock && mkdir -p build && $(PYTHON) -m venv build/lock
	$(PYTHON) -c "$$WANTED" > build/wanted.txt
	build/lock/bin/python -m pip --quiet install $(TORCH) -r build/wanted.txt
	{ echo "# Exact versions of everything: the program, the extras ray, slurm, wandb, tensorboard, dev, and the build backend."; \
	  echo "# Written by 'make lock'; do not edit."; \
	  build/lock/bin/python -m pip freeze --exclude pip --exclude setuptools \
	  | sed -E 's/^((nvidia|cuda)-[^=]+==.*|triton==.*)$$/\1 ; platform_system == "Linux"/'; } > requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	$(PYTHON) -c '$(FOR_DOCS)' > build/wanted.txt
	build/lock/bin/python -m pip --quiet install -r build/wanted.txt
	{ echo "# Exact versions of the extra docs. Written by 'make lock'; do not edit."; \
	  build/lock/bin/python -m pip freeze --exclude pip --exclude setuptools; } > requirements-docs.lock
	rm -rf build/lock build/wanted.txt
