#!/usr/bin/env bash
# Proves that the examples run: two nodes talk and end by themselves, and the echo node sends back what it gets.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
cargo build --locked --examples
examples="${CARGO_TARGET_DIR:-target}/debug/examples"

talk=$(timeout 60 "$examples/two_nodes")
echo "$talk"
grep -q 'says "hello yourself"' <<<"$talk"

exec 3< <(exec "$examples/echo" 127.0.0.1:0 2>&1) # its first line says where it listens
node=$!
trap 'kill "$node"' EXIT
read -r -t 60 line <&3
port=${line##*:}
answer=$(printf 'hello\n' | timeout 60 nc -N 127.0.0.1 "$port")
[ "$answer" = hello ]
echo "examples: ok in $((SECONDS - start)) s"
