//! A checkpoint in which some bytes are others.

#![no_main]

#[path = "../../crates/checkpoint/tests/images/mod.rs"]
mod images;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    images::patched_file(data);
});
