//! The negotiation: a client's offers, and the answer to them (RFC 6455 section 9.1, RFC 7692 section 7.1).

/// The answer to the first acceptable offer. A server may ask for no context takeover by the client, even if that did not offer it.
const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The same for a client that names the largest window as a bound: accepting its offer takes an answer to that.
const ACCEPTED_WINDOW: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
     server_max_window_bits=15";

const NAME: &[u8] = b"permessage-deflate";

/// Returns the value of `Sec-WebSocket-Extensions` in the answer to the lines with that header; `None` if there is no offer of
/// permessage-deflate that can be accepted, or a line is malformed.
pub fn accept<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<&'static str> {
    let mut accepted = None;
    for line in lines {
        let mut scanner = ExtensionScanner(line);
        while scanner.skip_commas() {
            accepted = accepted.or(offer(&mut scanner)?);
            if !scanner.0.is_empty() && scanner.0[0] != b',' {
                return None;
            }
        }
    }
    accepted
}

/// Reads an extension and its parameters. Returns the answer to it, if it can be accepted; `None`: it is malformed.
fn offer(scanner: &mut ExtensionScanner<'_>) -> Option<Option<&'static str>> {
    let mut is_accepted = scanner.token()? == NAME;
    let mut seen: Vec<&[u8]> = Vec::new();
    let mut answer = ACCEPTED;
    while scanner.eat(b';') {
        let name = scanner.token()?;
        let value = if scanner.eat(b'=') { Some(scanner.value()?) } else { None };
        let is_good = match (name, value.as_deref()) {
            (b"server_no_context_takeover" | b"client_no_context_takeover", None) => true,
            (b"client_max_window_bits", None) => true,
            (b"client_max_window_bits", Some(bits)) => is_window(bits),
            // The window of the compressor cannot be smaller, and browsers do not ask for that.
            (b"server_max_window_bits", Some(b"15")) => {
                answer = ACCEPTED_WINDOW;
                true
            }
            _ => false,
        };
        is_accepted &= is_good && !seen.contains(&name);
        if is_accepted {
            // At most four names are known.
            seen.push(name);
        }
    }
    Some(is_accepted.then_some(answer))
}

/// Returns whether a value is a window's size: 8 to 15, without leading zeros.
fn is_window(bits: &[u8]) -> bool {
    matches!(bits, [b'8' | b'9'] | [b'1', b'0'..=b'5'])
}

/// The rest of a header's value.
struct ExtensionScanner<'a>(&'a [u8]);

impl<'a> ExtensionScanner<'a> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    /// Skips empty entries of the list. Returns whether another one follows.
    fn skip_commas(&mut self) -> bool {
        while self.eat(b',') {}
        !self.0.is_empty()
    }

    /// Takes this byte, and the space around it, if it is next.
    fn eat(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.0.first() == Some(&byte);
        if is_next {
            self.0 = &self.0[1..];
            self.skip_space();
        }
        is_next
    }

    /// A token (RFC 9110 section 5.6.2), and the space behind it.
    fn token(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        self.skip_space();
        (!token.is_empty()).then_some(token)
    }

    /// A token, or one in quotes (RFC 6455 section 9.1), in which characters may be escaped.
    fn value(&mut self) -> Option<Vec<u8>> {
        if self.0.first() != Some(&b'"') {
            return self.token().map(<[u8]>::to_vec);
        }
        let mut value = Vec::new();
        let mut bytes = self.0[1..].iter();
        loop {
            match bytes.next()? {
                b'"' => break,
                b'\\' => value.push(*bytes.next()?),
                byte => value.push(*byte),
            }
        }
        self.0 = bytes.as_slice();
        self.skip_space();
        (!value.is_empty() && value.iter().all(|byte| is_token_byte(*byte))).then_some(value)
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn answer(lines: &[&str]) -> Option<&'static str> {
        accept(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn each_offer_has_its_answer() {
        for (lines, expected) in [
            // Chromium, Firefox, `ws`, Python's websockets, gorilla.
            (&["permessage-deflate; client_max_window_bits"][..], Some(ACCEPTED)),
            (&["permessage-deflate"], Some(ACCEPTED)),
            (&["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"], None),
            (
                &["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
                Some(ACCEPTED),
            ),
            (&["permessage-deflate; client_max_window_bits=8"], Some(ACCEPTED)),
            (&["permessage-deflate;server_max_window_bits=15"], Some(ACCEPTED_WINDOW)),
            (&["permessage-deflate ; server_max_window_bits = \"15\""], Some(ACCEPTED_WINDOW)),
            (&["permessage-deflate; server_max_window_bits=\"1\\5\""], Some(ACCEPTED_WINDOW)),
            // The first that is acceptable counts, on whatever line.
            (
                &["permessage-deflate; server_max_window_bits=10, permessage-deflate"],
                Some(ACCEPTED),
            ),
            (&["x-other; a=b; c", "permessage-deflate"], Some(ACCEPTED)),
            (&[", ,permessage-deflate,, ", ""], Some(ACCEPTED)),
            (&[], None),
            (&[""], None),
            (&["x-webkit-deflate-frame"], None),
            // Unknown, repeated or wrong parameters.
            (&["permessage-deflate; unknown"], None),
            (&["permessage-deflate; client_max_window_bits; client_max_window_bits=9"], None),
            (&["permessage-deflate; server_no_context_takeover; server_no_context_takeover"], None),
            (&["permessage-deflate; server_no_context_takeover=1"], None),
            (&["permessage-deflate; client_max_window_bits=16"], None),
            (&["permessage-deflate; client_max_window_bits=7"], None),
            (&["permessage-deflate; client_max_window_bits=08"], None),
            (&["permessage-deflate; client_max_window_bits=+9"], None),
            (&["permessage-deflate; server_max_window_bits"], None),
            (&["permessage-deflate; server_max_window_bits=14"], None),
            (&["permessage-deflate; server_max_window_bits=015"], None),
            // Malformed: nothing is negotiated.
            (&["permessage-deflate, ;"], None),
            (&["permessage-deflate; client_max_window_bits="], None),
            (&["permessage-deflate; client_max_window_bits=\"9"], None),
            (&["permessage-deflate; client_max_window_bits=\"\""], None),
            (&["permessage-deflate client_max_window_bits"], None),
            (&["permessage-deflate", "@"], None),
            (&["permessage-deflate;"], None),
        ] {
            assert_eq!(answer(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn no_header_makes_it_panic_and_space_makes_no_difference() {
        let words = [
            "permessage-deflate",
            "client_max_window_bits",
            "server_max_window_bits",
            "=",
            ";",
            ",",
            "\"",
            "\\",
            "15",
            "8",
            " ",
            "\t",
            "server_no_context_takeover",
            "@",
            "x",
        ];
        let mut random = Random::new(0x7692);
        for _ in 0..200_000 {
            let length = random.below(12);
            let parts: Vec<&str> = (0..length).map(|_| random.choose(&words)).collect();
            let dense = answer(&[&parts.concat()]);
            if let Some(accepted) = dense {
                assert!(parts.contains(&"permessage-deflate"), "{parts:?}");
                let quoted = parts.iter().any(|part| matches!(*part, "\"" | "\\"));
                let merged = parts
                    .windows(2)
                    .any(|two| two.iter().all(|part| part.bytes().all(is_token_byte)));
                if !quoted && !merged {
                    assert_eq!(answer(&[&parts.join(" ")]), Some(accepted), "{parts:?}");
                }
            }
        }
    }
}
