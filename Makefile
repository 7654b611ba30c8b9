# Everything a user or CI runs. Another interpreter: make PYTHON=python3.12; another place: make VENV=/somewhere/env.

PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13 python,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The lowest versions are tried on the lowest Python: later ones lack wheels of some of them.
FLOORS ?= .venv-floors
FLOORS_PYTHON ?= python3.11

# Development data for tests and notebooks that can use them; those skip with a reason where the folder is absent.
export SHARED_DATA := $(abspath $(or $(SHARED_DATA),../shared/data))

.PHONY: help demo test slow floors lint bench figures docs wheel notebooks clean

help:
	@echo "make demo       predict a new subject and compress a mesh, on embedded data; outputs in demo_output/"
	@echo "make test       the tests, but for the slow ones; ARGS='--precision float32' or bfloat16: vat3d in that precision"
	@echo "make slow       the slow tests (about 20 minutes)"
	@echo "make floors     the tests of make test with the lowest versions that pyproject.toml allows"
	@echo "make lint       ruff, strict types, import layers, docstrings"
	@echo "make bench      speed and quality beside peers; figures in benchmarks/"
	@echo "make figures    redraw every figure of docs and README from stored measurements (two minutes)"
	@echo "make docs       the documentation site, in docs/_build/html; warnings are errors"
	@echo "make wheel      wheel and sdist, checked; both demos from the wheel in a clean environment"
	@echo "make notebooks  run every notebook and write its outputs; ARGS=--check: compare key numbers, write nothing"
	@echo "make clean      remove outputs and caches; $(VENV) and $(FLOORS) stay"

# The stamp is written last: an installation that was cut short is taken up again.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one with make PYTHON=..." >&2; exit 1; }
	@echo "installing into $(VENV) with $(PYTHON): a few minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

# uv takes the lowest versions, which pip cannot. Its downloads stay here too, linked rather than copied into env/.
$(FLOORS)/.installed: pyproject.toml
	@$(FLOORS_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "the lowest versions need Python 3.11; name it with make FLOORS_PYTHON=..." >&2; exit 1; }
	@echo "installing the lowest versions into $(FLOORS): a few minutes, once"
	$(FLOORS_PYTHON) -m venv $(FLOORS)/uv
	$(FLOORS)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(FLOORS)/uv/bin/uv venv --quiet --clear --python $(FLOORS_PYTHON) $(FLOORS)/env
	$(FLOORS)/uv/bin/uv pip install --quiet --python $(FLOORS)/env/bin/python --cache-dir $(FLOORS)/cache \
		--resolution lowest-direct --only-binary :all: --compile-bytecode --editable ".[brain,umap,mosaic,dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python -m braincl.demo
	$(BIN)/python -m vat3d.demo
	@echo "demo: all outputs lie in demo_output/"

# One thread for each of the two workers, in child processes as well.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rs -m "not slow" $(ARGS)

slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(ARGS) || test $$? -eq 5  # 5: no test is marked slow

floors: $(FLOORS)/.installed
	OMP_NUM_THREADS=1 $(FLOORS)/env/bin/python -m pytest -n 2 -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_docstrings.py

bench: $(INSTALLED)
	set -e; for script in benchmarks/*/*.py; do echo "== $$script"; $(BIN)/python $$script; done

figures: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tools/gallery.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/figures.py

docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs: open docs/_build/html/index.html"

# The wheel alone, in an environment of its own and from another folder, does what the demo does.
wheel: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build . >/dev/null
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	clean=$$(mktemp -d) && trap 'rm -rf "$$clean"' EXIT && $(PYTHON) -m venv "$$clean/env" \
		&& "$$clean/env/bin/python" -m pip install --quiet --disable-pip-version-check dist/*.whl \
		&& cd "$$clean" && env/bin/python -m braincl.demo && env/bin/python -m vat3d.demo

notebooks: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python tools/notebooks.py $(ARGS)

clean:
	rm -rf docs/_build docs/api/generated docs/commands.md docs/licences.md docs/notebooks demo_output build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -not -path "./$(FLOORS)/*" -prune -exec rm -rf {} +
