#!/usr/bin/env bash
# Proves that ringlink can be compared with other libraries in one go: builds the peers, and runs both suites of them
# for a moment each, in which every contender must be there and verify every byte. It measures nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
cargo fmt --manifest-path peers/Cargo.toml --check
peers/build.sh
cargo build --release --locked --bin ringlink-bench
for suite in peers peers-msg; do
    timeout 120 "${CARGO_TARGET_DIR:-target}/release/ringlink-bench" compare "benches/suites/$suite.toml" \
        --blocks 1 -d 300ms -w 100ms --strict --quiet
done
echo "peers: ok in $((SECONDS - start)) s"
