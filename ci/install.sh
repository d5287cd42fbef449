#!/usr/bin/env bash
# Installs the system tools that tests against the real kernel use, and the libraries of C that ringlink is compared with,
# where they are missing (Debian, Ubuntu).
set -euo pipefail
start=$SECONDS
missing=()
for entry in c++:g++ ip:iproute2 nft:nftables nc:netcat-openbsd valgrind:valgrind pkg-config:pkg-config; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
done
for entry in libevent_core:libevent-dev libzmq:libzmq3-dev; do
    pkg-config --exists "${entry%%:*}" 2>/dev/null || missing+=("${entry#*:}")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "install: nothing is missing"
    exit
fi
root=()
[ "$(id -u)" -eq 0 ] || root=(sudo -n)
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${root[@]}" apt-get -q update && "${root[@]}" apt-get -qy --no-install-recommends install "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null; then
    tail -20 "$log"
    echo "install: could not install ${missing[*]}"
    exit 1
fi
echo "install: installed ${missing[*]} in $((SECONDS - start)) s"
