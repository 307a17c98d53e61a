# What people type. Everything else is cargo.
#
#   make demo        three hosts on this machine form a cluster and serve a stack; `make demo-down` takes it away
#   make test        all checks and tests; needs root, leaves nothing behind
#   make check       what needs no root and writes nothing but the build directory
#   make fix         formats, and fixes what can be fixed
#   make engines     Docker 27.5 and 29.1, from packages of Ubuntu, beside the 20.10, 26.1 and 28.5 of `make test`; some minutes
#   make planted     plants faults of every kind on hosts; doctor finds each, and what it prints mends it; some minutes
#   make boxes       two servers with systemd, ufw and firewalld in namespaces: unit, journal, firewalls, shutdown; some minutes
#   make hostile     attacks a small cluster for some minutes, as strangers and as a hostile member may
#   make overlap     1,000 changes on managers whose disks and links stall at random; a quarter of an hour
#   make chaos       the same for the replicated state alone, for some minutes
#   make bench       measures, beside Docker Swarm

SHELL := /bin/bash
LAB = $${CARGO_TARGET_DIR:-target}/debug/raftup-lab

TIMED = change:: faults:: lanes:: moves:: slow:: wire::
WAITING = moves::a_host_behind_a_nat wire::a_new_key

.PHONY: help setup setup-all build demo demo-down test check fmt clippy doc deny layering unit overlap lab planted engines boxes hostile fix chaos bench

help:
	@sed -n '3,13s/^# *//p' Makefile

setup:
	tests/setup.sh

setup-all:
	tests/setup.sh --all

build:
	cargo build --locked --workspace --bins

# The development build: it is there four times sooner than a release build, and fast enough.
demo: setup build
	tests/demo.sh

demo-down:
	$(LAB) --id demo down

test: setup-all build check unit lab

unit:
	cargo test --locked --workspace --lib --bins
	cargo test --locked -p raftup-daemon --test gossip_over_net --test helper_processes --test hostile_gossip
	cargo test --locked -p raftup-cli --test program
	cargo test --locked -p raftup-proto --test bad_input

# OVERLAP_SEED=7 repeats a run, OVERLAP_CHANGES=100 is a short one.
overlap:
	cargo test --locked -p raftup-daemon --lib -- --ignored --nocapture control::tests::overlap

# Suites with load and times have the machine to themselves; the others wait for containers most of the time, and two for
# minutes until a router or a peer forgets.
# ENGINE= runs the suites that are not about one kind on other engines: trixie (26.1), plucky (27.5), sid (28.5), resolute (29.1),
# nftables (29.1 with that backend), mixed (20.10 and 28.5).
lab: build
	RAFTUP_LAB_ENGINE=$(ENGINE) cargo test --locked --workspace --test it -- --test-threads 2 $(TIMED:%=--skip %)
	RAFTUP_LAB_ENGINE=$(ENGINE) cargo test --locked --workspace --test it -- --test-threads 1 $(TIMED) $(WAITING:%=--skip %)
	RAFTUP_LAB_ENGINE=$(ENGINE) cargo test --locked --workspace --test it -- --test-threads 2 $(WAITING)

engines: setup build
	cargo test --locked --workspace --test it -- --include-ignored --test-threads 1 engines::

# Every row is in the output, with the commands that were run.
planted: setup build
	cargo test --locked --workspace --test it -- --include-ignored --nocapture --test-threads 2 planted::

# Distributions with their own systemd and engine, set up as the tutorial says; the roots are made once, in two minutes each.
boxes: setup build
	tests/vm/boxes.sh bookworm
	tests/vm/boxes.sh trixie

# Strangers on 127.0.0.1 alone, then a hostile member in the lab. Ends by itself; the figures are in its output.
hostile: build
	cargo test --locked -p raftup-daemon --test hostile -- --ignored --nocapture
	HOSTILE_MESSAGES=100000 cargo test --locked --workspace --test it -- --nocapture hostile_member::a_

check: fmt clippy doc deny layering

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

deny:
	@command -v cargo-deny >/dev/null || { echo "check: cargo-deny is missing; tests/setup.sh --all installs it" >&2; exit 1; }
	cargo deny --locked check --hide-inclusion-graph licenses bans sources

layering:
	cargo test --locked --workspace --test it layering::

fix:
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

chaos:
	cargo test --locked -p raftup-daemon --lib chaos -- --ignored --nocapture

# Figures are of release builds; ARGS="--rounds 20", or names of measures: idle, begin, start, mesh, fabric, rules, faults,
# dns, lossless, plan.
bench: setup
	cargo build --locked --release --workspace --bins
	cargo bench --locked -p raftup-tests --bench bench -- $(ARGS)

# Records what Docker Compose 2.40 says of the loader's fixtures; COMPOSE=/path/to/docker-compose names the program.
.PHONY: goldens
COMPOSE ?= docker-compose
goldens:
	tests/compose-goldens.sh $(COMPOSE)
