# kubeedge-rs. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-down build release deb test fuzz storm test-stack lint bench bench-mqtt bench-devices bench-identity bench-watched bench-fleet bench-footprint soak pictures console-pictures clean

# RocksDB is compiled once per machine and shared by all builds (deploy/rocksdb.sh).
ROCKSDB = export ROCKSDB_STATIC=1 ROCKSDB_LIB_DIR="$$(deploy/rocksdb.sh)";

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: build ## cloudcore, an edge node on a private containerd, a pod, devices; says what to try next
	@deploy/tools.sh run
	@deploy/demo/up.sh

demo-down: ## stops the demo and removes what it made
	@deploy/demo/down.sh

build: ## release binaries in target/release
	@deploy/tools.sh build
	@$(ROCKSDB) cargo build --release --locked --bins

release: build ## dist/*.tar.gz: programs, configuration, units, boards, rules, checksums, bill of materials
	@deploy/tools.sh release
	@deploy/release.sh

deb: build ## dist/*.deb: the Debian package
	@deploy/tools.sh release
	@deploy/deb.sh

test: ## installs what is missing and runs every test
	@deploy/tools.sh test
	@$(ROCKSDB) KUBECTL="$$(deploy/tools.sh kubectl)" tests/run.sh -- --test-threads 4
	@$(ROCKSDB) fuzz/build.sh --quiet && fuzz/run.sh 2

fuzz: ## every decoder under libFuzzer, SECS=60 each; TARGET=frame takes one; what is worth trying stays in $KUBEEDGE_CACHE
	@deploy/tools.sh build
	@$(ROCKSDB) fuzz/build.sh
	@KUBEEDGE_FUZZ_CORPUS="$${KUBEEDGE_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/kubeedge-rs}/fuzz" fuzz/run.sh $(or $(SECS),60) $(TARGET)

storm: ## storms of the seeds 1 to SEEDS (20), AT_ONCE (2) at a time; KUBEEDGE_STORM_SEED=n plays one (docs/STORM.md)
	@deploy/tools.sh test
	@$(ROCKSDB) KUBECTL="$$(deploy/tools.sh kubectl)" KUBEEDGE_STORM_SEEDS=$(or $(SEEDS),20) KUBEEDGE_STORM_AT_ONCE=$(or $(AT_ONCE),2) cargo test --locked --test it storm::storms_lose_and_double_nothing -- --nocapture

test-stack: ## the compose stack from build to `down -v`, an edge cut off, release and package (root; an hour the first time)
	@deploy/tools.sh stack
	@tests/stack/run.sh
	@$(MAKE) --no-print-directory release deb && tests/stack/release.sh && tests/stack/deb.sh

console-pictures: ## takes docs/console/*.png anew, from real programs in Chromium
	@deploy/tools.sh test
	@$(ROCKSDB) KUBECTL="$$(deploy/tools.sh kubectl)" KUBEEDGE_SCREENSHOTS="$(CURDIR)/docs/console" cargo test --locked --test it console_browser::pictures

lint: ## formatting, clippy
	@deploy/tools.sh build
	@cargo fmt --check
	@$(ROCKSDB) cargo clippy --locked --all-targets -- -D warnings

bench: ## what the main job costs, as the table of BENCHMARKS.md (about 7 minutes, quiet machine)
	@deploy/tools.sh build
	@deploy/tools.sh run
	@$(ROCKSDB) cargo bench --locked --bench main_job

bench-mqtt: ## the internal broker beside Debian's Mosquitto (about 20 minutes, quiet machine); ARGS='--help'
	@deploy/tools.sh build
	@deploy/tools.sh bench
	@$(ROCKSDB) cargo bench --locked --bench broker -- $(ARGS)

bench-devices: ## from MQTT to DeviceStatus and back, and 1,000 devices (about 5 minutes, quiet machine)
	@deploy/tools.sh build
	@deploy/tools.sh run
	@$(ROCKSDB) cargo bench --locked --bench devices

bench-identity: ## identities per second and what their streams cost (about 1 minute, quiet machine)
	@deploy/tools.sh build
	@$(ROCKSDB) cargo bench --locked --bench identity

bench-watched: ## what scraping and open consoles cost, the console's first load (about 5 minutes, quiet machine)
	@deploy/tools.sh build
	@deploy/tools.sh run
	@$(ROCKSDB) cargo bench --locked --bench watched

bench-fleet: ## 1,000 simulated edges: memory and CPU of cloudcore per node, all back after a kill (about 9 minutes); ARGS='--nodes 200'
	@deploy/tools.sh build
	@$(ROCKSDB) cargo bench --locked --bench fleet -- $(ARGS)

bench-footprint: ## what both programs take when nothing happens, and of what it consists (about 4 minutes, quiet machine)
	@deploy/tools.sh build
	@deploy/tools.sh run
	@$(ROCKSDB) KUBECTL="$$(deploy/tools.sh kubectl)" cargo bench --locked --bench footprint

soak: ## an hour and a half of churn, what memory does in the last hour, docs/soak.svg (root); MINUTES=90
	@deploy/tools.sh build
	@deploy/tools.sh run
	@$(ROCKSDB) KUBECTL="$$(deploy/tools.sh kubectl)" cargo bench --locked --bench soak -- --minutes $(or $(MINUTES),90) --picture docs/soak.svg

pictures: build ## takes docs/boards/*.png anew, from a demo of their own (about 12 minutes, root)
	@deploy/tools.sh pictures
	@tests/boards/pictures.sh

clean: ## build output
	@cargo clean
