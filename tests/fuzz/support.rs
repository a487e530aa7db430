//! Support for the fuzz targets: the places at which an input is cut, and a client's side of a TLS connection.

/// The library's tests use the rest of it.
#[allow(dead_code)]
#[path = "../../src/engine/random.rs"]
mod random;

#[path = "../../src/engine/tls/tests/forger.rs"]
pub mod forger;

use random::Random;

/// The input in pieces, as a socket might deliver it. The places depend on the input alone, so that it remains plain protocol
/// and is cut the same way each time.
pub fn pieces(input: &[u8]) -> Vec<&[u8]> {
    // FNV-1a.
    let seed = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = Random::new(seed);
    let size_max = random.choose(&[1, 2, 5, 20, 200, 2000]);
    random.pieces(input, size_max)
}
