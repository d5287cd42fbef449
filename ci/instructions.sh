#!/usr/bin/env bash
# Counts the instructions of what benches/turn.rs makes, under callgrind, and fails when any takes over 10 % more than
# benches/instructions.txt says: time on a busy machine would not show it. With --write it writes that file anew.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
export LC_ALL=C CARGO_TERM_COLOR=never
start=$SECONDS known=benches/instructions.txt scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
command -v valgrind >/dev/null || { echo "instructions: valgrind is missing; see ci/install.sh"; exit 1; }
built=$(cargo bench --no-run --bench turn --features internals --locked 2>&1) || { echo "$built"; exit 1; }
bench=$(sed -nE 's|^ *Executable .*turn.*\((.*)\)$|\1|p' <<<"$built")

# Of so many rounds of a subject, in all.
instructions() {
    valgrind --quiet --tool=callgrind --callgrind-out-file="$scratch/out.$2" "$bench" "$1" "$2" >"$scratch/elements"
    sed -nE 's/^(summary|totals): ([0-9]+).*/\2/p' "$scratch/out.$2" | head -1
}
grep '^#' "$known" >"$scratch/counts"
"$bench" --names >"$scratch/names"
while read -r name; do
    few=$(instructions "$name" 10)
    many=$(instructions "$name" 30)
    echo "$name $(((many - few) / 20 / $(<"$scratch/elements")))" >>"$scratch/counts"
done <"$scratch/names"
if [ "${1:-}" = --write ]; then cp "$scratch/counts" "$known"; exit; fi
# Less is no error, but the next one to lose it again should hear of it.
awk '/^#/ { next }
    NR == FNR { was[$1] = $2; next }
    { note = ""
      if ($2 < was[$1] * 0.9) note = "  less: --write it"
      if ($2 < 1 || $2 > was[$1] * 1.1) { note = "  OVER 10 % MORE"; bad = 1 }
      printf "%-20s %6d, was %6d%s\n", $1, $2, was[$1], note }
    END { exit bad }' "$known" "$scratch/counts" || { echo "if it is worth it: ci/instructions.sh --write"; exit 1; }
echo "instructions: ok in $((SECONDS - start)) s"
