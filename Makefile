# Everything from a fresh machine: Python 3.11 or newer, make and a C++ compiler are all that it takes.
# cmake and ninja come with the Python dependencies; the engine's source comes once, pinned by its SHA-256.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
ENGINES := build/engine
ENGINE := $(ENGINES)/x86-64-v3
LAB    := build/lab
BUNDLE := build/bundles/demo

.PHONY: help setup engine engines cross run test fuzz mutants lint schemas conformance bench image vm package clean

help: ## show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/ready ## make the virtual environment with the locked dependencies

$(VENV)/ready: requirements/dev.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON) (Python 3.11 or newer)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' || { echo "missing: Python 3.11.4 or newer; $(PYTHON) is older, set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: Python's venv module (Debian: apt install python3-venv)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "missing: a C++ compiler (Debian: apt install g++)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies; llama-cpp-python comes as bindings only, 'make engine' builds the library"
	CMAKE_ARGS=-DLLAMA_BUILD=OFF $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

engine: $(ENGINE)/record.json ## build the pinned llama.cpp engine (2 to 12 minutes, once)

engines: $(foreach profile,x86-64-v3 portable reference stock,$(ENGINES)/$(profile)/record.json) ## build the engines that the tests compare

$(ENGINES)/%/record.json: images/engine/%.toml $(VENV)/ready $(wildcard images/engine/patches/*)
	$(BIN)/appliance engine build --recipe $< --out $(ENGINES)/$* --jobs $(JOBS)
	@touch $@

cross: $(ENGINES)/portable-aarch64/record.json ## build the engine of the image for arm64 (needs g++-aarch64-linux-gnu)

$(ENGINES)/portable-aarch64/record.json: images/engine/portable.toml $(VENV)/ready $(wildcard images/engine/patches/*)
	$(BIN)/appliance engine build --recipe $< --target aarch64 --out $(ENGINES)/portable-aarch64 --jobs $(JOBS)
	@touch $@

run: engine ## run the default job in sealed workers, verify its bundle, print the verdict
	@[ -d $(LAB) ] || $(BIN)/appliance init $(LAB)
	@rm -rf $(BUNDLE)
	$(BIN)/appliance run --lab $(LAB) --engine $(ENGINE) --out $(BUNDLE)
	$(BIN)/attest verify $(BUNDLE) --trust $(LAB)/public/trusted_root.json

test: engines ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests

fuzz: engine ## 10,000 mutations of every format that attest reads (hours; goes on where it was interrupted)
	VITRINE_MUTATIONS=10000 $(BIN)/python -m pytest -p tests.tools.fuzz -n $(JOBS) --dist worksteal tests/unit tests/integration/test_hostile_bundle.py

mutants: setup ## the checking modules with one check changed at a time: which change does no test see? (hours)
	@rm -f build/mutants.jsonl
	$(BIN)/python -m tests.tools.mutants azure sevsnp tpm tdx nitro nvgpu log appraisal judging machine \
		versions results verify

lint: setup ## formatting, lint, types, import rules, docstring coverage, published schemas
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate -q appliance attest
	$(BIN)/python -m tests.tools.schemas --check

schemas: setup ## write policy/schemas from the models
	$(BIN)/python -m tests.tools.schemas

conformance: run engines ## stock clients and harnesses, two engine builds, other CPUs (downloads them; long)
	$(BIN)/python -m tests.conformance.clients.matrix
	$(BIN)/python -m tests.conformance.clients.matrix $(BUNDLE)/bundle.sigstore.json $(LAB)/public/trusted_root.json \
	  $(LAB)/public/trust_config.json $(BUNDLE)/results.json $$($(BIN)/attest verify $(BUNDLE) --json \
	  --trust $(LAB)/public/trusted_root.json | $(BIN)/python -c \
	  'import json, sys; verdict = json.load(sys.stdin); print(verdict["identity"], verdict["issuer"])')
	$(BIN)/python -m tests.conformance.engine_reproducible
	$(BIN)/python -m tests.conformance.cross_cpu
	$(BIN)/python -m tests.conformance.exactness --cells quick
	$(BIN)/python -m tests.conformance.bridges.python
	$(BIN)/python -m pytest tests/conformance/bridges

bench: engine ## measure; one JSON object a measure to build/bench.jsonl
	$(BIN)/python -m tests.bench

image: engine ## build the OCI image (fetches pinned packages, once)
	@rm -rf build/image/cpu
	$(BIN)/appliance image build images/cpu.toml --out build/image/cpu

vm: engine ## build the measured virtual machine (fetches pinned packages, once)
	@rm -rf build/vm
	$(BIN)/appliance image build --format uki images/vm.toml --out build/vm

package: setup ## build wheel and source distribution into dist/
	$(BIN)/python -m build --outdir dist .

clean: ## remove what was built, the environment included
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
