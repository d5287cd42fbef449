#!/usr/bin/env bash
# Proves that nobody touches memory that is not theirs, and that none is lost: AddressSanitizer and LeakSanitizer over the
# unit tests, a part of the tests on the real kernel, and 20 s of simulation. A receive buffer counts as not ours while
# the kernel has it.
set -euo pipefail
# Called again by cargo in place of the compiler, for this package alone: so nothing else is built anew, and no other
# package hears of unstable features.
[ $# -eq 0 ] || RUSTC_BOOTSTRAP=1 exec "$@" -Zsanitizer=address --cfg asan
cd "$(dirname "$0")/.."
start=$SECONDS
export RUSTC_WORKSPACE_WRAPPER="$PWD/ci/asan.sh"
built=$(cargo test --no-run --locked --lib --test node --test message --test kernel_faults 2>&1) \
    || { echo "$built"; exit 1; }
cargo build --quiet --locked --example simulate
echo "asan: built in $((SECONDS - start)) s"

part() {
    local output test=$1
    test=$(sed -nE "s|^ *Executable .*$test.*\((.*)\)$|\1|p" <<<"$built")
    shift
    output=$(timeout 300 "$test" "$@" 2>&1) || { tail -100 <<<"$output"; echo "asan: $test $* failed"; exit 1; }
    grep '^test result' <<<"$output"
    grep -qE '^test result: ok\. [1-9]' <<<"$output" || { echo "asan: no test was run"; exit 1; }
}
part src/lib.rs
part tests/node ::tiny
RINGLINK_TEST_PROFILE=tiny part tests/message exchange
part tests/kernel_faults ends::
"${CARGO_TARGET_DIR:-target}/debug/examples/simulate" --base "$(date +%s)" --seconds 20
echo "asan: ok in $((SECONDS - start)) s"
