# Two commands on a fresh machine: `make demo` and `make test`. Each makes its virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

.PHONY: demo test slow format clean

# The whole job on drawn garments, offline, in under five minutes: runs/demo/report.html
demo: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.demo

# The fast suite, lint and types.
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

# What takes minutes: the README's commands and the demo itself.
slow: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs build *.egg-info
