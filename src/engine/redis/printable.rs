//! Words of a far end, made fit for a text of ours.

/// The most bytes of a far end's own words in a text of ours.
const QUOTE_BYTES_MAX: usize = 160;

/// Replaces bytes that a terminal might not print, and cuts the text.
pub fn printable(text: &str) -> String {
    let clean = |letter: char| {
        if (' '..='~').contains(&letter) { letter } else { '?' }
    };
    text.chars().take(QUOTE_BYTES_MAX).map(clean).collect()
}
