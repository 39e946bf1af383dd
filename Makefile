# Everything from a fresh checkout: Python 3.11 or newer and make are all that is needed.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
STACK := $(BIN)/python -m include.stack
# requirements-dev.txt includes requirements.txt.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --custom-compile-command 'make lock' requirements-dev.txt

.DEFAULT_GOAL := help
.PHONY: help venv demo up down status password env test lint types docs format lock lock-check clean ci

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

venv: $(STAMP) ## Make the virtual environment .venv, or bring it up to date

$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	@python=$$(command -v python3.11 || command -v python3) || { echo "No Python found: install Python 3.11 or newer." >&2; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$$python is $$("$$python" --version): Python 3.11 or newer is needed." >&2; exit 1; }; \
	test -x $(BIN)/python || "$$python" -m venv $(VENV)
	@test -x $(BIN)/uv || { $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	$(BIN)/uv pip install --python $(BIN)/python -r requirements-dev.txt -c constraints.txt
	@touch $@

demo: $(STAMP) ## Start everything, take one backup through Airflow, prove it and show it
	@$(STACK) demo

up: $(STAMP) ## Start the embedded servers and Airflow's web UI on 127.0.0.1
	@$(STACK) up

down: $(STAMP) ## Stop them; the data stays
	@$(STACK) down

status: $(STAMP) ## Show what runs
	@$(STACK) status || true

password: $(STAMP) ## Print the password of Airflow's user admin
	@$(STACK) password

env: $(STAMP) ## Print the environment that python -m include.cli needs
	@$(STACK) env

test: $(STAMP) ## Run all tests against real servers
	@$(BIN)/python -m pytest -n 3 # on two cores: the tests with an Airflow mostly wait

lint: $(STAMP) ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## Check types
	@$(BIN)/mypy

docs: $(STAMP) ## Write docs/dags.md from the DAGs' docstrings
	@$(BIN)/python -m tests.dags.dags_page

format: $(STAMP) ## Format the code and apply safe corrections
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(STAMP) ## Write exact versions of all requirements into constraints.txt
	@$(LOCK) --upgrade --output-file constraints.txt

# The present lock is the seed: only a requirement that it no longer satisfies makes a difference.
lock-check: $(STAMP) ## Fail where constraints.txt does not fit the requirements
	@fresh=$$(mktemp) && trap 'rm -f "$$fresh"' EXIT && cp constraints.txt "$$fresh" \
		&& $(LOCK) --no-annotate --no-header --output-file "$$fresh" > /dev/null \
		&& { grep -v '^ *#' constraints.txt | diff -u - "$$fresh" \
			|| { echo "constraints.txt does not fit the requirements: run \`make lock\` and commit it." >&2; exit 1; }; }

clean: ## Stop everything and delete the embedded servers, their data and all caches (.venv stays)
	@if test -x $(BIN)/python; then $(STACK) clean; \
		elif test -e .night-porter; then echo "Run \`make venv\` first: it takes .venv to stop what may still run." >&2; exit 1; fi
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

ci: lock-check lint types test ## All that has to pass before a change is merged
