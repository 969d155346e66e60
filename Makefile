# Everything a developer does, each in one word. Nothing is needed beforehand but Python 3.11+ and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=

.PHONY: demo serve test lint format bench clean

demo: $(VENV)/.installed        ## draw the demo album, ingest it, search it, serve it (ARGS=--no-serve ends before)
	$(BIN)/searchdb demo $(ARGS)

serve: $(VENV)/.installed       ## the page, for the database in DATABASE_URL or the embedded one
	$(BIN)/flask run $(ARGS)

test: $(VENV)/.installed-dev    ## every test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev $(VENV)/.installed-bench ## style, layout and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev  ## lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench ## what it costs, measured side by side
	$(BIN)/python -m benchmarks $(ARGS)

clean:                          ## remove what the commands above made in this folder
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis artifacts
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "searchdb needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@
