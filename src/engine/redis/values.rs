//! Legal RESP values by chance, for tests.

use crate::engine::random::Random;

/// Appends any legal value, at most so deep.
pub fn write_value(random: &mut Random, depth: usize, out: &mut Vec<u8>) {
    let kinds: &[u8] = if depth == 0 { b"+-:_,#($=!" } else { b"+-:$$$=*~>%|" };
    let kind = random.choose(kinds);
    out.push(kind);
    match kind {
        b'$' | b'=' | b'!' => {
            let length = random.below(40);
            out.extend(format!("{length}\r\n").bytes());
            out.extend((0..length).map(|_| random.choose(b"ab\r\n*$1")));
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let count = random.below(4);
            out.extend(format!("{count}\r\n").bytes());
            let per_element = 1 + usize::from(kind == b'%' || kind == b'|');
            for _ in 0..count * per_element + usize::from(kind == b'|') {
                write_value(random, depth - 1, out);
            }
            return;
        }
        _ => out.extend(format!("{}", random.below(1000)).bytes()),
    }
    out.extend(b"\r\n");
}
