//! `cargo fuzz run --sanitizer none read` in this folder's parent: whatever a file
//! holds, reading it gives a result or one sentence.
#![no_main]

mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::feed(data));
