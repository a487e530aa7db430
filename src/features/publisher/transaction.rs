//! Transactions: the commands between MULTI and EXEC, then their execution one after the other.

use crate::engine::redis::resp;
use crate::features::publisher::reply::{CommandResult, PortReply};
use crate::features::publisher::settings::PublisherBounds;
use crate::features::publisher::uncounted::UncountedReplies;

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
    pub replies: UncountedReplies,
}

impl Transaction {
    /// Drops all commands, because one was refused.
    pub fn abort(&mut self) {
        *self = Transaction { is_aborted: true, ..Transaction::default() };
    }

    /// Adds a command. Without room for it, EXEC will execute none.
    pub fn push(&mut self, command: &[u8], bounds: &PublisherBounds) -> CommandResult {
        let bytes_max = bounds.transaction_bytes_max;
        let count_max = bounds.transaction_commands_max;
        let is_full = self.count >= count_max || self.commands.len() + command.len() > bytes_max;
        if is_full && !self.is_aborted {
            self.abort();
            let text = format!(
                "ERR a transaction has at most {count_max} commands (transaction_commands_max) and \
                 {bytes_max} bytes (transaction_bytes_max)"
            );
            return Err(text.into());
        }
        if !self.is_aborted {
            self.commands.extend_from_slice(command);
            self.count += 1;
        }
        Ok(PortReply::Simple("QUEUED"))
    }

    /// Begins the execution.
    pub fn begin(&mut self) {
        resp::write_array(&mut self.replies.bytes, self.count);
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

    fn bounds(transaction_bytes_max: usize, transaction_commands_max: usize) -> PublisherBounds {
        PublisherBounds {
            transaction_bytes_max,
            transaction_commands_max,
            ..PublisherBounds::default()
        }
    }

    #[test]
    fn commands_come_back_as_they_went_in() {
        let words: [&[&[u8]]; 3] = [&[b"PUBLISH", b"a", b"\r\n*1"], &[b"PING"], &[b"ECHO", b""]];
        let commands = words.map(command);
        let mut transaction = Transaction::default();
        let bounds = bounds(1000, 3);
        assert!(commands.iter().all(|command| transaction.push(command, &bounds).is_ok()));
        assert!(!transaction.is_aborted, "nothing was refused");
        transaction.begin();
        for command in &commands {
            assert_eq!(transaction.next().as_ref(), Some(command));
        }
        assert_eq!(
            (transaction.next(), transaction.replies.bytes.as_slice()),
            (None, &b"*3\r\n"[..])
        );
    }

    #[test]
    fn above_its_bounds_nothing_is_held_nor_carried_out() {
        let ping = command(&[b"PING"]);
        for (bytes_max, count_max) in [(2 * ping.len(), 9), (1000, 2)] {
            let mut transaction = Transaction::default();
            let bounds = bounds(bytes_max, count_max);
            assert!(transaction.push(&ping, &bounds).is_ok());
            assert!(transaction.push(&ping, &bounds).is_ok());
            assert!(transaction.push(&ping, &bounds).is_err());
            assert!(transaction.push(&ping, &bounds).is_ok(), "the peer learned it once");
            assert_eq!(transaction.commands.capacity(), 0);
            assert!(transaction.is_aborted);
        }
    }
}
