//! Numbers without a pattern, the same in every run (Marsaglia's xorshift).

/// Where it stands.
pub struct Chance(u64);

impl Chance {
    /// Another start brings other numbers.
    pub fn new(seed: u64) -> Chance {
        Chance(seed.max(1))
    }

    /// A number below this one, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
