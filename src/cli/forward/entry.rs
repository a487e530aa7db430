//! An entry of a stream, as the JSON object that oneloop publishes on a channel in its place.

use data_encoding::BASE64;

use crate::json;

/// Fields of oneloop's streams that are JSON already: messages of clients, and numbers.
const JSON_FIELDS: [&[u8]; 3] = [b"data", b"at", b"users"];

/// An entry.
pub(super) struct StreamEntry {
    pub(super) id: String,
    /// Names and values in turn.
    words: Vec<Vec<u8>>,
}

impl StreamEntry {
    /// Takes the one entry of a reply to XREADGROUP: the stream, the id and the fields. `None` if there is none.
    pub(super) fn of_reply(words: Vec<Vec<u8>>) -> Option<StreamEntry> {
        let mut words = words.into_iter().skip(1);
        let id = String::from_utf8(words.next()?).ok()?;
        Some(StreamEntry { id, words: words.collect() })
    }

    /// Returns names and values in turn.
    pub(super) fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.words.iter().map(Vec::as_slice)
    }

    /// Returns the fields as a JSON object; `None` if the entry was deleted, so that its id alone is left. A value that is not UTF-8
    /// comes in base64, under its name with `64` behind it.
    pub(super) fn body(&self) -> Option<String> {
        let members = self.words.chunks_exact(2).map(|pair| {
            let name = String::from_utf8_lossy(&pair[0]);
            match std::str::from_utf8(&pair[1]) {
                Ok(text) if JSON_FIELDS.contains(&&*pair[0]) && json::is_whole(text) => {
                    format!("{}:{text}", json::encode(&name))
                }
                Ok(text) => format!("{}:{}", json::encode(&name), json::encode(&text)),
                Err(_) => {
                    let text = BASE64.encode(&pair[1]);
                    format!("{}:{}", json::encode(&format!("{name}64")), json::encode(&text))
                }
            }
        });
        let members: Vec<String> = members.collect();
        (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(words: &[&[u8]]) -> Option<String> {
        let words = words.iter().map(|word| word.to_vec()).collect();
        StreamEntry::of_reply(words).and_then(|entry| entry.body())
    }

    #[test]
    fn an_entry_is_the_object_of_a_channel() {
        let words: &[&[u8]] =
            &[b"up", b"1-0", b"sub", b"42", b"data", br#"{"a": [1]}"#, b"at", b"5"];
        assert_eq!(body(words).as_deref(), Some(r#"{"sub":"42","data":{"a": [1]},"at":5}"#));
        let words: &[&[u8]] =
            &[b"up", b"1-0", b"data", b"not \"JSON\"", b"x", b"\xff\xfe", b"at", b""];
        let expected = r#"{"data":"not \"JSON\"","x64":"//4=","at":""}"#;
        assert_eq!(body(words).as_deref(), Some(expected));
    }

    #[test]
    fn no_entry_and_a_deleted_one_have_no_body() {
        for words in [&[][..], &[&b"up"[..]], &[b"up", b"1-0"]] {
            assert_eq!(body(words), None);
        }
        assert!(StreamEntry::of_reply(vec![b"up".to_vec(), b"1-0".to_vec()]).is_some());
    }
}
