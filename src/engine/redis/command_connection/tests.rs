//! The command connection, driven by bytes and times.

use super::*;
use crate::engine::random::Random;
use crate::engine::redis::request::{PAGE_ENTRIES, TicketOwner, command};
use crate::features::streams::commands;
use crate::features::streams::simulated_streams::Streams;

const NOBODY: Ticket = Ticket { owner: TicketOwner::Feature("tests"), number: 0 };
const PING: &str = "*1\r\n$4\r\nPING\r\n";
const SET_NAME: &str = "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$17\r\noneloop-commander\r\n";

fn connection(url: &str) -> CommandConnection {
    CommandConnection::new(RedisConfig::from_url(url).expect("the URL is right"), 0)
}

fn ready() -> CommandConnection {
    let mut connection = connection("redis://h");
    connect(&mut connection, 0);
    assert_eq!(feed(&mut connection, "+OK\r\n+PONG\r\n", 0), ["Ready"]);
    take_output(&mut connection);
    connection
}

fn connect(connection: &mut CommandConnection, now: Millis) {
    assert!(connection.session.wants_connect(now));
    connection.session.connecting(now);
    connection.session.connected(now);
}

fn feed(connection: &mut CommandConnection, input: impl AsRef<[u8]>, now: Millis) -> Vec<String> {
    let mut input = input.as_ref();
    let mut events = Vec::new();
    while let Some(event) = connection.next(&mut input, now).transpose() {
        events.push(match event {
            Err(text) => text,
            Ok(CommandEvent::Answer(_, answer)) => format!("{answer:?}"),
            Ok(CommandEvent::Ready) => "Ready".to_owned(),
            Ok(CommandEvent::Entry { ticket, stream, id, message }) => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                let (topic, data) = (text(message.topic()), text(message.data()));
                format!("{} {stream} {id} {topic}={data}", ticket.number)
            }
            Ok(CommandEvent::Info { stream, info, refused }) => {
                assert_eq!(info.is_none(), refused.is_some());
                format!("{stream} holds {:?}{}", info, refused.unwrap_or_default())
            }
            Ok(CommandEvent::PageEnd { ticket, stream, end, refused }) => {
                let (entries, last) = (end.entries, end.last.unwrap_or(EntryId::ZERO));
                assert_eq!(end.is_available, refused.is_none());
                format!(
                    "{} {stream} end {entries} {last} {}",
                    ticket.number,
                    refused.unwrap_or_default()
                )
            }
        });
    }
    assert!(input.is_empty());
    events
}

fn take_output(connection: &mut CommandConnection) -> String {
    let output = String::from_utf8(connection.session.output().to_vec()).expect("it is text");
    connection.session.wrote(output.len());
    output
}

fn ask(connection: &mut CommandConnection, words: &[&str], now: Millis) -> bool {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let request = RedisRequest { command: command(&words), ticket: NOBODY, form: ReplyForm::Value };
    connection.ask(request, now)
}

fn lost(connection: &mut CommandConnection) -> usize {
    std::iter::from_fn(|| connection.next_lost()).count()
}

#[test]
fn it_is_greeted_in_resp2_with_what_the_url_names() {
    let auth = "*3\r\n$4\r\nAUTH\r\n$3\r\nbob\r\n$6\r\nsecret\r\n";
    let select = "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
    for (url, expected, answers) in [
        ("redis://h", [SET_NAME, PING].concat(), "+OK\r\n+PONG\r\n"),
        ("redis://h/3", [select, SET_NAME, PING].concat(), "+OK\r\n-NOPERM no\r\n+PONG\r\n"),
        (
            "redis://bob:secret@h/3",
            [auth, select, SET_NAME, PING].concat(),
            "+OK\r\n+OK\r\n+OK\r\n-MISCONF disk\r\n",
        ),
    ] {
        let mut connection = connection(url);
        connect(&mut connection, 0);
        assert_eq!(take_output(&mut connection), expected, "{url}");
        let (most, last) = answers.split_at(answers.len() - 1);
        assert_eq!(feed(&mut connection, most, 0), [""; 0], "{url}");
        assert!(!connection.session.is_ready(), "{url}");
        assert_eq!(feed(&mut connection, last, 0), ["Ready"], "{url}");
        assert!(connection.session.is_ready(), "{url}");
    }
}

