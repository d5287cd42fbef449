#!/usr/bin/env bash
# Proves that no bytes make the protocol panic or break its limits, as far as a short coverage-guided search tells:
# each target of fuzz/ under libFuzzer from its seeds, for 10 s or as many as the first argument says.
# What makes one fail is kept in fuzz/artifacts; the same build run with that file as its argument repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
host=$(rustc -vV | sed -n 's/^host: //p')
# The flags of cargo-fuzz without a sanitizer (only driver/uring is unsafe, and no target reaches it): so the stable
# compiler will do, and the tool, which takes as long to build as the targets, is not needed. --target keeps the flags
# from build scripts.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/fuzz"
flags=(--cfg fuzzing -Cpasses=sancov-module)
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$flag")
done
cargo fmt --manifest-path fuzz/Cargo.toml --check
RUSTFLAGS="${RUSTFLAGS:-} ${flags[*]}" cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host"

for target in header hello link; do
    found=$CARGO_TARGET_DIR/found/$target artifacts=fuzz/artifacts/$target
    mkdir -p "$found" "$artifacts"
    output=$(timeout "$((${1:-10} + 60))" "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="${1:-10}" -timeout=5 \
        -rss_limit_mb=512 -artifact_prefix="$artifacts/" "$found" "fuzz/corpus/$target" 2>&1) \
        || { tail -40 <<<"$output"; echo "fuzz: $target failed"; exit 1; }
    grep -E 'INITED|DONE' <<<"$output" | sed "s/^/fuzz: $target: /"
    runs=$(sed -nE 's/^#([0-9]+)\tDONE.*/\1/p' <<<"$output")
    [ "${runs:-0}" -ge 1000 ] || { echo "fuzz: $target ran only ${runs:-0} inputs"; exit 1; }
done
echo "fuzz: ok in $((SECONDS - start)) s"
