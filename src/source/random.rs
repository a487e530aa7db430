//! A seeded source of chance for the tests of this directory.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Xorshift (Marsaglia 2003).
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

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

    /// Appends any legal value, at most so deep.
    pub fn write_resp(&mut self, depth: usize, out: &mut Vec<u8>) {
        let kinds: &[u8] = if depth == 0 { b"+-:_,#($=!" } else { b"+-:$$$=*~>%|" };
        let kind = self.choose(kinds);
        out.push(kind);
        match kind {
            b'$' | b'=' | b'!' => {
                let length = self.below(40);
                out.extend(format!("{length}\r\n").bytes());
                out.extend((0..length).map(|_| self.choose(b"ab\r\n*$1")));
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = self.below(4);
                out.extend(format!("{count}\r\n").bytes());
                let per_element = 1 + usize::from(kind == b'%' || kind == b'|');
                for _ in 0..count * per_element + usize::from(kind == b'|') {
                    self.write_resp(depth - 1, out);
                }
                return;
            }
            _ => out.extend(format!("{}", self.below(1000)).bytes()),
        }
        out.extend(b"\r\n");
    }
}