#[test]
fn a_failed_greeting_says_what_to_do_and_no_secret() {
    for (answers, expected) in [
        ("-WRONGPASS invalid\r\n", "-WRONGPASS to AUTH: the user or the password"),
        ("+OK\r\n-ERR DB index is out of range\r\n", "-ERR to SELECT: expected it to be accepted"),
        ("+OK\r\n-NOPERM User bob has no\r\n", "-NOPERM to SELECT: the user in the URL may not"),
        ("+OK\r\n+OK\r\n-DENIED protected\r\n", "protected mode"),
        ("+OK\r\n+OK\r\n-NOAUTH Authentication\r\n", "it wants a password"),
        ("+OK\r\n+OK\r\n-ERR max number of clients reached\r\n", "raise maxclients"),
        ("+OK\r\n+OK\r\n+OK\r\n-LOADING Redis is loading\r\n", "into memory: wait"),
        ("+OK\r\n+OK\r\n+OK\r\n-NOPERM User bob\r\n", "+select +ping +client|setname"),
        ("HTTP/1.1 400 Bad Request\r\n", "not Redis answers at h:6379"),
        (":not a number\r\n", "something that is not Redis"),
    ] {
        let mut connection = connection("redis://bob:hunter2@h/99");
        connect(&mut connection, 0);
        let events = feed(&mut connection, answers, 0);
        assert_eq!(events.len(), 1, "{answers}: {events:?}");
        assert!(events[0].contains(expected), "{answers}: {}", events[0]);
        assert!(!events[0].contains("bob") && !events[0].contains("hunter2"), "{}", events[0]);
        assert!(!connection.down(0, 0), "{answers}: it was not ready");
    }
}

#[test]
fn each_request_is_answered_once_and_in_order_wherever_the_bytes_are_cut() {
    let answers = [
        (":7\r\n", "Integer(7)"),
        ("$2\r\nab\r\n", "Text([97, 98])"),
        ("+OK\r\n", "Text([79, 75])"),
        ("$-1\r\n", "Nothing"),
        ("*-1\r\n", "Nothing"),
        ("*2\r\n:1\r\n*0\r\n", "List([Integer(1), List([])])"),
        ("-ERR no such thing\r\n", "Refused(\"ERR no such thing\")"),
    ];
    for seed in 1..300 {
        let mut random = Random::new(seed);
        let mut connection = ready();
        let asked: Vec<(&str, &str)> = (0..20).map(|_| random.choose(&answers)).collect();
        for number in 0..asked.len() {
            assert!(ask(&mut connection, &["SET", "a", &number.to_string()], 0));
        }
        let input = asked.iter().map(|(bytes, _)| *bytes).collect::<String>();
        let most = random.choose(&[1, 3, 1000]);
        let mut events = Vec::new();
        for piece in random.pieces(input.as_bytes(), most) {
            events.extend(feed(&mut connection, piece, 0));
        }
        let expected: Vec<&str> = asked.iter().map(|(_, answer)| *answer).collect();
        assert_eq!(events, expected, "seed {seed}");
        assert!(connection.is_settled() && connection.unanswered_bytes == 0, "seed {seed}");
    }
}

#[test]
fn what_is_asked_before_the_first_attempt_ends_waits_for_it_and_later_for_nothing() {
    let mut connection = connection("redis://h");
    assert!(ask(&mut connection, &["A"], 0));
    connect(&mut connection, 0);
    assert!(ask(&mut connection, &["B"], 0));
    assert_eq!(take_output(&mut connection), [SET_NAME, PING].concat());
    assert_eq!(feed(&mut connection, "+OK\r\n+PONG\r\n", 0), ["Ready"]);
    assert_eq!(take_output(&mut connection), "*1\r\n$1\r\nA\r\n*1\r\n$1\r\nB\r\n");
    assert_eq!(feed(&mut connection, ":1\r\n:2\r\n", 0), ["Integer(1)", "Integer(2)"]);
    assert!(connection.down(0, 0));
    assert!(!ask(&mut connection, &["C"], 0), "there is no connection");
    assert_eq!(lost(&mut connection), 0);

    let mut connection = self::connection("redis://h");
    assert!(ask(&mut connection, &["A"], 0));
    assert!(!connection.down(0, 0), "the first attempt failed");
    assert_eq!(lost(&mut connection), 1);
    assert!(!ask(&mut connection, &["B"], 0));
    connect(&mut connection, 1000);
    assert_eq!(feed(&mut connection, "+OK\r\n+PONG\r\n", 1000), ["Ready"]);
    assert_eq!(take_output(&mut connection), [SET_NAME, PING].concat(), "A is not sent late");
    assert!(ask(&mut connection, &["C"], 1000));
}

