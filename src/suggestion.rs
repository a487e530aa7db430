//! The nearest known name to one that does not exist.

/// Returns the end of a message: the nearest known name behind `mark`, or nothing if none is near.
pub(crate) fn suggestion(mark: &str, unknown: &str, known: impl Iterator<Item = String>) -> String {
    nearest(unknown, known).map_or(String::new(), |name| format!("; did you mean {mark}{name}?"))
}

fn nearest(unknown: &str, known: impl Iterator<Item = String>) -> Option<String> {
    // No known name is half as long: what is longer is no slip, and comparing it costs its length.
    if unknown.len() > 80 {
        return None;
    }
    let near = unknown.chars().count() / 3 + 1;
    known
        .map(|name| (distance(unknown, &name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= near)
        .map(|(_, name)| name)
}

/// Edits between two names; a name put into the wrong table, or outside its own, is one edit.
fn distance(a: &str, b: &str) -> usize {
    let misplaced = a.len().min(b.len()) >= 4 && (a.ends_with(b) || b.ends_with(a));
    if misplaced && a != b { 1 } else { edits(a, b) }
}

/// Levenshtein's distance, in characters, by one row of the usual table.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(unknown: &str) -> Option<String> {
        let known = ["listen", "head_seconds", "jwt.secret_file", "topics"];
        nearest(unknown, known.into_iter().map(str::to_owned))
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        assert_eq!(guess("lisen").as_deref(), Some("listen"));
        assert_eq!(guess("head_second").as_deref(), Some("head_seconds"));
        assert_eq!(guess("jwt.head_seconds").as_deref(), Some("head_seconds"));
        assert_eq!(guess("secret_file").as_deref(), Some("jwt.secret_file"));
        assert_eq!(guess("completely_different"), None);
        assert_eq!(guess(""), None);
        assert_eq!(guess(&"x".repeat(1 << 20)), None);
    }

    /// The definition, without a table.
    fn naive(a: &[u8], b: &[u8]) -> usize {
        match (a.split_last(), b.split_last()) {
            (None, _) => b.len(),
            (_, None) => a.len(),
            (Some((x, a_less)), Some((y, b_less))) => (naive(a_less, b_less) + usize::from(x != y))
                .min(naive(a_less, b) + 1)
                .min(naive(a, b_less) + 1),
        }
    }

    #[test]
    fn edits_agree_with_the_definition() {
        for seed in 1..400_u64 {
            let mut state = seed;
            let mut word = || -> String {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (0..state % 6).map(|i| if state >> (i + 8) & 1 == 0 { 'a' } else { 'b' }).collect()
            };
            let (a, b) = (word(), word());
            assert_eq!(edits(&a, &b), naive(a.as_bytes(), b.as_bytes()), "seed {seed}: {a} {b}");
        }
    }
}
