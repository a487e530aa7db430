//! The header of a proxy: more bytes change no answer, and what is whole is as long as it says and no longer than it may be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneloop::engine::client::proxy_protocol::{HEADER_BYTES_MAX, Header, parse};

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    for end in 0..=input.len().min(HEADER_BYTES_MAX + 1) {
        let early = parse(&input[..end]);
        assert!(early == whole || early == Header::Partial, "{early:?} of {end}, then {whole:?}");
        if let Header::Whole { length, .. } = early {
            assert!(length <= end);
        }
    }
    match whole {
        Header::Whole { address, length } => {
            assert!((16..=HEADER_BYTES_MAX).contains(&length) && length <= input.len());
            assert!(address.is_none_or(|address| address.is_unspecified()) || length >= 28);
        }
        Header::Partial => assert!(input.len() < HEADER_BYTES_MAX),
        Header::Malformed => {}
    }
});