#[test]
fn a_connection_that_breaks_loses_what_is_unanswered_and_nothing_else() {
    let mut connection = ready();
    (0..3).for_each(|_| assert!(ask(&mut connection, &["A"], 0)));
    assert_eq!(feed(&mut connection, ":1\r\n$5\r\nhal", 0), ["Integer(1)"]);
    assert!(connection.down(0, 0) && connection.has_lost() && !connection.is_settled());
    assert_eq!((lost(&mut connection), connection.has_lost()), (2, false));
    connect(&mut connection, 1000);
    assert_eq!(feed(&mut connection, "+OK\r\n+PONG\r\n", 1000), ["Ready"]);
    take_output(&mut connection);
    assert!(ask(&mut connection, &["B"], 1000));
    assert_eq!(feed(&mut connection, ":2\r\n", 1000), ["Integer(2)"]);
}

#[test]
fn above_either_bound_a_request_is_not_taken() {
    let mut connection = ready();
    let half = "x".repeat(REQUEST_BYTES_MAX / 2 - 100);
    assert!(ask(&mut connection, &["A", &half], 0) && ask(&mut connection, &["B", &half], 0));
    assert!(!ask(&mut connection, &["C", &"x".repeat(1000)], 0));
    assert_eq!(feed(&mut connection, ":1\r\n", 0), ["Integer(1)"]);
    assert!(ask(&mut connection, &["D", &"x".repeat(1000)], 0), "an answer makes room");

    let mut connection = ready();
    (0..REQUESTS_MAX).for_each(|_| assert!(ask(&mut connection, &["A"], 0)));
    assert!(!ask(&mut connection, &["B"], 0));
    assert_eq!(feed(&mut connection, ":1\r\n", 0), ["Integer(1)"]);
    assert!(ask(&mut connection, &["C"], 0) && !ask(&mut connection, &["D"], 0));
}

#[test]
fn an_answer_above_its_bound_is_not_held() {
    let mut connection = ready();
    (0..2).for_each(|_| assert!(ask(&mut connection, &["A"], 0)));
    let header = format!("${}\r\n", REPLY_BYTES_MAX + 1);
    assert_eq!(feed(&mut connection, header, 0), [""; 0]);
    assert_eq!(feed(&mut connection, "x".repeat(REPLY_BYTES_MAX + 1), 0), [""; 0]);
    let events = feed(&mut connection, "\r\n:2\r\n", 0);
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[0].contains("its answer is above 65536 bytes"), "{events:?}");
    assert_eq!(events[1], "Integer(2)");
}

