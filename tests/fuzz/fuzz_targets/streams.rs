//! Replies of Redis to the stream reader and the command connection: pieces change nothing, and each request is answered once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneloop::engine::redis::command_connection::{CommandConnection, CommandEvent};
use oneloop::engine::redis::config::RedisConfig;
use oneloop::engine::redis::request::{RedisRequest, ReplyForm, Ticket, command};
use oneloop::engine::resume::cursor::EntryId;
use oneloop::features::streams::commands as stream_commands;
use oneloop::features::streams::reader::{StreamEvent, StreamReader};
use oneloop_fuzz::pieces;

/// Small, so that inputs reach it.
const PAYLOAD_BYTES_MAX: usize = 64;
/// Asked of the connection before anything is answered.
const REQUESTS: usize = 8;

fuzz_target!(|input: &[u8]| {
    // The first byte says how the connection is set up, the rest is what Redis sends.
    let Some((setup, input)) = input.split_first() else { return };
    let read = if setup & 1 << 4 != 0 { answer } else { read };
    let whole = read(*setup, &[input]);
    assert_eq!(whole, read(*setup, &pieces(input)));
});

fn config(setup: u8) -> RedisConfig {
    let is_set = |bit: u8| setup & 1 << bit != 0;
    let mut config = RedisConfig::from_url("redis://h").expect("it is a URL");
    config.server.password = is_set(0).then(|| "secret".to_owned());
    config.server.database = i64::from(is_set(1));
    let names = if is_set(2) { &["a", "b"][..] } else { &["a"][..] };
    config.streams = names.iter().map(|name| (*name).to_owned()).collect();
    config.payload_bytes_max = PAYLOAD_BYTES_MAX;
    config
}

/// Everything that the reader says.
fn read(setup: u8, pieces: &[&[u8]]) -> Vec<String> {
    let mut reader = StreamReader::new(config(setup), 0);
    let mut events = Vec::new();
    let mut last = [EntryId::ZERO; 2];
    reader.session.connecting(0);
    reader.session.connected(1);
    for piece in pieces {
        let mut input = *piece;
        // Time passes by what is said, so that pieces do not change it.
        loop {
            let event = match reader.next(&mut input, 2 + 200 * events.len() as u64) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(text) => {
                    events.push(format!("Failed({text:?})"));
                    break;
                }
            };
            let mut ends = None;
            match &event {
                StreamEvent::Entry { stream, id, message } => {
                    assert!(message.data().len() <= PAYLOAD_BYTES_MAX);
                    assert!(*id > last[*stream], "it comes twice, or out of order");
                    last[*stream] = *id;
                }
                StreamEvent::Earlier { stream, message, .. } => {
                    assert!(message.data().len() <= PAYLOAD_BYTES_MAX);
                    ends = (setup & 1 << 3 == 0).then_some(*stream);
                }
                StreamEvent::Begins { stream, covered_from }
                | StreamEvent::Lost { stream, covered_from } => {
                    last[*stream] = *covered_from;
                }
                _ => {}
            }
            events.push(format!("{event:?}"));
            if let Some(stream) = ends {
                reader.end_earlier(stream);
            }
        }
        let count = reader.session.output().len();
        reader.session.wrote(count);
    }
    let is_up = events.iter().any(|event| event == "Reading");
    assert!(!reader.is_reading() || is_up);
    assert_eq!(reader.down(3, 4), is_up);
    assert!(!reader.is_reading() && reader.session.output().is_empty());
    events
}

/// All events for these requests, and the number of lost ones.
fn answer(setup: u8, pieces: &[&[u8]]) -> Vec<String> {
    let mut connection = CommandConnection::new(config(setup), 0);
    let (mut events, mut answered) = (Vec::new(), 0);
    connection.session.connecting(0);
    connection.session.connected(1);
    for number in 0..REQUESTS {
        let ticket = Ticket::of_feature("fuzz", 0);
        let request = match number % 4 {
            3 => RedisRequest {
                command: stream_commands::page("a", EntryId::ZERO, EntryId::MAX, 64),
                ticket,
                form: ReplyForm::Page { stream: 0 },
            },
            2 => RedisRequest {
                command: stream_commands::info("a"),
                ticket,
                form: ReplyForm::StreamInfo { stream: 0 },
            },
            _ => RedisRequest { command: command(&[b"A"]), ticket, form: ReplyForm::Value },
        };
        assert!(connection.ask(request, 1), "it waits for the first attempt");
    }
    for piece in pieces {
        let mut input = *piece;
        loop {
            let event = match connection.next(&mut input, 2) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(text) => {
                    events.push(format!("Failed({text:?})"));
                    break;
                }
            };
            if let CommandEvent::Entry { message, .. } = &event {
                assert!(message.data().len() <= PAYLOAD_BYTES_MAX);
            }
            let ends = matches!(
                event,
                CommandEvent::Answer(..) | CommandEvent::PageEnd { .. } | CommandEvent::Info { .. }
            );
            answered += usize::from(ends);
            events.push(format!("{event:?}"));
        }
        let count = connection.session.output().len();
        connection.session.wrote(count);
    }
    connection.down(3, 4);
    let lost = std::iter::from_fn(|| connection.next_lost()).count();
    assert_eq!(answered + lost, REQUESTS);
    assert!(connection.is_settled() && connection.session.output().is_empty());
    events
}
