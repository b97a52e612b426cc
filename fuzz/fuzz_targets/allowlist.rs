//! Fuzzes `gatepost_fuzz::allowlist`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::allowlist(data));
