# The developers' commands. Requires Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=
# Processes that run the tests, one more than there are cores, at most six: tests also wait. Each takes 2 GB of memory with
# its PostgreSQL server.
JOBS   ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 5 ? cores + 1 : 6)))
# A worker that crashes is replaced only once: the new one starts with the same test, which may hang again.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart=1
# Build of torch on Linux: auto, cpu or cuda. auto takes the CPU build where no NVIDIA device is found; that is 1.5 GB
# of packages instead of 5.
TORCH     ?= auto
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo serve test test-fast coverage lint format bench clean

demo: $(VENV)/.installed        ## draw the demo album, ingest it, search it, serve it (ARGS=--no-serve: stop after the searches)
	$(BIN)/searchdb demo $(ARGS)

serve: $(VENV)/.installed       ## serve the page for the database in DATABASE_URL, or the embedded one
	$(BIN)/searchdb serve $(ARGS)

test: $(VENV)/.installed-dev    ## run every test
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.installed-dev ## run the tests that take neither seconds each nor a browser
	$(PYTEST) -m "not slow and not browser" $(ARGS)

coverage: $(VENV)/.installed-dev ## run the fast tests and print the share of lines and branches they execute
	$(PYTEST) -m "not slow and not browser" --cov --cov-report=term $(ARGS)

lint: $(VENV)/.installed-dev $(VENV)/.installed-bench ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench ## run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

clean:                          ## remove everything the commands above created in this folder
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .coverage artifacts
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "searchdb needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# torch comes first, because its build depends on the machine. pip then finds the requirement satisfied. The CPU index is
# probed for 5 seconds: a network without access to it still has the default index.
$(VENV)/.torch: $(VENV)/bin/python constraints.txt
	@set -e; build='$(TORCH)'; \
	if [ "$$build" = auto ]; then \
	    build=default; \
	    if [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidia0 ] && ! command -v nvidia-smi >/dev/null 2>&1; then build=cpu; fi; \
	fi; \
	case "$$build" in \
	    cpu) \
	        if $(BIN)/python -c 'import urllib.request; urllib.request.urlopen("$(CPU_INDEX)/torch/", timeout=5)' 2>/dev/null; then \
	            echo "torch: CPU build from $(CPU_INDEX) (TORCH=cuda installs the CUDA build)"; \
	            index='--extra-index-url $(CPU_INDEX)'; \
	        else \
	            echo "torch: $(CPU_INDEX) cannot be reached; build of the default index (on Linux, CUDA)"; index=; \
	        fi ;; \
	    cuda|default) echo "torch: build of the default index"; index= ;; \
	    *) echo "TORCH is auto, cpu or cuda, not $$build" >&2; exit 2 ;; \
	esac; \
	$(PIP) install --quiet --constraint constraints.txt $$index torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@
