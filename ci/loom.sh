#!/usr/bin/env bash
# Proves that no command of another thread gets lost: the mailbox under loom, in every order the memory model allows.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
# A target folder of its own, since the flag has everything built anew; --lib and no default features, since other crates change
# under the flag too.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" RUSTFLAGS="${RUSTFLAGS:-} --cfg loom"
output=$(cargo test --release --locked --lib --no-default-features loom_) || { echo "$output"; exit 1; }
echo "$output"
grep -qE '^test result: ok\. [1-9]' <<<"$output" || { echo "loom: no test was run"; exit 1; }
echo "loom: ok in $((SECONDS - start)) s"
