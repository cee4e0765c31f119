# Distill and Explain. On a fresh machine this needs Python 3.11 or newer (with venv), git and make.
# `make` alone lists the targets.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-builtin-rules --no-print-directory

PYTHON     ?= python3
UV_VERSION := 0.13.9
BIN        := .venv/bin
INSTALLED  := .venv/.installed

# Two threads everywhere: another number of threads gives other last bits.
export OMP_NUM_THREADS := 2
export MKL_NUM_THREADS := 2
# A thread that waits sleeps instead of spinning: on a shared machine that is many times faster.
export OMP_WAIT_POLICY := PASSIVE
export KDUTILS_PROGRESS ?= 0
export PYDEVD_DISABLE_FILE_VALIDATION := 1
export JUPYTER_PREFER_ENV_PATH := 1
export UV_NO_PROGRESS := 1
# Without cached bytecode every kernel needs half a minute to import PyTorch.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install book test test-slow notebook notebooks chapter assignments grade links bench lab lint lock stamp clean pdf times

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## make .venv from the lock (the other targets do it when it is needed)

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "This book needs Python 3.11 or newer; %s is %d.%d. Name another one: make PYTHON=python3.12" % (sys.executable, v[0], v[1]))'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --disable-pip-version-check install --quiet uv==$(UV_VERSION)
	@echo "Installing the locked packages into .venv (PyTorch is large: minutes on a slow line) ..."
	@$(BIN)/uv pip install --python $(BIN)/python --require-hashes --quiet -r requirements.txt
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --offline --quiet -e .
	@touch $@

book: $(INSTALLED)  ## build the HTML book from the stored outputs, and print the page to open
	@$(BIN)/python tools/build_book.py

pdf: $(INSTALLED)  ## print the whole book into one PDF (needs Chromium)
	@$(BIN)/python tools/print_book.py

# Two workers: a chapter keeps both cores busy only now and then.
test: $(INSTALLED)  ## unit and property tests, every notebook re-run and compared, the strict build, the pages
	@$(BIN)/python -m pytest tests -m "not slow" --numprocesses 2 --dist loadgroup --durations=15

test-slow: $(INSTALLED)  ## the tests that take minutes by nature
	@$(BIN)/python -m pytest tests -m slow --durations=0

notebook: $(INSTALLED)  ## NB=05: re-execute one chapter and store its outputs
	@test -n "$(NB)" || { echo "Say which chapter: make notebook NB=05" >&2; exit 2; }
	@$(BIN)/python tools/execute.py $(NB)

notebooks: $(INSTALLED)  ## re-execute and store every chapter
	@$(BIN)/python tools/execute.py all

times: $(INSTALLED)  ## measure how long each chapter runs (NB=05: one), storing nothing else
	@$(BIN)/python tools/execute.py --only-time $(or $(NB),all)

chapter: $(INSTALLED)  ## NB=18 TITLE="Distilling text": begin a new chapter
	@$(BIN)/python tools/chapter.py "$(NB)" "$(TITLE)"

assignments: $(INSTALLED)  ## student notebooks and autograder zips of the course (MASTERS=folder for your own)
	@$(BIN)/python tools/assignments.py build $(if $(MASTERS),--masters "$(MASTERS)") $(ARGS)

grade: $(INSTALLED)  ## ZIP=autograder.zip FROM=folder: grade every notebook of a folder
	@test -n "$(ZIP)" -a -n "$(FROM)" || { echo "Say what to grade: make grade ZIP=... FROM=folder" >&2; exit 2; }
	@$(BIN)/python tools/assignments.py grade "$(ZIP)" "$(FROM)" $(ARGS)

# torchdistill stands beside the environment, not in it: only the benchmark wants it.
bench: $(INSTALLED)  ## speed beside the tutorial's loop, torchdistill and the floor (ROOT=folder of CIFAR-10)
	@test -d _build/bench/torchdistill || $(BIN)/uv pip install --python $(BIN)/python --no-deps --quiet --target _build/bench torchdistill==1.1.5
	@PYTHONPATH=_build/bench $(BIN)/python benchmarks/distill.py --out benchmarks/distill.json $(if $(ROOT),--root "$(ROOT)")

links: $(INSTALLED)  ## ask every link of the book whether it still leads somewhere (needs the network)
	@$(BIN)/jupyter-book build . --builder linkcheck

lab: $(INSTALLED)  ## open the notebooks in JupyterLab
	@KDUTILS_PROGRESS=1 $(BIN)/jupyter lab notebooks

lint: $(INSTALLED)  ## ruff, types, spelling
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/codespell $$(git ls-files --cached --others --exclude-standard)

lock: $(INSTALLED)  ## resolve pyproject.toml anew into requirements.txt (ARGS="--upgrade" for newer versions)
	@$(BIN)/uv pip compile --universal --generate-hashes --all-extras --no-emit-index-url --quiet \
	  --custom-compile-command "make lock" $(ARGS) pyproject.toml -o requirements.txt

stamp: $(INSTALLED)  ## REPO=owner/name: write the repository's address where it belongs; REPO= takes it out
	@$(BIN)/python tools/stamp.py $(if $(filter undefined,$(origin REPO)),,"$(REPO)")

clean:  ## remove what was built (not .venv)
	@rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
