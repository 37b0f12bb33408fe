//! Any octets for a session after its handshake. The check is the one of the property tests.

#![no_main]

#[allow(dead_code, reason = "each target uses one")]
#[path = "../../properties/checks.rs"]
mod checks;
#[path = "../../wire/mod.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| checks::check_client(octets));
