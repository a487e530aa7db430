//! Transactions: the commands between MULTI and EXEC, then their execution one after the other.

use crate::engine::redis::resp;

/// The commands since MULTI, as they came, and the replies to them since EXEC, which go out together.
#[derive(Default)]
pub struct Transaction {
    commands: Vec<u8>,
    count: usize,
    /// A command was refused: EXEC executes none.
    pub is_aborted: bool,
    /// Bytes of `commands` that were executed.
    at: usize,
    /// The replies so far.
    pub replies: Vec<u8>,
}

impl Transaction {
    /// Drops all commands, because one was refused.
    pub fn abort(&mut self) {
        *self = Transaction { is_aborted: true, ..Transaction::default() };
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

    /// Begins the execution.
    pub fn begin(&mut self) {
        resp::write_array(&mut self.replies, self.count);
    }

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
        let mut transaction = Transaction::default();
        assert!(commands.iter().all(|command| transaction.push(command, 1000, 3)));
        assert!(!transaction.is_aborted, "nothing was refused");
        transaction.begin();
        for command in &commands {
            assert_eq!(transaction.next().as_ref(), Some(command));
        }
        assert_eq!((transaction.next(), transaction.replies.as_slice()), (None, &b"*3\r\n"[..]));
    }

    #[test]
    fn above_its_bounds_nothing_is_held_nor_carried_out() {
        let ping = command(&[b"PING"]);
        for (bytes_max, count_max) in [(2 * ping.len(), 9), (1000, 2)] {
            let mut transaction = Transaction::default();
            assert!(transaction.push(&ping, bytes_max, count_max));
            assert!(transaction.push(&ping, bytes_max, count_max));
            assert!(!transaction.push(&ping, bytes_max, count_max));
            assert!(transaction.push(&ping, bytes_max, count_max), "the peer learned it once");
            assert_eq!(transaction.commands.capacity(), 0);
            assert!(transaction.is_aborted);
        }
    }
}
