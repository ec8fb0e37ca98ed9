# make            what there is
# make quickstart mosaics -> patch lists -> VICReg -> an evaluated backbone, in minutes, on a made-up sample
# make test       all tests
# make docs       the documentation as web pages in site/
#
# PYTHON=python3.12 chooses the interpreter that makes the environment, VENV=/elsewhere where it lies; VENV= (empty)
# uses the environment that is active now and installs nothing. SN7_DIR=/path/to/train runs quickstart on real mosaics.

PYTHON ?= python3
VENV ?= .venv
SN7_DIR ?=
TESTS ?=

ifeq ($(strip $(VENV)),)
RUN := $(PYTHON)
READY :=
DETECTRON2 :=
DOCS :=
else
RUN := $(abspath $(VENV))/bin/python
READY := $(VENV)/.installed
DETECTRON2 := $(VENV)/.detectron2
DOCS := $(VENV)/.docs
endif

INSTALL_DETECTRON2 := downstream/detectron2_crowdai_detection_task/install_detectron2.sh

.DEFAULT_GOAL := help
.PHONY: help install quickstart test lint format docs

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 22

install: $(READY) $(DETECTRON2)  ## the environment alone (.venv, or VENV=/elsewhere), with Detectron2's Python

quickstart: $(READY)  ## the main job, from a made-up sample (or SN7_DIR=/path/to/SN7/train) to a table of results
	PYTHON='$(RUN)' SN7_DIR='$(SN7_DIR)' bash exp/quickstart.sh

test: $(READY) $(DETECTRON2)  ## all tests (TESTS="tests/test_vicreg_loss.py -k gradient" for some)
	OMP_NUM_THREADS=1 '$(RUN)' -m pytest -n 2 --dist loadfile $(TESTS)

lint: $(READY)  ## ruff: mistakes and formatting
	'$(RUN)' -m ruff check .
	'$(RUN)' -m ruff format --check .

format: $(READY)  ## ruff: put formatting right
	'$(RUN)' -m ruff check --fix .
	'$(RUN)' -m ruff format .

docs: $(READY) $(DOCS)  ## the documentation in site/, with all links checked
	NO_MKDOCS_2_WARNING=1 '$(RUN)' -m mkdocs build --strict --clean

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; say make PYTHON=python3.12")'
	$(PYTHON) -m venv '$(VENV)'
	'$(RUN)' -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch '$@'

$(VENV)/.docs: requirements-docs.txt $(VENV)/.installed
	'$(RUN)' -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch '$@'

# the tests of the detection task need it and are skipped without it, so a failure here is no reason to stop
$(VENV)/.detectron2: $(INSTALL_DETECTRON2) $(VENV)/.installed
	@if PYTHON='$(RUN)' bash $(INSTALL_DETECTRON2); then touch '$@'; \
	else echo 'Detectron2 could not be installed: the tests of the detection task will be skipped'; fi
