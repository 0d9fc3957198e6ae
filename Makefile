# One short verb per intention. A virtual environment is made in .venv; nothing outside this directory is touched.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.built
SOURCES := $(wildcard kernels/*.pyx kernels/*.pxd kernels/*.h) setup.py pyproject.toml
SEEDS ?= 20
N ?= 100
EVENTS ?= 1000000
MINUTES ?= 5
SEED ?= 1
# Files of tests under way at once: most of them wait for processes of their own longer than they compute.
JOBS ?= 3

.PHONY: help build run test lan sim chaos stops soak soak-overload bench bench-nano lint types docs wheel free-threaded clean check-tools

help:
	@echo "make run    build, start a fleet of three nodes here, audit the standard library with it, kill one node"
	@echo "make test   build, run the tests            make lint   ruff, mypy, import contracts"
	@echo "make sim    random faults, SEEDS=$(SEEDS)         make lan    tests in network namespaces (root)"
	@echo "make chaos  five real nodes under faults for MINUTES=$(MINUTES), drawn by SEED=$(SEED): nothing acknowledged may be lost (root)"
	@echo "make stops  stop a node N=$(N) times, at random moments and with work under way: nothing may be left"
	@echo "make soak   populations of nano-agents live and die, EVENTS=$(EVENTS) of each kind: nothing may stay behind (an hour or two)"
	@echo "make soak-overload  ten times too much work for MINUTES=$(MINUTES): memory of every process, refusals, urgent tasks"
	@echo "make bench  figures, beside peers            make docs   write the generated reference pages"
	@echo "make bench-nano  the same of nano-agents; peers are installed into .venv-bench (ONLY=\"ticks saving\" for some of it)"
	@echo "make build  only build                       make wheel  a wheel in dist/"
	@echo "make free-threaded PYTHON=python3.13t   kernels and nano-agents on a Python without the lock: build, test"

check-tools:
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) found"; echo; echo "hint: apt-get install python3 python3-venv python3-dev gcc make"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or later is needed, this is $$($(PYTHON) -V)"; echo; echo "hint: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: this Python makes no virtual environments"; echo; echo "hint: apt-get install python3-venv"; exit 1; }
	@command -v gcc >/dev/null || command -v cc >/dev/null || { echo "error: no C compiler found"; echo; echo "hint: apt-get install gcc libc6-dev"; exit 1; }
	@printf '#include <stdlib.h>\n' | $$(command -v gcc || command -v cc) -E -x c - >/dev/null 2>&1 || { echo "error: the headers of the C library are missing"; echo; echo "hint: apt-get install libc6-dev"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || { echo "error: Python.h is missing"; echo; echo "hint: apt-get install python3-dev"; exit 1; }

$(VENV)/bin/python:
	@$(MAKE) --no-print-directory check-tools
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/bin/python $(SOURCES)
	@echo "building (once; takes a minute or two)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip "setuptools>=77" wheel "cython>=3.1"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(STAMP)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[dev,twins]"
	@touch $@

build: $(STAMP)

run: $(STAMP)
	@$(PY) -m nodes.demo

test: $(VENV)/.dev
	@$(PY) -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

lan: $(VENV)/.dev
	@$(PY) -m pytest -q tests/lan

sim: $(VENV)/.dev
	@$(PY) -m tests.sim --seeds $(SEEDS)

chaos: $(VENV)/.dev
	@$(PY) -m tests.chaos --minutes $(MINUTES) --seed $(SEED)

stops: $(VENV)/.dev
	@$(PY) -m tests.stops --count $(N)

soak: $(VENV)/.dev
	@$(PY) -m tests.soak --events $(EVENTS)

soak-overload: $(VENV)/.dev
	@$(PY) -m benchmarks.overload --minutes $(MINUTES)

bench: $(VENV)/.dev
	@$(PY) -m benchmarks

bench-nano: $(VENV)/.dev
	@$(PY) -m benchmarks.nano $(ONLY)

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/lint-imports

types: $(VENV)/.dev
	@$(VENV)/bin/mypy

docs: $(VENV)/.dev
	@$(PY) -m nodes.reference docs/reference

wheel: $(VENV)/.dev
	@$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

FREE := .venv-free-threaded

# The packages that nano-agents need; those of a node are not all to be had for it (docs/design.md, "Nano-agents").
free-threaded:
	@$(PYTHON) -c 'import sys, sysconfig; sys.exit(not sysconfig.get_config_var("Py_GIL_DISABLED"))' || { echo "error: $(PYTHON) is no free-threaded Python"; echo; echo "hint: build one with ./configure --disable-gil, then make free-threaded PYTHON=python3.13t"; exit 1; }
	@test -x $(FREE)/bin/python || $(PYTHON) -m venv $(FREE)
	@$(FREE)/bin/python -m pip install --quiet --disable-pip-version-check --prefer-binary "setuptools>=77" "cython>=3.1" numpy blake3 msgpack cloudpickle psutil pyzmq pytest pytest-timeout hypothesis
	@$(FREE)/bin/python setup.py --quiet build_ext --inplace
	@$(FREE)/bin/python -m pytest -q tests/unit/kernels tests/unit/nano

clean:
	rm -rf build dist *.egg-info kernels/*.so kernels/*.c $(STAMP) $(VENV)/.dev
