//! Fuzzes `gatepost_fuzz::rate`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::rate(data));
