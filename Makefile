# make             list the targets
# make quickstart  mosaics -> patch lists -> VICReg -> an evaluated backbone, in minutes, on a synthetic sample
# make test        run all tests
#
# PYTHON=python3.12 chooses the interpreter that creates the environment, VENV=/elsewhere its location. VENV= (empty)
# uses the active environment and installs nothing. CONSTRAINTS=file passes a pip constraints file.
# SN7_DIR=/path/to/train runs the quickstart on real mosaics.

PYTHON ?= python3
VENV ?= .venv
SN7_DIR ?=
TESTS ?=
CONSTRAINTS ?=

ifeq ($(strip $(VENV)),)
RUN := $(PYTHON)
READY :=
DETECTRON2 :=
DOCS :=
BENCH :=
else
RUN := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(VENV)/bin/python
READY := $(VENV)/.installed
DETECTRON2 := $(VENV)/.detectron2
DOCS := $(VENV)/.docs
BENCH := $(VENV)/.bench
endif

INSTALL_DETECTRON2 := downstream/detectron2_crowdai_detection_task/install_detectron2.sh
PIP_INSTALL := "$(RUN)" -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-fast lint format docs bench

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22

install: $(READY) $(DETECTRON2)  ## create the environment (.venv, or VENV=/elsewhere), with Detectron2's Python part

quickstart: $(READY)  ## run the main job on a synthetic sample (or SN7_DIR=/path/to/SN7/train) and print a table
	PYTHON="$(RUN)" SN7_DIR="$(SN7_DIR)" bash exp/quickstart.sh

test: $(READY) $(DETECTRON2)  ## run all tests (TESTS="tests/test_losses_vicreg.py -k gradient" for some)
	OMP_NUM_THREADS=1 "$(RUN)" -m pytest -n 2 --dist loadfile $(TESTS)

test-fast: $(READY)  ## run the tests that start no process and are not slow, with fewer damaged files
	OMP_NUM_THREADS=1 FUZZ_EXAMPLES=20 "$(RUN)" -m pytest -n 2 --dist loadfile -m "not slow" --in-process $(TESTS)

lint: $(READY)  ## check style, docstrings, formatting and types
	"$(RUN)" -m ruff check .
	"$(RUN)" -m ruff format --check .
	"$(RUN)" -m mypy

bench: $(READY) $(BENCH)  ## print benchmarks against other libraries and formulas (under 10 minutes on two idle cores)
	"$(RUN)" benchmarks/bench_loss.py --repeats 3
	"$(RUN)" benchmarks/bench_augment.py --repeats 3
	"$(RUN)" benchmarks/bench_decode.py --repeats 3
	"$(RUN)" benchmarks/bench_decode.py --repeats 3 --size 64
	"$(RUN)" benchmarks/bench_pretrain.py --separate --steps 3 --mlp 1024-1024-1024
	"$(RUN)" benchmarks/bench_pretrain.py --separate --steps 3 --mlp 8192-8192-8192

format: $(READY)  ## fix style and formatting
	"$(RUN)" -m ruff check --fix .
	"$(RUN)" -m ruff format .

docs: $(READY) $(DOCS)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 "$(RUN)" -m mkdocs build --strict --clean

$(VENV)/.installed: requirements.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; run make PYTHON=python3.12")'
	"$(PYTHON)" -m venv "$(VENV)"
	$(PIP_INSTALL) -r requirements.txt $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)")
	touch "$@"

$(VENV)/.docs: requirements-docs.txt $(VENV)/.installed
	$(PIP_INSTALL) -r requirements-docs.txt
	touch "$@"

# without its packages, benchmarks leave out the other libraries
$(VENV)/.bench: requirements-bench.txt $(VENV)/.installed
	@if $(PIP_INSTALL) -r requirements-bench.txt; then touch "$@"; \
	else echo 'requirements-bench.txt could not be installed: benchmarks leave these libraries out'; fi

# the detection task's tests are skipped without it, so a failure does not stop the other targets
$(VENV)/.detectron2: $(INSTALL_DETECTRON2) $(VENV)/.installed
	@if PYTHON="$(RUN)" bash $(INSTALL_DETECTRON2); then touch "$@"; \
	else echo 'Detectron2 could not be installed: the tests of the detection task will be skipped'; fi
