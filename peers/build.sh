#!/usr/bin/env bash
# Builds the peers that ringlink is compared with into peers/build: those of Rust by peers/Cargo.lock, those of C with
# what is installed. What a library is missing for is left out and named, and the exit code is 1.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/peers"
mkdir -p peers/build
cargo build --release --locked --quiet --manifest-path peers/Cargo.toml
for name in monoio-echo compio-echo; do
    cp "$CARGO_TARGET_DIR/release/$name" peers/build/
    echo "peers: built $name"
done

left_out=0
# A program of C: its name, its source, the library, the package that brings its headers.
build() {
    if ! pkg-config --exists "$3"; then
        echo "peers: left out $1: no headers of $3; install $4 and pkg-config"
        rm -f "peers/build/$1"
        left_out=1
        return
    fi
    # shellcheck disable=SC2046 # flags are words
    cc -std=gnu11 -O2 -Wall -Wextra -o "peers/build/$1" "$2" $(pkg-config --cflags --libs "$3")
    echo "peers: built $1 on $3 $(pkg-config --modversion "$3")"
}
build libevent-echo peers/c/libevent_echo.c libevent_core libevent-dev
build zmq-messages peers/c/zmq_messages.c libzmq libzmq3-dev
exit $left_out
