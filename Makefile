# make demo: train, predict and score on generated volumes.   make test: check format and lint, run all tests.
# make gpu: install what the driver allows, then all figures of a graphics card in nine minutes.
PYTHON ?= python3
BIN := .venv/bin
ENVIRONMENT := .venv/installed
TESTS := .venv/installed_tests
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO := runs/demo

.PHONY: environment demo test gpu format clean

environment: $(ENVIRONMENT)

$(ENVIRONMENT): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: pass for example PYTHON=python3.12.')"
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[formats,images,scale]'
	touch $@

$(TESTS): $(ENVIRONMENT)
	$(INSTALL) --editable '.[test]'
	touch $@

demo: environment
	rm -rf $(DEMO)
	$(BIN)/python -m jax_seg.data.synthetic $(DEMO)/data --volumes 8 --size 96 --seed 0
	$(BIN)/python -m jax_seg.data.synthetic $(DEMO)/unseen --volumes 2 --size 96 --seed 1
	$(BIN)/python launch.py --config configs/demo.py --config.data.root=$(DEMO)/data --workdir $(DEMO)/run
	$(BIN)/python -m jax_seg.predict --workdir $(DEMO)/run --input $(DEMO)/unseen/train_images --output $(DEMO)/predictions
	$(BIN)/python -m jax_seg.evaluate --predictions $(DEMO)/predictions --labels $(DEMO)/unseen/train_labels --output $(DEMO)/scores.json
	$(BIN)/python -m jax_seg.report $(DEMO)/run
	@echo "Pictures: $(DEMO)/run/plots"

test: $(TESTS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

gpu: environment
	extras=$$(benchmarks/gpu.sh extras) && { $(INSTALL) --editable ".[$$extras]" || \
	{ echo "Without PyTorch and MONAI." && $(INSTALL) --editable ".[$${extras%,*}]"; }; }
	$(BIN)/python -m benchmarks.gpu --output runs/gpu

format: $(TESTS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .pytest_cache runs *.egg-info
