# Every target works from a bare clone: each makes the environment that it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TORCH_VERSION := 2.13.0
ARGS ?=
AREA ?= loop

.PHONY: setup demo test test-soak check audit bench bench-peers soak study notebooks clean
.DEFAULT_GOAL := setup

setup: $(READY)

# torch goes first and alone: its index (TORCH_INDEX=<address>) must not decide where the rest comes from.
$(READY): pyproject.toml constraints.txt
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH_VERSION) \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' && \
	echo $$(( $$(date +%s) - start )) > $(READY) && \
	echo "environment ready in $$(cat $(READY)) s"

demo: $(READY)
	@FEDGE_SETUP_SECONDS=$$(cat $(READY)) $(BIN)/fedge demo $(ARGS)

# Two processes, a file each at a time: what a file's tests share is made once.
test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# The same promises tried at length: two minutes on two cores.
test-soak: $(READY)
	@$(BIN)/python -m pytest -n 2 -m soak $(ARGS)

check: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

# Does training keep its promise, and would we notice if not? A few minutes on two cores.
audit: $(READY)
	@$(BIN)/python -m fedge.audit multi-run $(ARGS)

bench: $(READY)
	@$(BIN)/python -m benchmarks.run --area $(AREA) $(ARGS)

# The peers go into environments of their own (.peers), because they need older libraries; wrk loads the servers.
bench-peers: $(READY)
	@$(BIN)/python -m benchmarks.peers
	@command -v wrk >/dev/null || echo "wrk is missing: install your distribution's package of that name" >&2

# What takes longer than a test run may.
soak: $(READY)
	@$(BIN)/python -m benchmarks.run --area gateway --only soak $(ARGS)
	@$(BIN)/python -m pytest -n 2 tests/faults/every_write.py

study: $(READY)
	@$(BIN)/python -m benchmarks.run --area study $(ARGS)

notebooks: $(READY)
	@$(BIN)/python -m pytest tests/notebooks $(ARGS)

clean:
	rm -rf $(VENV) .peers runs build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
