use super::*;
use crate::upgrade::{StateReader, StateWriter};

const GREETING: &str = "+OK\r\n+PONG\r\n";
const RESP3: &str = "%1\r\n+proto\r\n:3\r\n";
const SUBSCRIBED: &str = ">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n";
const QUORUM: &str = "+OK 3 usable Sentinels.\r\n";
const NO_QUORUM: &str = "-NOQUORUM 1 usable Sentinels.\r\n";

fn watch(url: &str) -> SentinelWatch {
    let config = RedisConfig::from_url(url).expect("the URL is right");
    SentinelWatch::new(&config, 0).expect("it names Sentinels")
}

fn three() -> SentinelWatch {
    watch("redis+sentinel://h1,h2,h3/main")
}

fn bulks(kind: char, words: &[&str]) -> String {
    let count = if kind == '%' { words.len() / 2 } else { words.len() };
    let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("{kind}{count}\r\n{}", words.collect::<String>())
}

fn names(host: &str, epoch: &str) -> String {
    let fields = ["ip", host, "port", "6379", "flags", "master", "config-epoch", epoch];
    [bulks('%', &fields), bulks('*', &[host, "6379"])].concat()
}

fn switch(name: &str) -> String {
    bulks('>', &["message", "+switch-master", &format!("{name} a 6379 b 6379")])
}

/// A Redis of this host.
fn at(host: &str) -> Address {
    Address::Tcp { host: host.to_owned(), port: 6379 }
}

impl SentinelWatch {
    /// Connects to the next Sentinel, as the caller does.
    fn connect(&mut self, now: Millis) {
        self.session.connecting(now);
        self.session.connected(now);
        self.sent();
    }

    /// Takes what was sent.
    fn sent(&mut self) -> String {
        let sent = String::from_utf8_lossy(self.session.output()).into_owned();
        self.session.wrote(sent.len());
        sent
    }

    fn hear(&mut self, said: &str, now: Millis) -> Result<(), String> {
        let mut input = said.as_bytes();
        let result = self.read(&mut input, now);
        assert!(input.is_empty() || result.is_err());
        result
    }

    /// Connects, and hears the whole word of a Sentinel.
    fn hear_all(&mut self, named: &str, quorum: &str, now: Millis) -> Result<(), String> {
        self.connect(now);
        let word = [GREETING, RESP3, SUBSCRIBED, named, quorum].concat();
        let result = self.hear(&word, now);
        self.sent();
        if result.is_err() {
            self.down(now, 0);
        }
        result
    }

    fn news(&mut self, now: Millis) -> Option<Address> {
        self.name_server(self.fare, now).map(|server| server.address)
    }

    fn fares(&mut self, is_up: bool, vain: usize, now: Millis) {
        assert!(self.name_server(Fare { is_up, vain }, now).is_none());
    }
}

#[test]
fn a_word_is_the_same_however_it_is_cut() {
    let words = [GREETING, RESP3, SUBSCRIBED, &names("a", "3"), QUORUM].concat();
    for size in 1..words.len() {
        let mut watch = three();
        watch.connect(0);
        let mut sent = String::new();
        for piece in words.as_bytes().chunks(size) {
            watch.hear(std::str::from_utf8(piece).unwrap(), 1).unwrap();
            sent += &watch.sent();
        }
        assert_eq!(watch.news(1), Some(at("a")), "size {size}");
        assert_eq!(watch.news(1), None, "it is news once");
        let asked = ["HELLO", "SUBSCRIBE", "+switch-master", "GET-MASTER-ADDR-BY-NAME", "CKQUORUM"];
        let places: Vec<_> = asked.iter().map(|word| sent.find(word)).collect();
        assert!(places.is_sorted() && places[0].is_some(), "{sent}");
    }
}

#[test]
fn a_change_is_asked_for_at_once_and_never_believed_unasked() {
    let mut watch = three();
    watch.hear_all(&names("a", "3"), QUORUM, 0).unwrap();
    assert_eq!(watch.news(0), Some(at("a")));
    assert_eq!(watch.deadline(), Some(10_000));
    watch.hear(&switch("maintenance"), 5000).unwrap();
    assert_eq!(watch.deadline(), Some(10_000), "it is about another one");
    watch.hear(&switch("main"), 6000).unwrap();
    assert!(watch.deadline() <= Some(6000) && watch.sent().is_empty());
    watch.on_time(6000).unwrap();
    assert!(watch.sent().contains("MASTER"));
    // Another change between the two answers is not lost.
    let answer = [&names("b", "4"), &*switch("main"), QUORUM].concat();
    watch.hear(&answer, 6001).unwrap();
    assert_eq!(watch.news(6001), Some(at("b")));
    assert_eq!(watch.deadline(), Some(6101), "and asked about no faster than that");
    watch.on_time(6101).unwrap();
    watch.hear(&[&names("c", "5"), QUORUM].concat(), 6102).unwrap();
    assert_eq!(watch.news(6102), Some(at("c")));
}

