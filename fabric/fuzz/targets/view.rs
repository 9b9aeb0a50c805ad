//! The fuzzer's way to `epicserver_fuzz::view`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    epicserver_fuzz::view(data);
});
