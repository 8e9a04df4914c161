//! A connection that brings any bytes.

#![no_main]

#[path = "../../crates/wire/tests/messages/mod.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    messages::any_stream(data);
});
