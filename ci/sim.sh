#!/usr/bin/env bash
# Proves that nodes on a simulated kernel keep their promises whatever it does: for 60 s, or as many as the first
# argument says, each seed another world, from the commit on; and that the simulator finds faults that are planted.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
cargo build --release --locked --example simulate
simulate="${CARGO_TARGET_DIR:-target}/release/examples/simulate"
base=$((16#$(git rev-parse --short=8 HEAD 2>/dev/null | head -c 8 || echo 0)))
echo "sim: seeds from $base on"
"$simulate" --base "$base" --seconds "${1:-60}"
"$simulate" --base "$base" --planted
echo "sim: ok in $((SECONDS - start)) s"
