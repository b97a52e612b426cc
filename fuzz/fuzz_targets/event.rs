//! Fuzzes `gatepost_fuzz::event`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::event(data));
