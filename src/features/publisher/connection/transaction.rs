//! Transactions: the commands that wait for EXEC, and their execution one after the other.

use crate::engine::redis::resp;

/// The commands since MULTI, as they came.
#[derive(Default)]
pub struct Queue {
    commands: Vec<u8>,
    count: usize,
    is_aborted: bool,
}

impl Queue {
    /// Drops all commands, because one was refused: EXEC will execute none.
    pub fn abort(&mut self) {
        *self = Queue { is_aborted: true, ..Queue::default() };
    }

    /// Adds a command; `false`: there is no room, and EXEC will execute none.
    pub fn push(&mut self, command: &[u8], bytes_max: usize, count_max: usize) -> bool {
        if self.is_aborted {
            return true;
        }
        if self.count >= count_max || self.commands.len() + command.len() > bytes_max {
            self.abort();
            return false;
        }
        self.commands.extend_from_slice(command);
        self.count += 1;
        true
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns the commands to be executed; `None`: one was refused.
    fn into_run(self) -> Option<TransactionRun> {
        if self.is_aborted {
            return None;
        }
        let mut answers = Vec::new();
        resp::write_array(&mut answers, self.count);
        Some(TransactionRun { commands: self.commands, at: 0, answers })
    }
}

/// Answers MULTI, EXEC or DISCARD, where `queue` is there since MULTI. Returns what EXEC executes, which is answered later.
pub fn transact(
    name: &str,
    queue: &mut Option<Box<Queue>>,
    output: &mut Vec<u8>,
) -> Option<TransactionRun> {
    if name == "MULTI" {
        match queue {
            Some(_) => resp::write_error(output, "ERR MULTI calls can not be nested"),
            None => {
                *queue = Some(Box::default());
                resp::write_simple(output, "OK");
            }
        }
        return None;
    }
    let Some(queue) = queue.take() else {
        resp::write_error(output, &format!("ERR {name} without MULTI"));
        return None;
    };
    if name == "DISCARD" {
        resp::write_simple(output, "OK");
        return None;
    }
    let run = queue.into_run();
    if run.is_none() {
        let text = "EXECABORT Transaction discarded because of previous errors.";
        resp::write_error(output, text);
    }
    run
}

/// The commands between EXEC and its answer, which goes out as a whole.
pub struct TransactionRun {
    commands: Vec<u8>,
    at: usize,
    /// The answer so far.
    pub answers: Vec<u8>,
}

impl TransactionRun {
    /// Returns the next command; `None`: that was the last one.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let rest = self.commands.get(self.at..).filter(|rest| !rest.is_empty())?;
        let mut bulks = resp::bulks(rest)?;
        bulks.by_ref().for_each(drop);
        let command = rest[..bulks.end()].to_vec();
        self.at += command.len();
        Some(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::redis::request::command;

    #[test]
    fn commands_come_back_as_they_went_in() {
        let words: [&[&[u8]]; 3] = [&[b"PUBLISH", b"a", b"\r\n*1"], &[b"PING"], &[b"ECHO", b""]];
        let commands = words.map(command);
        let mut queue = Queue::default();
        assert!(commands.iter().all(|command| queue.push(command, 1000, 3)));
        let mut run = queue.into_run().expect("nothing was refused");
        for command in &commands {
            assert_eq!(run.next().as_ref(), Some(command));
        }
        assert_eq!((run.next(), run.answers.as_slice()), (None, &b"*3\r\n"[..]));
    }

    #[test]
    fn above_its_bounds_nothing_is_held_nor_carried_out() {
        let ping = command(&[b"PING"]);
        for (bytes_max, count_max) in [(2 * ping.len(), 9), (1000, 2)] {
            let mut queue = Queue::default();
            assert!(queue.push(&ping, bytes_max, count_max));
            assert!(queue.push(&ping, bytes_max, count_max));
            assert!(!queue.push(&ping, bytes_max, count_max));
            assert!(queue.push(&ping, bytes_max, count_max), "it was told once");
            assert_eq!(queue.commands.capacity(), 0);
            assert!(queue.into_run().is_none());
        }
    }
}
