# make demo     set up .venv and re-render the bundled clips from new cameras (into demo_output/)
# make test     set up .venv and run all tests        make parity    only those against the original's numbers; none may skip
#               in WORKERS processes (2), a whole file of tests in each; WORKERS=0 for one process, as a debugger wants it
# make test-cluster   worker processes, Ray, SLURM: those that are not part of make test, and their faults
# make test-faults    500 kills at random times instead of 12, and 3,000 damaged files instead of 70
#                     (GUAVA_AUG_KILLS, GUAVA_AUG_MUTATIONS, GUAVA_AUG_SEED)
# make test-oldest    all tests with Python 3.10 and the lowest versions that pyproject.toml allows (OLDEST=python3.10)
# make test-newest    all tests with Python 3.13 and the newest versions there are (NEWEST=python3.13)
# make lint     ruff and mypy                         make test-gpu  only those that need a GPU
# make test-fast   the quick ones, about a minute, and how much of the code they cover
# make docs     the documentation site, into docs/_build/html; a warning is an error

PYTHON ?= python3
OLDEST ?= python3.10
NEWEST ?= python3.13
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
ARGS ?=
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: docs demo test test-fast parity test-cluster test-faults test-gpu test-oldest test-newest lint format clean

demo: $(VENV)/.installed
	$(BIN)/guava-aug demo --output demo_output $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST) $(ARGS)

test-fast: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST) -m "fast and not parity" --cov=guava_aug --cov-report= $(ARGS)
	@$(BIN)/python -m coverage report --format=total | sed 's/$$/ % of the lines are covered by the quick tests/'

parity: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST) -m parity --forbid-skips $(ARGS)

test-cluster: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray]'
	$(BIN)/python -m pytest tests/cluster -m "cluster or not cluster" $(ARGS)

test-faults: $(VENV)/.installed-dev
	GUAVA_AUG_KILLS=$${GUAVA_AUG_KILLS:-500} GUAVA_AUG_MUTATIONS=$${GUAVA_AUG_MUTATIONS:-3000} \
		$(BIN)/python -m pytest tests/batch/test_kills.py tests/batch/test_faults.py tests/batch/test_fuzz.py $(ARGS)

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu $(ARGS)

test-oldest: $(VENV)-oldest/.installed
	$(VENV)-oldest/bin/python $(PYTEST) $(ARGS)

test-newest: $(VENV)-newest/.installed
	$(VENV)-newest/bin/python $(PYTEST) $(ARGS)

# uv, because pip cannot resolve to the lowest versions. What is not named in pyproject.toml is the newest that fits.
$(VENV)-oldest/.installed: pyproject.toml
	$(OLDEST) -m venv --clear $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-oldest/bin/uv pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct -e '.[test]'
	touch $@

$(VENV)-newest/.installed: pyproject.toml
	$(NEWEST) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade -e '.[test]'
	touch $@

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint,docs]'
	touch $(VENV)/.installed $@

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest demo_output build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
