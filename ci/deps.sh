#!/usr/bin/env bash
# Proves that every dependency built on Linux, those of peers/ included, has a licence we may use and comes from
# crates.io, and that the library does without the binaries' crates. By cargo and awk alone: cargo-deny takes longer to
# build than all of ringlink.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
allowed='MIT Apache-2.0 Apache-2.0_WITH_LLVM-exception BSD-2-Clause BSD-3-Clause ISC Unicode-3.0 Zlib 0BSD Unlicense'
banned='openssl-sys native-tls'                     # a C library to be installed first
binaries='anyhow clap hdrhistogram nix serde serde_json signal-hook toml tracing-subscriber' # not in the library: it has typed errors and no output

for manifest in Cargo.toml peers/Cargo.toml; do
    RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cargo tree --manifest-path "$manifest" --locked --edges normal,build,dev \
        --prefix none --no-dedupe --format '{l}|{p}'
done | sort -u | awk -F'|' -v allowed="$allowed" '
    BEGIN { n = split(allowed, list, " "); for (i = 1; i <= n; i++) { gsub("_", " ", list[i]); ok[list[i]] } }
    {   # Every part of an AND needs one allowed alternative.
        licence = $1; gsub(/[()]/, "", licence)
        parts = split(licence, part, / AND /); good = parts > 0
        for (i = 1; i <= parts; i++) {
            found = 0; n = split(part[i], choice, / OR |\//)
            for (j = 1; j <= n; j++) if (choice[j] in ok) found = 1
            if (!found) good = 0
        }
        if (!good) { print "licence not allowed: " $2 ": \"" $1 "\""; bad = 1 }
    }
    END { print NR " packages looked at"; exit bad || NR < 10 }'

if grep -h '^source = ' Cargo.lock peers/Cargo.lock | grep -v '"registry+https://github.com/rust-lang/crates.io-index"'; then
    echo "not from crates.io"; exit 1
fi
for name in $banned; do
    if grep -q "^name = \"$name\"$" Cargo.lock peers/Cargo.lock; then echo "banned: $name"; exit 1; fi
done
library=$(cargo tree --locked --no-default-features --edges normal --prefix none --format '{p}')
for name in $binaries; do
    if grep -q "^$name v" <<<"$library"; then echo "in the library: $name"; exit 1; fi
done
echo "deps: ok in $((SECONDS - start)) s"
