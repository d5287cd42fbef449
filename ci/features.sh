#!/usr/bin/env bash
# Proves that the library builds alone, and the node binary without the load tester and the second driver.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
cargo check --locked --lib --no-default-features
cargo check --locked --bin ringlink --no-default-features --features cli
echo "features: ok in $((SECONDS - start)) s"
