//! The output of a publisher's connection: its own replies, and messages that it shares with other subscribers.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::features::publisher::exchange::Body;
use crate::features::publisher::uncounted::UncountedReplies;

/// From this size on a message is shared; below it, copying costs less than a write of several parts.
const SHARED_BYTES_MIN: usize = 4096;

/// A tail of this many bytes is sealed. The rest of a tail is moved after a partial write, and so must stay small.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// Bytes for the socket, in their order. Empty, it holds no memory.
#[derive(Default)]
pub struct Output {
    sealed: VecDeque<Rc<[u8]>>,
    /// Unwritten bytes of `sealed`.
    sealed_bytes: usize,
    /// Written bytes of the first part of `sealed`.
    written: usize,
    /// The bytes behind them.
    pub tail: Vec<u8>,
    /// Replies from the first one on that waits for a count.
    uncounted: UncountedReplies,
    /// The bytes of messages, at most: all that were queued, and no more than there are.
    pub messages: usize,
}

impl Output {
    /// Returns whether there is nothing for the socket now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether replies wait for counts of receivers.
    pub fn awaits_counts(&self) -> bool {
        !self.uncounted.is_empty()
    }

    /// Returns whether it waits for as many as it may.
    pub fn awaits_most_counts(&self) -> bool {
        self.uncounted.is_full()
    }

    /// The place to write a reply to.
    pub fn reply(&mut self) -> &mut Vec<u8> {
        if self.awaits_counts() { &mut self.uncounted.bytes } else { &mut self.tail }
    }

    /// The place for replies that may wait for counts. [`Output::settle`] must follow.
    pub fn uncounted(&mut self) -> &mut UncountedReplies {
        &mut self.uncounted
    }

    /// Lets replies go that wait for no count any more.
    pub fn settle(&mut self) {
        self.uncounted.take_known(&mut self.tail);
    }

    pub fn len(&self) -> usize {
        self.sealed_bytes + self.tail.len()
    }

    /// Returns the bytes of replies, at least.
    pub fn replies(&self) -> usize {
        self.len() - self.messages + self.uncounted.bytes.len()
    }

    /// Adds a message, which begins with `first`.
    pub fn push(&mut self, first: u8, body: &Body) {
        self.tail.push(first);
        if body.len() < SHARED_BYTES_MIN {
            self.tail.extend_from_slice(body);
        }
        let is_shared = body.len() >= SHARED_BYTES_MIN;
        if is_shared || self.tail.len() > TAIL_BYTES_MAX {
            let tail = std::mem::take(&mut self.tail);
            self.seal(Rc::from(tail));
        }
        if is_shared {
            self.seal(Rc::clone(body));
        }
        self.messages += 1 + body.len();
    }

    fn seal(&mut self, part: Rc<[u8]>) {
        self.sealed_bytes += part.len();
        self.sealed.push_back(part);
    }

    /// Returns the bytes in their order, in parts.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let written = self.written;
        let sealed = self.sealed.iter().enumerate();
        let sealed =
            sealed.map(move |(index, part)| if index == 0 { &part[written..] } else { &part[..] });
        sealed.chain(Some(&self.tail[..])).filter(|part| !part.is_empty())
    }

    /// Removes the first `count` bytes, which the socket has taken.
    pub fn wrote(&mut self, mut count: usize) {
        while count > 0
            && let Some(first) = self.sealed.front()
        {
            let taken = count.min(first.len() - self.written);
            let is_whole = self.written + taken == first.len();
            (self.sealed_bytes, self.written) = (self.sealed_bytes - taken, self.written + taken);
            count -= taken;
            if is_whole {
                self.sealed.pop_front();
                self.written = 0;
            }
        }
        self.tail.drain(..count.min(self.tail.len()));
        self.messages = self.messages.min(self.len());
        if self.is_empty() && !self.awaits_counts() {
            *self = Output::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came() {
        for seed in 1..500 {
            let mut random = Random::new(seed);
            let (mut output, mut expected, mut left) = (Output::default(), vec![], vec![]);
            for _ in 0..60 {
                match random.below(3) {
                    0 => {
                        output.reply().extend_from_slice(b"answer");
                        expected.extend_from_slice(b"answer");
                    }
                    1 => {
                        let length = random.choose(&[1, 100, 4095, 4096, 40_000]);
                        let body: Body = (0..length).map(|_| random.next() as u8).collect();
                        output.push(b'>', &body);
                        expected.push(b'>');
                        expected.extend_from_slice(&body);
                    }
                    _ => {
                        let bytes: Vec<u8> = output.parts().flatten().copied().collect();
                        let count = random.below(bytes.len() + 1);
                        left.extend_from_slice(&bytes[..count]);
                        output.wrote(count);
                    }
                }
                assert_eq!(output.len(), expected.len() - left.len(), "seed {seed}");
                assert_eq!(output.parts().map(<[u8]>::len).sum::<usize>(), output.len());
            }
            left.extend(output.parts().flatten());
            assert_eq!(left, expected, "seed {seed}");
            output.wrote(output.len());
            assert_eq!((output.tail.capacity(), output.sealed.capacity()), (0, 0));
        }
    }
}