#[test]
fn a_flood_of_changes_does_not_make_it_ask_faster() {
    let mut watch = three();
    watch.hear_all(&names("a", "3"), QUORUM, 0).unwrap();
    let mut questions = 0;
    for now in 1..=1000 {
        watch.hear(&switch("main").repeat(20), now).unwrap();
        if watch.deadline().is_some_and(|at| at <= now) {
            watch.on_time(now).unwrap();
        }
        if watch.sent().contains("MASTER") {
            questions += 1;
            let named = names(if questions % 2 == 0 { "a" } else { "b" }, &now.to_string());
            watch.hear(&[&named, QUORUM].concat(), now).unwrap();
        }
    }
    assert!((8..=11).contains(&questions), "{questions} questions in a second");
}

#[test]
fn an_older_word_is_never_followed() {
    let mut watch = three();
    watch.hear_all(&names("a", "3"), QUORUM, 0).unwrap();
    assert_eq!(watch.news(0), Some(at("a")));
    watch.down(10, 0);
    let why = watch.hear_all(&names("old", "2"), QUORUM, 20).unwrap_err();
    assert!(why.contains("epoch 2, which is older than epoch 3 that names a:6379"), "{why}");
    for now in 30..40 {
        assert!(watch.hear_all(&names("old", "2"), NO_QUORUM, now).is_err());
        assert_eq!(watch.news(now), None);
    }
    watch.hear_all(&names("b", "4"), QUORUM, 40).unwrap();
    assert_eq!(watch.news(40), Some(at("b")));
}

#[test]
fn of_two_primaries_in_one_epoch_the_one_that_serves_is_kept_unless_all_name_the_other() {
    let mut watch = three();
    watch.hear_all(&names("a", "3"), QUORUM, 0).unwrap();
    watch.news(0);
    watch.fares(true, 0, 1);
    watch.down(10, 0);
    // One after the other, but never all three.
    for now in 20..40 {
        if now % 3 == 0 {
            watch.session.connecting(now);
            watch.down(now, 0);
        } else {
            let why = watch.hear_all(&names("b", "3"), QUORUM, now).unwrap_err();
            assert!(why.contains("announce-hostnames"), "{why}");
        }
        assert_eq!(watch.news(now), None);
    }
    watch.hear_all(&names("a", "3"), QUORUM, 40).unwrap();
    watch.down(50, 0);
    assert!(watch.hear_all(&names("b", "3"), QUORUM, 60).is_err());
    assert!(watch.hear_all(&names("b", "3"), QUORUM, 70).is_err());
    watch.hear_all(&names("b", "3"), QUORUM, 80).unwrap();
    assert_eq!(watch.news(80), Some(at("b")));
    // Without one that serves, the first word counts.
    watch.fares(false, 1, 90);
    watch.down(100, 0);
    watch.hear_all(&names("c", "3"), QUORUM, 110).unwrap();
    assert_eq!(watch.news(110), Some(at("c")));
}

#[test]
fn the_address_of_a_failover_that_ends_is_the_new_one() {
    let mut watch = three();
    let fields = ["ip", "old", "port", "6379", "config-epoch", "4"];
    let named = [bulks('*', &fields), bulks('*', &["new", "6379"])].concat();
    watch.hear_all(&named, QUORUM, 0).unwrap();
    assert_eq!(watch.news(0), Some(at("new")));
    for odd in ["*0\r\n", "*-1\r\n", "+OK\r\n", &bulks('*', &["h", "x"])] {
        let named = [&bulks('*', &fields), odd].concat();
        assert!(three().hear_all(&named, QUORUM, 0).is_err(), "{odd}");
    }
}

#[test]
fn the_word_of_a_minority_waits_for_the_others() {
    let mut watch = three();
    for now in [0, 10] {
        let why = watch.hear_all(&names("old", "2"), NO_QUORUM, now).unwrap_err();
        assert!(why.contains("cannot reach a quorum of Sentinels for main"), "{why}");
        assert_eq!(watch.news(now), None, "a third one may know better");
    }
    watch.hear_all(&names("a", "3"), QUORUM, 20).unwrap();
    assert_eq!(watch.news(20), Some(at("a")));
    // Without any quorum, the word that is not older counts after a round.
    watch.down(30, 0);
    watch.hear_all(&names("b", "4"), NO_QUORUM, 40).unwrap_err();
    assert_eq!(watch.news(40), None);
    watch.session.connecting(50);
    watch.down(60, 0);
    assert!(watch.has_news());
    assert_eq!(watch.news(60), Some(at("b")));
}

#[test]
fn a_word_that_leads_nowhere_is_taken_to_another_sentinel() {
    let mut watch = three();
    watch.hear_all(&names("a", "3"), QUORUM, 0).unwrap();
    watch.news(0);
    watch.fares(false, 1, 50);
    assert_eq!(watch.deadline(), Some(100), "an attempt in vain makes it ask again");
    watch.on_time(100).unwrap();
    watch.hear(&[&names("a", "3"), QUORUM].concat(), 101).unwrap();
    watch.fares(false, 1, 5000);
    assert_eq!(watch.deadline(), Some(10_050));
    let why = watch.on_time(10_050).unwrap_err();
    assert!(why.contains("h1:26379 still names a:6379"), "{why}");
    watch.down(10_050, 0);
    // One that is up needs no other.
    watch.hear_all(&names("a", "3"), QUORUM, 10_100).unwrap();
    watch.fares(true, 1, 10_200);
    assert_eq!(watch.deadline(), Some(20_100));
}

