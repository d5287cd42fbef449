#!/usr/bin/env bash
# Soaks a node in faults (examples/soak) for `--seconds N` or `--hours N`, 90 s by default, with faults and data by
# `--seed S`. The time series is in target/soak.csv. It fails at the first wrong byte, and when what the node holds grows.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=90 seed=$(date +%s)
while [ $# -ge 2 ]; do
    case $1 in
        --seconds) seconds=$2 ;;
        --hours) seconds=$(($2 * 3600)) ;;
        --seed) seed=$2 ;;
        *) break ;;
    esac
    shift 2
done
[ $# -eq 0 ] || { echo "usage: ci/soak.sh [--seconds N | --hours N] [--seed S]"; exit 2; }
cargo build --locked --bin ringlink --example soak # with debug assertions
target=${CARGO_TARGET_DIR:-target}
echo "soak: $seconds s from seed $seed"
"$target/debug/examples/soak" --seconds "$seconds" --seed "$seed" --csv "$target/soak.csv"
