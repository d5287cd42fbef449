//! A script of received bytes, time and outputs for a whole link.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringlink::fuzz::fuzz_link(data));
