//! The comparison of passwords.

/// Compares passwords in a time that tells neither the first wrong byte nor the length of the right one.
pub fn is_same_password(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = usize::from(given.len() != expected.len());
    for (index, byte) in given.iter().enumerate() {
        let other = expected.get(index % expected.len().max(1)).unwrap_or(&0);
        difference |= std::hint::black_box(usize::from(byte ^ other));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_compared_whole() {
        for (given, expected, is_equal) in [
            ("secret", "secret", true),
            ("secre", "secret", false),
            ("secretsecret", "secret", false),
            ("", "secret", false),
            ("", "", true),
            ("a", "", false),
            ("secreT", "secret", false),
        ] {
            let is_same = is_same_password(given.as_bytes(), expected.as_bytes());
            assert_eq!(is_same, is_equal, "{given}");
        }
    }
}
