# `make demo` and `make test` work from a bare clone with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo

.PHONY: demo test lint types clean

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/avb train digits --method avb_adaptive --epochs 300 --run-dir $(DEMO)
	$(BIN)/avb evaluate $(DEMO) --num-data 100 --annealed-data 20 --max-components 512
	$(BIN)/avb diagnose $(DEMO)
	$(BIN)/avb sample $(DEMO) -n 64
	$(BIN)/avb reconstruct $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

clean:
	rm -rf $(VENV) $(DEMO)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@
