#!/usr/bin/env bash
# Counts the instructions of what benches/turn.rs makes, under callgrind, and fails when any takes over 10 % more than
# benches/instructions.txt says: time on a busy machine would not show it. With --write it writes that file anew.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS known=benches/instructions.txt
built=$(cargo bench --no-run --bench turn --features internals --locked 2>&1) || { echo "$built"; exit 1; }
bench=$(sed -nE 's|^ *Executable .*turn.*\((.*)\)$|\1|p' <<<"$built")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Of so many rounds of a subject, in all.
instructions() {
    valgrind --quiet --tool=callgrind --callgrind-out-file="$scratch/out" "$bench" "$1" "$2" >"$scratch/elements"
    sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$scratch/out" | head -1
}

counts=$(
    while read -r name _; do
        few=$(instructions "$name" 10) many=$(instructions "$name" 30)
        echo "$name $(((many - few) / 20 / $(<"$scratch/elements")))"
    done < <(grep -v '^#' "$known")
)
if [ "${1:-}" = --write ]; then
    { grep '^#' "$known"; echo "$counts"; } >"$scratch/new"
    cp "$scratch/new" "$known"
    exit
fi
# Less is no error, but the next one to lose it again should hear of it.
join <(sort "$known") <(sort <<<"$counts") | awk '
    /^#/ { next }
    { much = $3 > $2 * 1.1; little = $3 < $2 * 0.9; bad += much
      printf "%-20s %6d, was %6d%s\n", $1, $3, $2, much ? "  OVER 10 % MORE" : little ? "  less: --write it" : "" }
    END { exit bad > 0 }' \
    || { echo "instructions: if it is worth it, ci/instructions.sh --write"; exit 1; }
echo "instructions: ok in $((SECONDS - start)) s"
