# Two commands: `make demo` and `make test`. Both create .venv and install what they need.
# While editing: `make quick`, a minute.
PYTHON ?= python3
# tests at a time in `make test`
JOBS ?= 2
VENV := .venv
LINTED := src tests benchmarks examples docs/media docs/site_hooks.py
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# address of the repository, for the urls and images of a release
REPOSITORY ?=

.PHONY: demo test quick prove parity mutants worlds faults soak fuzz slow breadth invariance docs lint release clean

$(VENV)/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	touch $@

$(VENV)/demo: $(VENV)/base
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,web]'
	touch $@

$(VENV)/dev: $(VENV)/base
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/demo  ## learn MiniGrid from pixels, evaluate, draw the curve and a video: a few minutes on 2 cores
	@echo "MiniGrid-Empty-Random-6x6 from pixels: random policy 0.44, solved 0.90, shortest paths 0.97"
	$(BIN)/reverie train --preset demo --run runs/demo --env-steps 8000
	$(BIN)/reverie eval runs/demo --episodes 20
	@echo "next      $(BIN)/reverie train --preset demo --env MiniGrid-DoorKey-5x5-v0 --run runs/doorkey"

test: $(VENV)/dev lint  ## everything that CI runs
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow"

quick: $(VENV)/dev lint  ## while editing: style, types and the tests of the algorithm, a minute on one core
	$(BIN)/pytest -m "core and not slow"

parity: $(VENV)/dev  ## every equation against an independent NumPy reference: seconds
	$(BIN)/python -m tests.reference.generate --check
	$(BIN)/pytest tests/test_parity.py tests/reference
	$(BIN)/reverie selftest

prove: $(VENV)/dev  ## after editing a plain function that has a fast form: are both still equal? then the run may use it
	$(BIN)/python -m tests.fast.prove

mutants: $(VENV)/dev  ## put known bugs of other Dreamers into a copy of the source; the tests must notice each
	$(BIN)/python -m tests.mutants.run

worlds: $(VENV)/dev  ## train in worlds whose answers are known in closed form, three seeds each: 17 minutes on one core
	$(BIN)/python benchmarks/worlds.py --seeds 0 1 2 --out runs/worlds.json

faults: $(VENV)/dev  ## inject one fault after the other into real runs: one row each; 5 minutes, small disks need root
	PYTHON=$(BIN)/python tests/faults/run.sh

soak: $(VENV)/dev  ## half an hour of everything with forced restarts: do memory, files, threads or processes grow?
	$(BIN)/python tests/faults/soak.py --minutes 30 --out benchmarks/results/soak.json

fuzz: $(VENV)/dev  ## 2,000 random run directories, environments and command lines each: two hours on one slow core
	$(BIN)/python -m tests.fuzz.run_directories --count 2000
	$(BIN)/python -m tests.fuzz.environments --count 2000
	$(BIN)/python -m tests.fuzz.command_lines --count 2000

slow: $(VENV)/dev  ## minutes of training per test
	$(BIN)/pytest -m slow

# the preset of the two suites below, and the seeds (all, if empty)
PRESET ?= auto
SEEDS ?=

breadth: $(VENV)/dev  ## one preset on 17 tasks, five seeds: 10 CPU hours, can be stopped and goes on; then its report
	$(BIN)/pip install -q -c constraints.txt 'popgym>=1.0.7,<2'
	$(BIN)/python benchmarks/suite.py benchmarks/suites/breadth.toml --preset $(PRESET) --jobs $(JOBS) $(if $(SEEDS),--seeds $(SEEDS))

invariance: $(VENV)/dev  ## four tasks with rewards x0.01, x100, +1, -1, three seeds: at most 5 CPU hours; then its report
	$(BIN)/python benchmarks/suite.py benchmarks/suites/invariance.toml --preset $(PRESET) --jobs $(JOBS) $(if $(SEEDS),--seeds $(SEEDS))

docs: $(VENV)/dev  ## the documents as a site in build/site
	$(BIN)/mkdocs build --strict

release: $(VENV)/dev  ## wheel and sdist in dist/, tried in an empty environment of every Python that is there (3.11 to 3.13)
	REPOSITORY=$(REPOSITORY) PYTHON=$(BIN)/python .ci/release

lint: $(VENV)/dev
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist
