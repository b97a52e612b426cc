//! Fuzzes `gatepost_fuzz::request_codec`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gatepost_fuzz::request_codec(data));
