//! The parent's first words to a worker.

use std::net::SocketAddr;

use crate::engine::resume::cursor::Node;
use crate::loops::kinds::HELLO;
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, VERSION, write_bytes, write_frame, write_number, write_option,
};

/// The most loops.
pub const LOOPS_MAX: usize = 64;

/// The bytes of a key of cursors.
const KEY_BYTES: usize = 16;

/// Everything that a worker cannot find in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The worker's number among the loops, from 0 on.
    pub number: usize,
    /// Workers that had this number before: their names are not used again.
    pub predecessors: u64,
    pub loops: usize,
    /// The worker's share of `clients_max` at the start, if that is set. The first words that the parent keeps have the whole.
    pub share: Option<usize>,
    /// The parent's name in cursors.
    pub node: Node,
    /// Signs cursors, if the settings have no key for that.
    pub cursor_key: Option<[u8; KEY_BYTES]>,
    /// Signs tokens, if the settings have no key.
    pub secret: Option<Vec<u8>>,
    /// The nonce of the page that publishes, if there is one.
    pub nonce: Option<String>,
    /// The ports of the parent, by their names.
    pub ports: Vec<(String, SocketAddr)>,
    /// Of the settings that all processes must have alike, as they are in the parent.
    pub fingerprint: u64,
    /// The worker takes the place of one of another parent.
    pub takes_over: bool,
}

impl Hello {
    pub fn write(&self, out: &mut Vec<u8>) {
        write_frame(out, HELLO, |out| {
            write_number(out, VERSION.into());
            write_number(out, self.number as u64);
            write_number(out, self.predecessors);
            write_number(out, self.loops as u64);
            out.push(u8::from(self.share.is_some()));
            write_number(out, self.share.unwrap_or(0) as u64);
            write_number(out, self.node.number());
            write_option(out, self.cursor_key.as_ref().map(|key| &key[..]));
            write_option(out, self.secret.as_deref());
            write_option(out, self.nonce.as_ref().map(|nonce| nonce.as_bytes()));
            write_number(out, self.fingerprint);
            out.push(u8::from(self.takes_over));
            for (name, address) in &self.ports {
                write_bytes(out, name.as_bytes());
                write_bytes(out, address.to_string().as_bytes());
            }
        });
    }

    /// # Errors
    /// The frame is malformed, or of another version.
    pub fn read(frame: LinkFrame<'_>) -> Result<Hello, MalformedLink> {
        let mut fields = Fields::of(frame.body);
        if frame.kind != HELLO || fields.number()? != u64::from(VERSION) {
            return Err(MalformedLink);
        }
        let number = fields.number_below(LOOPS_MAX)?;
        let predecessors = fields.number()?;
        let loops = fields.number_below(LOOPS_MAX + 1)?;
        let (is_lent, share) = (fields.truth()?, fields.number()? as usize);
        let node = Node::of_number(fields.number()?);
        let key = fields.option()?;
        let cursor_key = key.map(<[u8; KEY_BYTES]>::try_from).transpose();
        let cursor_key = cursor_key.map_err(|_| MalformedLink)?;
        let secret = fields.option()?.map(<[u8]>::to_vec);
        let nonce = fields.option()?.map(|nonce| String::from_utf8(nonce.to_vec())).transpose();
        let nonce = nonce.map_err(|_| MalformedLink)?;
        let (fingerprint, takes_over) = (fields.number()?, fields.truth()?);
        let mut ports = Vec::new();
        while !fields.is_empty() {
            let name = fields.text()?.to_owned();
            ports.push((name, fields.text()?.parse().map_err(|_| MalformedLink)?));
        }
        if number >= loops {
            return Err(MalformedLink);
        }
        Ok(Hello {
            number,
            predecessors,
            loops,
            share: is_lent.then_some(share),
            node,
            cursor_key,
            secret,
            nonce,
            ports,
            fingerprint,
            takes_over,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loops::link::next_frame;

    #[test]
    fn the_first_words_come_back_and_no_others() {
        let hello = Hello {
            number: 1,
            predecessors: 3,
            loops: 2,
            share: Some(7),
            node: Node::new(1_700_000_000, u64::MAX),
            cursor_key: Some([7; KEY_BYTES]),
            secret: Some(vec![1; 32]),
            nonce: None,
            ports: vec![("publishers".into(), "127.0.0.1:6380".parse().unwrap())],
            fingerprint: 3,
            takes_over: true,
        };
        let mut wire = Vec::new();
        hello.write(&mut wire);
        let frame = next_frame(&mut &wire[..]).unwrap().expect("it is whole");
        assert_eq!(Hello::read(frame), Ok(hello));
        let body = frame.body.to_vec();
        for change in [(0, VERSION as u8 + 1), (8, 2), (24, 65), (24, 0)] {
            let mut body = body.clone();
            body[change.0] = change.1;
            assert_eq!(Hello::read(LinkFrame { body: &body, ..frame }), Err(MalformedLink));
        }
        assert_eq!(Hello::read(LinkFrame { kind: 2, ..frame }), Err(MalformedLink));
    }
}