#[test]
fn each_refusal_says_what_to_do() {
    for (answer, expected) in [
        ("-ERR No such master with that name\r\n", "watches no primary of the name main"),
        ("-ERR unknown command 'SENTINEL', with args\r\n", "is a Redis and no Sentinel"),
        ("-NOPERM User eve has no permissions\r\n", "+sentinel|master +sentinel|ckquorum"),
        ("-BUSY hunter2 runs\r\n", "answered -BUSY to SENTINEL MASTER"),
        ("+OK\r\n", "something that is no Sentinel answers"),
        ("*0\r\n", "no host of the primary"),
        ("!nonsense\r\n", "something that is not Redis answers"),
    ] {
        let mut watch =
            watch("redis+sentinel://h/main?sentinel_username=eve&sentinel_password=hunter2");
        watch.connect(0);
        let greeting = ["+OK\r\n", GREETING, RESP3, SUBSCRIBED].concat();
        watch.hear(&greeting, 0).unwrap();
        let why = watch.hear(answer, 1).unwrap_err();
        assert!(why.contains(expected), "{answer}: {why}");
        assert!(!why.contains("hunter2") && !why.contains("eve"), "{why}");
        assert!(!watch.down(2, 0) && !watch.knows_primary());
        assert!(!watch.session.wants_connect(3), "not at once");
    }
    let mut watch = three();
    watch.connect(0);
    let why = watch.hear("-NOAUTH Authentication required.\r\n", 1).unwrap_err();
    assert!(why.contains("the Sentinel at h1:26379 answered -NOAUTH"), "{why}");
    assert!(why.contains("sentinel_password"), "{why}");
}

#[test]
fn a_sentinel_that_announces_nothing_is_asked_each_second() {
    for (url, said) in [
        ("redis+sentinel://h/main", [GREETING, "-ERR unknown command 'HELLO'\r\n"].concat()),
        ("redis+sentinel://h/main", [GREETING, RESP3, "-NOPERM no\r\n"].concat()),
        ("redis+sentinel://h/main?protocol=resp2", GREETING.to_owned()),
    ] {
        let mut watch = watch(url);
        watch.connect(0);
        watch.hear(&said, 0).unwrap();
        assert!(watch.sent().contains("MASTER"));
        let named = bulks('*', &["ip", "a", "port", "6379", "config-epoch", "0"]);
        // An address that may not be asked for is that of the first answer.
        watch.hear(&[&named, "-NOPERM no\r\n", QUORUM].concat(), 1).unwrap();
        assert_eq!((watch.news(1), watch.deadline()), (Some(at("a")), Some(1001)));
    }
}

#[test]
fn a_silent_sentinel_is_left_and_the_primary_kept() {
    let mut watch = three();
    watch.hear_all(&names("a", "3"), QUORUM, 0).unwrap();
    watch.news(0);
    watch.fares(true, 0, 1);
    assert_eq!(watch.deadline(), Some(10_000));
    watch.on_time(10_000).unwrap();
    assert_eq!(watch.deadline(), Some(15_000));
    let why = watch.on_time(15_000).unwrap_err();
    assert!(why.contains("the Sentinel at h1:26379 did not answer SENTINEL MASTER"), "{why}");
    assert!(watch.down(15_000, 0), "its word had counted");
    assert!(watch.knows_primary() && watch.news(15_000).is_none());
}

#[test]
fn the_epoch_is_handed_over() {
    let mut first = three();
    first.hear_all(&names("a", "3"), QUORUM, 0).unwrap();
    let mut bytes = Vec::new();
    let mut writer = StateWriter::new(&mut bytes);
    saved::save(&first, &mut writer);
    writer.finish().unwrap();
    let restored = |mut watch: SentinelWatch, bytes: &[u8]| {
        let mut nothing = ();
        let result =
            saved::restore(&mut watch, &mut StateReader::new(bytes.to_vec(), &mut nothing));
        result.map(|()| watch)
    };
    let mut next = restored(three(), &bytes).unwrap();
    assert_eq!(next.news(0), Some(at("a")), "it connects there before a Sentinel has answered");
    let why = next.hear_all(&names("old", "2"), QUORUM, 20).unwrap_err();
    assert!(why.contains("older than epoch 3"), "{why}");
    let other = restored(watch("redis+sentinel://h/other"), &bytes).unwrap();
    assert!(!other.knows_primary(), "it is another primary's");
    for length in 0..bytes.len() {
        assert!(restored(three(), &bytes[..length]).is_err(), "cut at {length}");
    }
}
