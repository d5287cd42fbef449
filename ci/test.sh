#!/usr/bin/env bash
# Proves the whole tree, from a fresh clone: every stage is run, also after one failed; the last line counts them.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-2}" CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

passed=0 failed=0
stage() {
    local name=$1 start=$SECONDS outcome=passed
    shift
    echo "== $name: $*"
    if "$@" </dev/null; then passed=$((passed + 1)); else failed=$((failed + 1)) outcome=FAILED; fi
    echo "== $name: $outcome in $((SECONDS - start)) s"
}

stage install ci/install.sh
stage test cargo test --locked
stage tokio-uring env RINGLINK_TEST_DRIVER=tokio-uring cargo test --locked --test message --test cli --test many
stage mixed env RINGLINK_TEST_DRIVER=mixed cargo test --locked --test message
stage tiny env RINGLINK_TEST_PROFILE=tiny cargo test --locked --test message
stage format cargo fmt --all --check
stage clippy cargo clippy --all-targets --locked -- -D warnings
stage clippy cargo clippy --all-targets --features internals --locked -- -D warnings
stage features ci/features.sh
stage docs env RUSTDOCFLAGS=-Dwarnings cargo doc --lib --no-deps --document-private-items --locked
stage loom ci/loom.sh
stage fuzz ci/fuzz.sh
stage sim ci/sim.sh
stage bench cargo bench --bench link --bench turn --features internals --locked -- --test
stage instructions ci/instructions.sh
stage examples ci/examples.sh
stage demo timeout 600 cargo run --release --locked -- demo
stage selftest timeout 600 cargo run --release --locked --bin ringlink-bench -- selftest
stage peers ci/peers.sh
stage asan ci/asan.sh
stage soak ci/soak.sh --seconds 90
stage deps ci/deps.sh

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
