//! A seeded source of chance, for tests: what failed once fails again.

/// Xorshift (Marsaglia 2003).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// `bytes` in pieces of random sizes, in order.
    pub fn pieces<'a>(&mut self, mut bytes: &'a [u8], size_max: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at((1 + self.below(size_max)).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }

    /// Up to 19 of these pieces, one after the other.
    pub fn bytes(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        (0..self.below(20)).flat_map(|_| self.choose(pieces).to_vec()).collect()
    }
}
