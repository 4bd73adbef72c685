# In a fresh clone `make test` and `make demo` set up all they need: a virtual environment in .venv, from the
# tested versions in constraints.txt. Afterwards they start at once, until pyproject.toml or constraints.txt changes.
#
#   make test   the tests; PYTEST_ARGS="-k rome" and the like reach pytest
#   make test-quick   those of them that take no more than a moment: before each commit
#   make demo   locate and edit a fact in the bundled model, in about a minute on a laptop
#   make lint   ruff and mypy
#   make matrix write docs/architectures.md and mechinterp/models/architectures.json from what the tests find
#   make latest the matrix with the newest transformer-lens, transformers and torch in place of the pinned ones
#   make real   what is measured on two real language models, which are fetched first: docs/real-models.md; hours, and a
#               second start goes on; needs MECHINTERP_DATA.  REAL_FACTS=20 tries it on few facts
#   make clean  remove the environment and what was built
#
# On Linux, torch from PyPI brings the CUDA libraries along. For the much smaller CPU build:
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_INDEX ?=
# For `make latest`, where the newest torch cannot be had: TORCH=torch==2.13.0
TORCH ?= torch
# Several processes, of which each holds a model: no more than four, and the tests of a file stay together.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

PIP = $(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: test test-quick demo lint matrix real latest clean

test: $(VENV)/ready
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-quick: $(VENV)/ready
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) -m "not slow"

demo: $(VENV)/ready
	@echo "make demo: $(VENV)/bin/python ($$($(VENV)/bin/python -V)), made with PYTHON=$(PYTHON); other choices: PYTHON, VENV, TORCH_INDEX"
	$(VENV)/bin/mechinterp demo

lint: $(VENV)/ready-lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

matrix: $(VENV)/ready
	MECHINTERP_WRITE_MATRIX=1 $(VENV)/bin/python -m pytest tests/test_matrix.py

# Not part of any test. SmolLM2 adds no BOS: it is traced once more with its end-of-text token in front.
REAL = $(VENV)/bin/python -m benchmarks.real
REAL_OUT ?= runs/real
REAL_FACTS ?= 100
REAL_MODELS = smollm2-135m gemma3-270m

real: $(VENV)/ready
	$(PIP) --quiet gguf
	$(REAL).fetch
	for model in $(REAL_MODELS); do \
	    $(REAL).known --model $$model --out $(REAL_OUT) && \
	    $(REAL).cost  --model $$model --out $(REAL_OUT) && \
	    $(REAL).aie   --model $$model --out $(REAL_OUT) --facts $(REAL_FACTS) && \
	    $(REAL).edits --model $$model --out $(REAL_OUT) --facts $$((2 * $(REAL_FACTS))) && \
	    $(REAL).drift --model $$model --out $(REAL_OUT) || exit 1; \
	done
	$(REAL).aie --model smollm2-135m --prepend eos --out $(REAL_OUT) --facts $(REAL_FACTS)
	$(REAL).page --out $(REAL_OUT)

# In an environment of its own, made anew each time. The pins are what stands in pyproject.toml, so they are taken out of
# its lists, and the package is installed without asking for them. A weekly job runs this; a failure says what moved.
LATEST = $(VENV)-latest
LATEST_PIP = $(LATEST)/bin/python -m pip install --disable-pip-version-check --quiet --upgrade
UNPIN = import re, tomllib; lists = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    moved = r"(transformer-lens|transformers|torch)\b.*"; every = lists["dependencies"] + lists["optional-dependencies"]["test"]; \
    print(*(re.sub(moved, r"\1", one) for one in every), sep="\n")

latest:
	rm -rf $(LATEST)
	$(PYTHON) -m venv $(LATEST)
	$(LATEST_PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PYTHON) -c '$(UNPIN)' | sed 's/^torch$$/$(TORCH)/' > $(LATEST)/requirements.txt
	$(LATEST_PIP) -r $(LATEST)/requirements.txt
	$(LATEST_PIP) --no-deps --no-build-isolation -e .
	$(LATEST)/bin/python -m pip list --disable-pip-version-check | grep -E '^(torch|transformers|transformer-lens) '
	$(LATEST)/bin/python -m pytest tests/test_matrix.py tests/test_engine_architectures.py tests/test_preflight.py \
	    tests/test_faithful.py tests/test_models.py

clean:
	rm -rf $(VENV) $(LATEST) build dist *.egg-info

# torch first and alone, so that TORCH_INDEX is asked for nothing else.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mechinterp needs Python 3.11 or later: set PYTHON to one")'
	@echo "Setting up $(VENV) with PYTHON=$(PYTHON) and torch from $(if $(TORCH_INDEX),$(TORCH_INDEX),PyPI (TORCH_INDEX= names another index)): some minutes, once."
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) --quiet -e ".[test]"
	@touch $@

$(VENV)/ready-lint: $(VENV)/ready
	$(PIP) --quiet -e ".[dev]"
	@touch $@
