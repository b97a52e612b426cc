//! Fuzzes `gatepost_fuzz::milter`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::milter(data));
