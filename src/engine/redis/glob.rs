//! Redis' glob, as `PSUBSCRIBE` means it (`stringmatchlen` in its `util.c`).

/// Returns whether `pattern` matches all of `text`: `*`, `?`, `[abc]`, `[^a]`, `[a-z]`, and a backslash that takes the next byte literally.
///
/// Only the last star is ever reconsidered, since whatever an earlier one gives up the last one can take;
/// the cost is at most the product of both lengths, whatever the pattern.
/// (Redis 7.0 matches nothing but the empty pattern with an empty text, which is no channel of anyone's.)
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern_at, mut text_at) = (0, 0);
    // Behind the last star, and how far into the text it reaches for now.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(pattern_at) == Some(&b'*') {
            pattern_at += 1;
            star = Some((pattern_at, text_at));
            continue;
        }
        let Some(&byte) = text.get(text_at) else {
            return pattern_at == pattern.len();
        };
        if let Some(next) = match_one(pattern, pattern_at, byte) {
            (pattern_at, text_at) = (next, text_at + 1);
            continue;
        }
        let Some((behind, reach)) = star else {
            return false;
        };
        star = Some((behind, reach + 1));
        (pattern_at, text_at) = (behind, reach + 1);
    }
}

/// Returns whether `pattern` matches some text that begins with `prefix` and goes on.
pub fn reaches_beyond(pattern: &[u8], prefix: &[u8]) -> bool {
    let mut at = 0;
    for byte in prefix {
        if pattern.get(at) == Some(&b'*') {
            // It takes the rest of the prefix, and more.
            return true;
        }
        match match_one(pattern, at, *byte) {
            Some(next) => at = next,
            None => return false,
        }
    }
    at < pattern.len()
}

/// The pattern that takes this text alone. Nothing is escaped that need not be: an ACL names patterns letter by letter.
pub fn escaped(text: &str) -> String {
    let is_special = |letter: &char| "*?[\\".contains(*letter);
    text.chars()
        .flat_map(|letter| is_special(&letter).then_some('\\').into_iter().chain([letter]))
        .collect()
}

/// The place after the element at `at`, if that takes `byte`.
fn match_one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => match_class(pattern, at + 1, byte),
        b'\\' if at + 1 < pattern.len() => (pattern[at + 1] == byte).then_some(at + 2),
        literal => (literal == byte).then_some(at + 1),
    }
}

/// The rest of `[...]`. Redis takes a class that nobody closes as closed by the pattern's end.
fn match_class(pattern: &[u8], mut at: usize, byte: u8) -> Option<usize> {
    let is_negated = pattern.get(at) == Some(&b'^');
    at += usize::from(is_negated);
    let mut is_found = false;
    loop {
        match pattern[at.min(pattern.len())..] {
            [] => break,
            [b'\\', literal, ..] => {
                is_found |= literal == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [first, b'-', last, ..] => {
                is_found |= (first.min(last)..=first.max(last)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                is_found |= literal == byte;
                at += 1;
            }
        }
    }
    (is_found != is_negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    /// As the definition reads: a star takes nothing, or one byte and then the same again.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                model(&pattern[1..], text) || (!text.is_empty() && model(pattern, &text[1..]))
            }
            (Some(_), Some(&byte)) => match match_one(pattern, 0, byte) {
                Some(next) => model(&pattern[next..], &text[1..]),
                None => false,
            },
            _ => false,
        }
    }

    #[test]
    fn a_pattern_that_never_meets_the_prefix_is_found() {
        for (pattern, prefix, expected) in [
            ("pub.*", "pub.", true),
            ("*", "pub.", true),
            ("*.news", "pub.", true),
            ("p?b.n*", "pub.", true),
            ("pub.news", "pub.", true),
            ("[a-p]ub.x", "pub.", true),
            ("p\\ub.x", "pub.", true),
            ("news.*", "", true),
            ("news.*", "pub.", false),
            ("pub.", "pub.", false),
            ("pub", "pub.", false),
            ("pub*", "pub.", true),
            ("pu\\*", "pub.", false),
            ("", "", false),
        ] {
            let found = reaches_beyond(pattern.as_bytes(), prefix.as_bytes());
            assert_eq!(found, expected, "{pattern:?} and {prefix:?}");
        }
    }

    #[test]
    fn patterns_mean_what_redis_says() {
        for (pattern, text, expected) in [
            ("pub.*", "pub.news", true),
            ("pub.*", "pub.", true),
            ("pub.*", "pub", false),
            ("*", "anything", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a\\]]llo", "h]llo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("tail\\", "tail\\", true),
            ("open[ab", "opena", true),
            ("open[", "openx", false),
            ("open[^", "openx", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("", "", true),
            ("", "a", false),
        ] {
            let found = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(found, expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn an_escaped_text_takes_itself_alone() {
        assert_eq!(escaped("ctl-1]"), "ctl-1]", "an ACL that names the channel names the pattern");
        for seed in 1..5_000 {
            let mut random = Random::new(seed);
            let mut text = || -> String {
                (0..random.below(6)).map(|_| random.choose(b"ab*?[]^-\\") as char).collect()
            };
            let (text, other) = (text(), text());
            let pattern = escaped(&text);
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "seed {seed}");
            let takes_other = matches(pattern.as_bytes(), other.as_bytes());
            assert_eq!(takes_other, text == other, "seed {seed}");
        }
    }

    #[test]
    fn random_patterns_agree_with_the_definition() {
        for seed in 1..20_000 {
            let mut random = Random::new(seed);
            let mut text = |letters: &[u8], length_max| -> Vec<u8> {
                let length = random.below(length_max);
                (0..length).map(|_| random.choose(letters)).collect()
            };
            let (pattern, text) = (text(b"ab*?[]^-\\", 9), text(b"ab]-", 7));
            let found = matches(&pattern, &text);
            assert_eq!(found, model(&pattern, &text), "seed {seed}");
        }
    }

    #[test]
    fn no_pattern_explodes() {
        // A matcher that reconsiders every star would need longer than the universe has.
        let pattern = b"*a".repeat(64);
        assert!(!matches(&pattern, &[b"a".repeat(4096), b"b".to_vec()].concat()));
    }
}
