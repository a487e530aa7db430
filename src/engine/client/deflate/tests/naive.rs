//! A decompressor as RFC 1951 describes it, which reads bit by bit.

/// Base lengths and extra bits of the length codes (section 3.2.5), and those of the distance codes.
const LENGTHS: [(usize, u32); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
const DISTANCES: [(usize, u32); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The order in which the lengths of code lengths stand (section 3.2.7).
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<usize> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(usize::from(bit))
    }

    fn number(&mut self, bits: u32) -> Option<usize> {
        (0..bits).try_fold(0, |number, place| Some(number | self.bit()? << place))
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    fn is_at_end(&self) -> bool {
        self.at == self.bytes.len() * 8
    }

    /// A symbol of the code with these lengths (section 3.2.2).
    fn symbol(&mut self, lengths: &[u8]) -> Option<usize> {
        let (mut code, mut first) = (0, 0);
        for length in 1..=15 {
            code |= self.bit()?;
            let of_length = lengths.iter().filter(|one| **one == length).count();
            if code < first + of_length {
                let mut symbols = lengths.iter().enumerate().filter(|one| *one.1 == length);
                return symbols.nth(code - first).map(|one| one.0);
            }
            first = (first + of_length) << 1;
            code <<= 1;
        }
        None
    }

    /// The lengths of the codes of a block (section 3.2.7).
    fn code_lengths(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let literals = self.number(5)? + 257;
        let distances = self.number(5)? + 1;
        let count = self.number(4)? + 4;
        let mut of_lengths = [0; 19];
        for place in &ORDER[..count] {
            of_lengths[*place] = self.number(3)? as u8;
        }
        let mut lengths: Vec<u8> = Vec::new();
        while lengths.len() < literals + distances {
            let (length, repeats) = match self.symbol(&of_lengths)? {
                16 => (*lengths.last()?, self.number(2)? + 3),
                17 => (0, self.number(3)? + 3),
                18 => (0, self.number(7)? + 11),
                length => (length as u8, 1),
            };
            lengths.extend(std::iter::repeat_n(length, repeats));
        }
        let of_distances = lengths.split_off(literals);
        (of_distances.len() == distances).then_some((lengths, of_distances))
    }
}

fn fixed() -> (Vec<u8>, Vec<u8>) {
    let literals = (0..288).map(|symbol| match symbol {
        0..144 => 8,
        144..256 => 9,
        256..280 => 7,
        _ => 8,
    });
    (literals.collect(), vec![5; 30])
}

/// Inflates a message without its tail; `None`: it is malformed, or longer than `bytes_max`.
pub fn inflate(message: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let bytes = [message, &[0, 0, 0xff, 0xff]].concat();
    let mut bits = Bits { bytes: &bytes, at: 0 };
    let mut output = Vec::new();
    while !bits.is_at_end() {
        let is_last = bits.bit()? == 1;
        match bits.number(2)? {
            0 => {
                bits.align();
                let (length, inverse) = (bits.number(16)?, bits.number(16)?);
                if length != !inverse & 0xffff {
                    return None;
                }
                for _ in 0..length {
                    output.push(bits.number(8)? as u8);
                }
            }
            1 => codes(&mut bits, &fixed(), &mut output, bytes_max)?,
            2 => {
                let lengths = bits.code_lengths()?;
                codes(&mut bits, &lengths, &mut output, bytes_max)?;
            }
            _ => return None,
        }
        if output.len() > bytes_max {
            return None;
        }
        if is_last {
            bits.align();
            if bits.at / 8 == message.len() {
                break;
            }
        }
    }
    Some(output)
}

/// Decodes a block with these codes, up to its end.
fn codes(
    bits: &mut Bits<'_>,
    (literals, distances): &(Vec<u8>, Vec<u8>),
    output: &mut Vec<u8>,
    bytes_max: usize,
) -> Option<()> {
    while output.len() <= bytes_max {
        match bits.symbol(literals)? {
            literal @ 0..256 => output.push(literal as u8),
            256 => return Some(()),
            symbol => {
                let (length, extra) = *LENGTHS.get(symbol - 257)?;
                let length = length + bits.number(extra)?;
                let (distance, extra) = *DISTANCES.get(bits.symbol(distances)?)?;
                let distance = distance + bits.number(extra)?;
                let start = output.len().checked_sub(distance)?;
                (start..start + length).for_each(|at| output.push(output[at]));
            }
        }
    }
    None
}
