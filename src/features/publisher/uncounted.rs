//! Replies that wait for the number of receivers elsewhere, and all replies behind them.

use std::collections::VecDeque;

use crate::engine::redis::resp;
use crate::features::publisher::http::write_answer;

/// Above this many awaited counts of a connection, no further command is executed.
const COUNTS_MAX: usize = 4096;

/// The form of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountForm {
    Resp,
    /// An answer of HTTP, after which the connection may end.
    Http {
        is_last: bool,
    },
}

/// The place of a count among the bytes of replies.
struct AwaitedCount {
    /// The number under which the receivers elsewhere are counted.
    number: u64,
    /// Bytes of replies before it, with those that have gone.
    at: usize,
    /// The receivers that are known.
    here: usize,
    form: CountForm,
}

/// Replies in their order, some of them without the number that they consist of.
#[derive(Default)]
pub struct UncountedReplies {
    pub bytes: Vec<u8>,
    /// Bytes before them that have gone.
    gone: usize,
    counts: VecDeque<AwaitedCount>,
    /// The first counts that came.
    known: usize,
}

impl UncountedReplies {
    /// Returns whether no count is awaited.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.counts.len() > COUNTS_MAX
    }

    /// Leaves the place for a count.
    pub fn push(&mut self, number: u64, here: usize, form: CountForm) {
        let at = self.gone + self.bytes.len();
        self.counts.push_back(AwaitedCount { number, at, here, form });
    }

    /// Adds the replies of a transaction.
    pub fn append(&mut self, others: UncountedReplies) {
        let begin = self.gone + self.bytes.len();
        if self.known == self.counts.len() {
            self.known += others.known;
        }
        self.bytes.extend_from_slice(&others.bytes);
        let moved = others.counts.into_iter();
        self.counts.extend(moved.map(|count| AwaitedCount { at: count.at + begin, ..count }));
    }

    /// Takes note of a count. Counts come in order.
    pub fn on_counted(&mut self, number: u64, receivers: usize) {
        let unknown = self.counts.get_mut(self.known);
        if let Some(count) = unknown.filter(|count| count.number == number) {
            count.here += receivers;
            self.known += 1;
        }
    }

    /// Appends all replies before the first count that is not known.
    pub fn take_known(&mut self, output: &mut Vec<u8>) {
        let mut taken = 0;
        for count in self.counts.drain(..std::mem::take(&mut self.known)) {
            let at = count.at - self.gone;
            output.extend_from_slice(&self.bytes[taken..at]);
            taken = at;
            match count.form {
                CountForm::Resp => resp::write_integer(output, count.here as i64),
                CountForm::Http { is_last } => {
                    write_answer(output, 200, &count.here.to_string(), is_last);
                }
            }
        }
        let end = self.counts.front().map_or(self.bytes.len(), |count| count.at - self.gone);
        output.extend_from_slice(&self.bytes[taken..end]);
        self.bytes.drain(..end);
        self.gone += end;
        if self.bytes.is_empty() && self.counts.is_empty() {
            *self = UncountedReplies::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    #[test]
    fn replies_leave_in_their_order_and_none_before_its_count() {
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let (mut replies, mut output) = (UncountedReplies::default(), Vec::new());
            // The replies as text, and the number of the count that each waits for.
            let mut expected: Vec<(String, Option<u64>)> = Vec::new();
            let (mut next, mut counted) = (0, 0);
            for _ in 0..200 {
                match random.below(4) {
                    0 if !replies.is_empty() => {
                        replies.bytes.extend_from_slice(b"+x\r\n");
                        expected.push(("+x\r\n".into(), None));
                    }
                    1 | 2 => {
                        let here = random.below(3);
                        let elsewhere = next as usize % 7;
                        expected.push((format!(":{}\r\n", here + elsewhere), Some(next)));
                        if random.below(3) == 0 {
                            let mut others = UncountedReplies::default();
                            others.push(next, here, CountForm::Resp);
                            replies.append(others);
                        } else {
                            replies.push(next, here, CountForm::Resp);
                        }
                        next += 1;
                    }
                    _ if counted < next => {
                        replies.on_counted(counted, counted as usize % 7);
                        replies.on_counted(counted + 1000, 9);
                        counted += 1;
                        replies.take_known(&mut output);
                    }
                    _ => {}
                }
                let due = expected.iter().take_while(|one| one.1.is_none_or(|of| of < counted));
                let due: String = due.map(|one| one.0.as_str()).collect();
                let found = String::from_utf8(output.clone()).unwrap();
                assert_eq!(found, due, "seed {seed}");
            }
        }
    }
}
