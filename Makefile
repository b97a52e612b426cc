# make demo [KEEP=1] | test | lint | bench | audit | fuzz

SHELL := /bin/bash
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

# To build: a C compiler for the bundled SQLite. To run: Postfix and what tests and demo look at it with.
BUILD_PACKAGES := gcc libc6-dev
RUN_PACKAGES := postfix swaks pflogsumm systemd ca-certificates

# Postfix must be started by root. Built as whoever calls, run by sudo.
ifneq ($(shell id -u),0)
AS_ROOT := sudo --preserve-env=KEEP,TMPDIR
RUNNER := --config "target.'cfg(unix)'.runner = '$(AS_ROOT)'"
endif

.PHONY: demo test lint bench audit fuzz packages

demo: packages
	cargo build --locked
	$(AS_ROOT) demo/run "$(CARGO_TARGET_DIR)/debug/gatepost"

test: packages
	cargo build --locked --all-targets
	cargo test --locked $(RUNNER)
	cargo test --locked $(RUNNER) --bench policy

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

bench: packages
	benches/run

# Licences, banned and doubled crates, where crates come from. Known holes (`cargo deny check advisories`) change
# without a change here, so they are looked at apart.
audit:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check --hide-inclusion-graph licenses bans sources

fuzz:
	fuzz/run

packages:
	@.ci/packages $(BUILD_PACKAGES) $(RUN_PACKAGES)
