# `make demo` and `make test` set up what they need: an environment in VENV, once, and again when its pins change.
PYTHON ?= python3
VENV ?= .venv
ARGS =

BIN = $(VENV)/bin
READY = $(VENV)/.trainkit-ready
DATA = examples/flights/data
ROWS = trainkit-output/demo-features/outputs/output
MAKEFLAGS += --no-builtin-rules

.PHONY: help demo demo-stream test lint bench bench-peers faults launches requests interop engines images clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile
	@echo "VENV=DIR puts the environment elsewhere, PYTHON=python3.12 chooses its interpreter, ARGS=... adds arguments."

demo: $(READY) ## real flights: raw tables, features, a training job on two hosts, a prediction
	$(BIN)/python examples/flights/prepare.py $(DATA)
	$(BIN)/trainkit local examples/flights/features.py --processing --output trainkit-output/demo-features \
		$(foreach table,flights weather planes airports,--input $(table)=$(DATA)/$(table))
	$(BIN)/trainkit local examples/flights/train.py --hosts 2 --procs 2 \
		--channel train=$(ROWS)/train --channel test=$(ROWS)/test --output trainkit-output/demo $(ARGS)
	$(BIN)/python examples/flights/predict.py trainkit-output/demo/model.tar.gz --rows $(ROWS)/test

demo-stream: $(READY) ## train from an S3 server on this machine, without a download
	$(BIN)/python examples/from_s3/demo.py --output trainkit-output/demo-stream $(ARGS)

# What has a second in which to happen has the machine to itself. ARGS may choose none of it: pytest's 5.
PROMISED = tests/faults/test_stops.py
test: $(READY) ## all tests, three files at a time: most of them wait for processes
	$(BIN)/python -m pytest $(PROMISED) $(ARGS) || test $$? -eq 5
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore=$(PROMISED) $(ARGS)

lint: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## each claim about speed, measured beside its peers
	@for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; done

bench-peers: $(READY) ## install the peers that benchmarks compare with, each in an environment of its own
	sh benchmarks/peers/install.sh $(BIN)/python

faults: $(READY) ## every planted fault, stop and kill: about ten minutes
	TRAINKIT_TEST_FAULTS=all $(BIN)/python -m pytest tests/faults $(ARGS)

launches: $(READY) ## twenty launches of each kind of training under the fork engine
	TRAINKIT_TEST_LAUNCHES=20 $(BIN)/python -m pytest tests/hosts/test_torch.py $(ARGS)

requests: $(READY) ## two hundred requests, drawn from what the API takes, executed here: ten minutes
	TRAINKIT_TEST_REQUESTS=200 $(BIN)/python -m pytest -n 2 tests/hosts/test_local_drawn_requests.py $(ARGS)

interop: bench-peers ## beside AWS's own code: its toolkit, its drivers, and its SDKs as clients (gigabytes)
	sh benchmarks/peers/install.sh $(BIN)/python sdk-v2-client sdk-v3-client
	$(BIN)/python -m pytest tests/interop $(ARGS)

engines: $(READY) ## Spark, Ray and Dask on two hosts (Java 17): five minutes
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[spark,ray,dask]'
	TRAINKIT_TEST_ENGINES=all $(BIN)/python -m pytest tests/hosts/test_cluster_engines.py tests/hosts/test_features_spark.py $(ARGS)

images: $(READY) ## build the images and run jobs in them, by Docker or as root with apt's docker.io: five minutes, then two
	TRAINKIT_TEST_IMAGES=1 $(BIN)/python -m pytest tests/images $(ARGS)

clean: ## remove what the other targets made
	test ! -f $(READY) || rm -rf $(VENV)
	rm -rf $(DATA) .venvs trainkit-output build dist .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		found=$$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo not there); \
		echo "trainkit needs Python 3.11 or newer, and $(PYTHON) is $$found." >&2; \
		echo "Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "making the environment in $(VENV): a minute or two, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[torch,demo,test]'
	@touch $(READY)
