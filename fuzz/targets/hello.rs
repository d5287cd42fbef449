//! Any payload of a hello.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringlink::fuzz::fuzz_hello(data));