#[test]
fn silence_is_asked_about_and_an_answer_that_does_not_come_ends_it() {
    let mut connection = ready();
    assert_eq!(connection.session.deadline(), Some(10_000));
    assert_eq!(connection.on_time(10_000), Ok(()));
    assert_eq!(take_output(&mut connection), PING);
    assert_eq!(connection.session.deadline(), Some(15_000));
    assert_eq!(feed(&mut connection, "+PONG\r\n", 12_000), [""; 0], "a PING is nobody's");
    assert_eq!(connection.session.deadline(), Some(22_000));
    ask(&mut connection, &["A"], 13_000);
    ask(&mut connection, &["B"], 14_000);
    assert_eq!(connection.session.deadline(), Some(18_000), "the first one counts");
    assert_eq!(feed(&mut connection, ":1\r\n", 17_000), ["Integer(1)"]);
    assert_eq!(connection.session.deadline(), Some(22_000), "life is a reason to wait");
    let Err(text) = connection.on_time(22_000) else { panic!("it is overdue") };
    assert!(text.contains("did not answer"), "{text}");
    assert!(connection.down(22_000, 0));
    assert_eq!(lost(&mut connection), 1);
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_connection() {
    let mut connection = ready();
    let events = feed(&mut connection, ":1\r\n:2\r\n", 0);
    assert!(events.len() == 1 && events[0].contains("to nothing that was asked"), "{events:?}");
}

#[test]
fn a_refusal_shows_no_user_and_no_password() {
    let mut connection = connection("redis://bob:hunter2@h");
    connect(&mut connection, 0);
    assert_eq!(feed(&mut connection, "+OK\r\n+OK\r\n+PONG\r\n", 0), ["Ready"]);
    for (error, expected) in [
        ("-NOPERM User bob has no permissions", "NOPERM the user in the URL may not do it"),
        ("-ERR unknown command for hunter2", "ERR"),
        ("-MISCONF the disk is full", "MISCONF the disk is full"),
    ] {
        ask(&mut connection, &["A"], 0);
        let events = feed(&mut connection, format!("{error}\r\n"), 0);
        assert!(events[0].contains(expected), "{events:?}");
        assert!(!events[0].contains("bob") && !events[0].contains("hunter2"), "{events:?}");
    }
}

/// A client, by its number alone.
fn page(connection: &mut CommandConnection, client: u32, from: u64, up_to: EntryId) {
    let from = EntryId { millis: from, number: 0 };
    let (number, form) = (u64::from(client), ReplyForm::Page { stream: 1 });
    let ticket = Ticket { number, ..NOBODY };
    let command = commands::page("more", from, up_to, PAGE_ENTRIES);
    assert!(connection.ask(RedisRequest { command, ticket, form }, 0));
}

#[test]
fn pages_come_entry_by_entry_between_other_answers_wherever_they_are_cut() {
    let mut redis = Streams::new(&["pub", "more"]);
    let large = "x".repeat(1001);
    (1..=130).for_each(|number| {
        let data = if number == 2 { &large } else { "y" };
        redis.all[1].say("t", data);
    });
    redis.all[1].add(&[b"topic", b"a"]);
    for seed in 1..60 {
        let mut random = Random::new(seed);
        let mut config = RedisConfig::from_url("redis://h").expect("the URL is right");
        config.payload_bytes_max = 1000;
        let mut connection = CommandConnection::new(config, 0);
        connect(&mut connection, 0);
        feed(&mut connection, "+OK\r\n+PONG\r\n", 0);
        take_output(&mut connection);
        let up_to = EntryId { millis: 4, number: 7 };
        assert!(ask(&mut connection, &["PING"], 0));
        page(&mut connection, 7, 0, EntryId::MAX);
        page(&mut connection, 8, 2, up_to);
        assert!(ask(&mut connection, &["PING"], 0));
        page(&mut connection, 9, 130, EntryId::MAX);
        let mut answers = Vec::new();
        redis.answer(take_output(&mut connection).as_bytes(), &mut answers);
        let most = random.choose(&[1, 9, 100, 100_000]);
        let mut events = Vec::new();
        for piece in random.pieces(&answers, most) {
            events.extend(feed(&mut connection, piece, 0));
        }
        let pong = format!("{:?}", Answer::Text(b"PONG".to_vec()));
        let mut expected = vec![pong.clone()];
        let whole = (1..=PAGE_ENTRIES).filter(|number| *number != 2);
        expected.extend(whole.map(|number| format!("7 1 {number}-0 t=y")));
        expected.push("7 1 end 128 128-0 ".to_owned());
        expected.extend(["8 1 3-0 t=y", "8 1 4-0 t=y", "8 1 end 3 4-0 "].map(str::to_owned));
        expected.push(pong);
        expected.extend(["9 1 130-0 t=y", "9 1 end 2 131-0 "].map(str::to_owned));
        assert_eq!(events, expected, "seed {seed}");
        assert!(connection.is_settled(), "seed {seed}");
        // The last entry is an event of its own, and no byte comes behind it.
        page(&mut connection, 10, 130, EntryId { millis: 130, number: 0 });
        let mut answer = Vec::new();
        redis.answer(take_output(&mut connection).as_bytes(), &mut answer);
        assert_eq!(feed(&mut connection, &answer, 0).len(), 2);
        assert_eq!(connection.session.deadline(), Some(10_000), "nothing is awaited");
    }
}

/// The content of the stream.
fn look(connection: &mut CommandConnection) {
    let command = commands::info("more");
    let request =
        RedisRequest { command, ticket: NOBODY, form: ReplyForm::StreamInfo { stream: 1 } };
    assert!(connection.ask(request, 0));
}

#[test]
fn a_page_tells_its_size_and_a_look_whether_the_stream_still_reaches_back() {
    let mut redis = Streams::new(&["more"]);
    (0..9).for_each(|number| _ = redis.all[0].say("t", &"y".repeat(number)));
    redis.all[0].entries.drain(..4);
    for (after, expected) in [(4, false), (5, true), (9, true)] {
        let mut connection = ready();
        page(&mut connection, 7, after, EntryId::MAX);
        look(&mut connection);
        let mut answers = Vec::new();
        redis.answer(take_output(&mut connection).as_bytes(), &mut answers);
        let (mut input, mut ends) = (&answers[..], Vec::new());
        let after = EntryId { millis: after, number: 0 };
        while let Some(event) = connection.next(&mut input, 0).expect("Redis is sound") {
            match event {
                CommandEvent::PageEnd { end, .. } => ends.push((end, None)),
                CommandEvent::Info { info, .. } => {
                    ends.last_mut().expect("the page came").1 = info;
                }
                _ => {}
            }
        }
        let [(end, extent)] = ends[..] else { panic!("{ends:?}") };
        assert_eq!(extent.expect("it was read").is_complete_after(after), expected, "{after}");
        assert_eq!(end.entries as u64, 10 - after.millis.max(5));
        assert_eq!(end.first == Some(after), expected, "{after}");
        // `*4 $5 topic $1 t $4 data $8 yyyyyyyy`
        assert_eq!((end.largest, end.bytes >= end.largest), (46, true));
    }
}

#[test]
fn a_look_that_is_refused_or_lost_is_reported() {
    let mut connection = ready();
    look(&mut connection);
    assert!(ask(&mut connection, &["A"], 0));
    let events = feed(&mut connection, "-NOPERM User bob\r\n:1\r\n", 0);
    assert!(events[0].starts_with("1 holds NoneNOPERM the user in"), "{events:?}");
    assert_eq!(events[1], "Integer(1)");
    look(&mut connection);
    assert_eq!(feed(&mut connection, "*2\r\n$6\r\nlength\r\n", 0), [""; 0]);
    connection.down(0, 0);
    let lost: Vec<_> = std::iter::from_fn(|| connection.next_lost()).map(|one| one.1).collect();
    assert!(matches!(lost[..], [ReplyForm::StreamInfo { stream: 1 }]), "{lost:?}");
    connect(&mut connection, 1000);
    assert_eq!(feed(&mut connection, "+OK\r\n+PONG\r\n", 1000), ["Ready"]);
    look(&mut connection);
    let events = feed(&mut connection, "-ERR no such key\r\n", 1000);
    assert!(events[0].starts_with("1 holds Some(StreamInfo"), "{events:?}");
}

#[test]
fn a_page_that_is_refused_or_lost_ends_all_the_same() {
    let mut connection = ready();
    page(&mut connection, 7, 0, EntryId::MAX);
    page(&mut connection, 8, 0, EntryId::MAX);
    page(&mut connection, 9, 0, EntryId::MAX);
    let wrong = "-WRONGTYPE no stream\r\n";
    assert_eq!(feed(&mut connection, wrong, 0), ["7 1 end 0 0-0 WRONGTYPE no stream"]);
    let events = feed(&mut connection, "-NOPERM User bob\r\n", 0);
    assert!(events.len() == 1 && events[0].starts_with("8 1 end 0 0-0 NOPERM the user in"));
    let entry =
        "*2\r\n*2\r\n$3\r\n1-0\r\n*4\r\n$5\r\ntopic\r\n$1\r\na\r\n$4\r\ndata\r\n$1\r\n1\r\n*2\r\n";
    assert_eq!(feed(&mut connection, entry, 0), ["9 1 1-0 a=1"]);
    connection.down(0, 0);
    let lost: Vec<_> = std::iter::from_fn(|| connection.next_lost()).map(|one| one.1).collect();
    assert!(matches!(lost[..], [ReplyForm::Page { stream: 1 }]), "{lost:?}");
    connect(&mut connection, 1000);
    assert_eq!(feed(&mut connection, "+OK\r\n+PONG\r\n", 1000), ["Ready"]);
    take_output(&mut connection);
    assert!(ask(&mut connection, &["A"], 1000));
    assert_eq!(feed(&mut connection, ":1\r\n", 1000), ["Integer(1)"], "nothing of it is left");
    page(&mut connection, 7, 0, EntryId::MAX);
    assert_eq!(feed(&mut connection, "*0\r\n", 1000), ["7 1 end 0 0-0 "]);
}
