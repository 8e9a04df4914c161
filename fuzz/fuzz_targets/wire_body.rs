//! A message that is sound but for its body, which may be anything.

#![no_main]

#[path = "../../crates/wire/tests/messages/mod.rs"]
mod messages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = messages::any_body(data);
});
