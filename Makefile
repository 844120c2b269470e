# Backstay: build, proofs and measurements. `make help` lists the targets.
#
# Everything here works on a fresh Debian with nothing but Rust: what is missing is installed by
# scripts/install-deps.sh, as root or with sudo. CARGO_TARGET_DIR is respected.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
# Targets run after one another: two cargo processes would wait for each other.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# The lock file is part of the source: a build that would change it fails.
LOCKED := --locked

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: deps-build ## Build the release binary: target/release/backstay
	$(CARGO) build --release $(LOCKED)

.PHONY: demo
demo: deps-demo ## Back up, change, destroy, restore and verify real files, and show what was proved
	@scripts/demo.sh

.PHONY: test
test: deps-test ## Everything CI runs: format, lints, tests, documentation, licences, drift, the demo
	@scripts/test.sh

.PHONY: bench
bench: deps-bench ## Measure against tar|zstd, restic and borg (BENCH_FILES, BENCH_BYTES, BENCH_RUNS)
	@scripts/bench.sh $(BENCH_ARGS)

.PHONY: bench-postgres
bench-postgres: deps-bench ## Measure a PostgreSQL cluster against pgBackRest and pg_basebackup (BENCH_SCALE, BENCH_SEGMENTS)
	@scripts/bench-postgres.sh $(BENCH_ARGS)

.PHONY: bench-daemon
bench-daemon: deps-build ## Measure an idle daemon with 1,000 sources and 5,000 jobs
	@scripts/bench-daemon.sh $(BENCH_ARGS)

.PHONY: soak
soak: deps-test ## Kill thousands of processes, fuzz every reader, back up a million files (BACKSTAY_SOAK, BACKSTAY_FUZZ, SCALE_…)
	BACKSTAY_SOAK=$${BACKSTAY_SOAK:-5000} $(CARGO) test $(LOCKED) --test main soak:: -- --nocapture
	BACKSTAY_SOAK=1 BACKSTAY_CHAOS_SEEDS=1 $(CARGO) test $(LOCKED) --test main -- --nocapture --test-threads=2 chaos:: damage:: day:: schedule::
	BACKSTAY_FUZZ=$${BACKSTAY_FUZZ:-60} $(CARGO) test $(LOCKED) --test main fuzz:: -- --nocapture --test-threads=2
	BACKSTAY_LATENCY=1 $(CARGO) test $(LOCKED) --test main latency:: -- --nocapture
	@scripts/soak-scale.sh

.PHONY: test-compose
test-compose: deps-test ## Run the suite against the servers of docker-compose.test.yml (needs Docker)
	@scripts/test-compose.sh

.PHONY: docs
docs: deps-build ## Write the documents that are generated from the code again
	BACKSTAY_WRITE_DOCS=1 $(CARGO) test $(LOCKED) --quiet --test main docs::the_

.PHONY: fmt
fmt: ## Format the source
	$(CARGO) fmt

.PHONY: deps-build deps-test deps-demo deps-bench
deps-build deps-test deps-demo deps-bench: deps-%:
	@scripts/install-deps.sh $*
