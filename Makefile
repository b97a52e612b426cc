# make demo [KEEP=1] | test | lint | bench | crash [KILLS=200] | restarts [RESTARTS=100] |
#      faults [SECONDS=20] | audit | fuzz | deb | rpm | packages-test

SHELL := /bin/bash
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

# To build: a C compiler for the bundled SQLite. To run: Postfix, what the demo looks at it with, and Python for what stands
# for Amazon's services.
BUILD_PACKAGES := gcc libc6-dev
RUN_PACKAGES := postfix swaks systemd procps ca-certificates python3 python3-venv
# What only tests look at it with, Prometheus and a browser among them.
TEST_PACKAGES := pflogsumm miltertest faketime chromium chromium-driver prometheus binutils redis-server
# What makes the packages, and what looks at them.
PACKAGE_PACKAGES := binutils dpkg-dev rpm checkpolicy semodule-utils
PACKAGE_TEST_PACKAGES := lintian debootstrap systemd-container

# Postfix must be started by root. Built as whoever calls, run by sudo.
ifneq ($(shell id -u),0)
AS_ROOT := sudo --preserve-env=KEEP,TMPDIR,CARGO_TARGET_DIR,GATEPOST_KILLS,GATEPOST_RESTARTS,GATEPOST_FAULT_SECONDS,GATEPOST_MIRROR
RUNNER := --config "target.'cfg(unix)'.runner = '$(AS_ROOT)'"
endif

PACKAGES_DIR := $(CARGO_TARGET_DIR)/packages

.PHONY: demo test lint bench crash restarts faults audit fuzz deb rpm packages-test release packages test-packages package-packages venv

demo: packages
	cargo build --locked
	$(AS_ROOT) demo/run "$(CARGO_TARGET_DIR)/debug/gatepost"

test: test-packages venv
	cargo build --locked --all-targets
	cargo test --locked $(RUNNER)
	cargo test --locked $(RUNNER) --bench policy --bench milter --bench events --bench trace --bench report --bench fleet --bench fleet_sync

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

bench: test-packages venv
	benches/run

# kill -9 at random moments under event load.
KILLS ?= 200
crash: packages
	GATEPOST_KILLS=$(KILLS) cargo test --locked $(RUNNER) --test it killed_at_random -- --nocapture

# Gatepost started anew under mail that smtp-source sends: what is lost, refused, unstamped.
RESTARTS ?= 100
restarts: packages
	GATEPOST_RESTARTS=$(RESTARTS) cargo test --locked $(RUNNER) --test it milter_restarts -- --nocapture

# Each thing that goes wrong with a fleet's store, while mail flows through three relays, with what it cost.
SECONDS ?= 20
faults: test-packages
	GATEPOST_FAULT_SECONDS=$(SECONDS) cargo test --locked $(RUNNER) --test it fleet_faults -- --nocapture --test-threads=1

# Licences, banned and doubled crates, where crates come from. Known holes (`cargo deny check advisories`) change
# without a change here, so they are looked at apart.
audit:
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check --hide-inclusion-graph licenses bans sources

fuzz:
	fuzz/run

# The packages, in $(CARGO_TARGET_DIR)/packages (packaging/README.md).
deb rpm: release package-packages
	@command -v cargo-$(MAKER_$@) >/dev/null || cargo install --locked cargo-$(MAKER_$@)
	rm -f "$(PACKAGES_DIR)"/*.$@
	packaging/build $@ "$(CARGO_TARGET_DIR)/release/gatepost"
MAKER_deb := deb
MAKER_rpm := generate-rpm

# Installs, upgrades, purges them, and makes a relay by docs/install-debian.md, on machines that it boots in a folder.
packages-test: deb rpm
	@.ci/packages $(PACKAGE_TEST_PACKAGES)
	$(AS_ROOT) packaging/test "$(PACKAGES_DIR)"/*.deb "$(PACKAGES_DIR)"/*.rpm

release: package-packages
	cargo build --locked --release --bin gatepost

package-packages:
	@.ci/packages $(BUILD_PACKAGES) $(PACKAGE_PACKAGES)

packages:
	@.ci/packages $(BUILD_PACKAGES) $(RUN_PACKAGES)

test-packages:
	@.ci/packages $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)

# Python with moto, boto3 and cfn-lint, in $(CARGO_TARGET_DIR)/venv.
venv: packages
	@.ci/venv
