//! A checkpoint that may be anything.

#![no_main]

#[path = "../../crates/checkpoint/tests/images/mod.rs"]
mod images;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    images::any_file(data);
});
