# Every target sets up what it needs by itself and reuses it while nothing changed.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.dev-ready

.PHONY: demo test lint protos format bench-hashing bench-hashing-scratch bench-federated bench-federated-full bench-bigearthnet bench-precision bench-query bench-defaults bench-index bench-memory soak-training soak-index soak-budgets soak-formats bench-ingest bench-privacy bench-jp2 soak-ingest clean help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: anything else that pulls it in would choose another build.
$(READY): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(BIN)/python -m rsfed.index.warm
	@touch $@

$(DEV_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## The whole story on one machine; writes demo/report.html
	$(BIN)/rsfed demo

# Tests that start many processes come one by one: beside others they would run into their time limits.
test: $(DEV_READY) ## All tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not process'
	$(BIN)/python -m pytest -m process

lint: $(DEV_READY) ## Style, types, import rules, wire contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/baseline.binpb

protos: $(DEV_READY) ## Write the stubs in rsfed/v1 again
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/generate_stubs.py

format: $(DEV_READY) ## Bring the code into house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-hashing: $(DEV_READY) ## Compare hashing methods on real images; needs RSFED_TEST_DATA
	$(BIN)/python -m rsfed.lab.bench_hashing

bench-hashing-scratch: $(READY) ## Train networks from scratch on EuroSAT; needs RSFED_TEST_DATA, takes long
	$(BIN)/python -m rsfed.lab.bench_hashing_scratch

bench-federated: $(DEV_READY) ## Compare federated training with central on real images; needs RSFED_TEST_DATA
	$(BIN)/python -m rsfed.lab.bench_federated

bench-federated-full: $(DEV_READY) ## The same, and what each part of the default does; needs RSFED_TEST_DATA
	$(BIN)/python -m rsfed.lab.bench_federated --full

bench-bigearthnet: $(READY) ## Compare hashing methods on BigEarthNet v2: make bench-bigearthnet DATA=DIR
	@test -n "$(DATA)" || { echo "DATA is missing: make bench-bigearthnet DATA=FOLDER, with BigEarthNet-S2 and metadata.parquet or metadata.csv in it" >&2; exit 2; }
	$(BIN)/python -m rsfed.lab.bench_bigearthnet --data "$(DATA)" $(OPTIONS)

bench-precision: $(DEV_READY) ## Count the bits that flip between precisions, runtimes, batch sizes and threads
	$(BIN)/python -m rsfed.lab.bench_precision

bench-query: $(READY) ## Time a warm query through the coordinator to three nodes
	$(BIN)/python -m rsfed.lab.bench_query

bench-defaults: $(READY) ## Try policy levels on archives of many kinds, and time private ranking; needs RSFED_TEST_DATA
	$(BIN)/python -m rsfed.lab.bench_defaults

bench-index: $(DEV_READY) ## Time the bucket index against faiss at 10 million codes (6 GiB); OPTIONS='--largest 100000000' for 100 million
	$(BIN)/python -m rsfed.lab.bench_index $(OPTIONS)

bench-ingest: $(READY) ## Time how archives are read
	$(BIN)/python -m rsfed.lab.bench_ingest $(OPTIONS)

bench-jp2: $(READY) ## Read and hash JPEG 2000 at reduced resolutions; needs RSFED_TEST_DATA, takes long; OPTIONS='--epochs 1' for a look
	$(BIN)/python -m rsfed.lab.bench_jp2 $(OPTIONS)

bench-memory: $(DEV_READY) ## Measure what memory a round of 11M parameters and 16 nodes needs, by strategy
	PYTHONPATH=tests/training $(BIN)/python tests/training/memory_of_a_round.py

bench-privacy: $(DEV_READY) ## Attack nodes at every policy level on real codes; needs RSFED_TEST_DATA
	PYTHONPATH=tests:tests/node:tests/privacy $(BIN)/python tests/privacy/bench_privacy.py

soak-training: $(READY) ## Train while nodes and the coordinator are killed at random, 20 times each; KILLS=1 for a look
	$(BIN)/python -m rsfed.lab.soak_training --kills $(or $(KILLS),20)

soak-index: $(READY) ## Kill a process in changes of an index of a million items, 100 times; KILLS=5 for a look
	$(BIN)/python -m rsfed.lab.soak_index --kills $(or $(KILLS),100)

soak-ingest: $(DEV_READY) ## Kill ingests while files come, change and go, 50 times; KILLS=5 for a look
	RSFED_KILLS=$(or $(KILLS),50) $(BIN)/python -m pytest tests/node/test_ingest_killed.py --timeout 3600 -s

soak-budgets: $(READY) ## Kill a process that charges what refine spends, 100 times; KILLS=5 for a look
	RSFED_KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/node/test_budgets.py -k killed --timeout 3600

soak-formats: $(DEV_READY) ## Read mutated files of every format in a process of limited memory, 2,000 of each; COUNT=50 for a look
	PYTHONPATH=tests/raster $(BIN)/python tests/raster/soak_formats.py --count $(or $(COUNT),2000)

clean: ## Remove what the targets made
	rm -rf $(VENV) demo bench build *.egg-info
