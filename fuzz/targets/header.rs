//! Any eight bytes as a frame header.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringlink::fuzz::fuzz_header(data));
