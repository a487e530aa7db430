//! Everyone receives what a naive model says, in its order, and nothing else: random subscriptions, renewals, reconnects and
//! publishes from a seed, over real sockets.

/// The same generator as in the library's tests, which use the rest of it.
#[allow(dead_code)]
#[path = "../src/engine/random.rs"]
mod random;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use random::Random;
use serde_json::{Value, json};
use support::{Client, Publisher, Server, token};

const SUBS: [&str; 10] = ["4", "42", "42.", "42.x", "*", "42.*", "é", "a b", "\"q\"", "user.42"];
const TOPICS: [&str; 10] =
    ["news", "room", "room.7", "room.7.chat", "room.71", "a.b.c", "a.b", "user", "rooms.7", "a"];
const GRANTS: [&str; 14] = [
    "news",
    "room",
    "room.*",
    "room.7",
    "room.7.*",
    "a.*",
    "a.b.*",
    "a.b",
    "*",
    "user.*",
    "user.42",
    "user.4",
    "user",
    "user.42.x",
];

/// The names of a topic that are no user's.
const EXACT: [&str; 5] = ["news", "room", "room.7", "a.b", "user"];

/// Members are told within a second.
const DEADLINE: Duration = Duration::from_secs(20);

/// Up to `most` grants.
fn grants(random: &mut Random, most: usize) -> Vec<String> {
    (0..random.below(most + 1)).map(|_| random.choose(&GRANTS).to_owned()).collect()
}

/// The reason of a subscription in the model.
#[derive(Clone, Copy, PartialEq)]
enum Why {
    Granted,
    Asked,
}

/// A client and what the model knows of it.
struct Modelled {
    client: Client,
    sub: String,
    admin: bool,
    may: Vec<String>,
    listens: BTreeMap<String, Why>,
    expected: Vec<(String, Value)>,
    heard: Vec<(String, Value)>,
    last: String,
    /// Topics whose members it watches, and those that it was told.
    watched: BTreeMap<String, BTreeSet<String>>,
}

fn is_user(grant: &str) -> bool {
    grant.starts_with("user.")
}

/// The subscriptions that follow from a grant.
fn parts(grant: &str, admin: bool) -> Vec<String> {
    match (is_user(grant), grant, admin) {
        (true, _, false) => vec![],
        (false, "*", true) => vec!["*".into(), "user.*".into()],
        _ => vec![grant.into()],
    }
}

fn covers(may: &str, admin: bool, wanted: &str) -> bool {
    if is_user(wanted) {
        return admin && (may == "*" || may == "user.*" || may == wanted);
    }
    match may.strip_suffix('*') {
        Some(prefix) => wanted.starts_with(prefix),
        None => may == wanted,
    }
}

impl Modelled {
    fn connect(server: &Server, random: &mut Random) -> Modelled {
        let sub = random.choose(&SUBS).to_owned();
        let (topics, may, admin) = (grants(random, 3), grants(random, 3), random.below(6) == 0);
        let mut client = Client::connect(server, &token(&sub, &topics, &may, admin));
        let welcome: Value = serde_json::from_str(&client.read()).unwrap();
        assert_eq!((&welcome["op"], &welcome["sub"]), (&json!("welcome"), &json!(sub)));
        let granted = topics.iter().flat_map(|grant| parts(grant, admin));
        let listens: BTreeMap<String, Why> = granted.map(|part| (part, Why::Granted)).collect();
        let last = welcome["id"].as_str().unwrap().to_owned();
        let (expected, heard) = (vec![], vec![]);
        let watched = BTreeMap::new();
        let modelled =
            Modelled { client, sub, admin, may, listens, expected, heard, last, watched };
        assert_eq!(welcome["topics"], modelled.topics());
        modelled
    }

    /// As `welcome`, `authed` and `topics` list them.
    fn topics(&self) -> Value {
        let own = format!("user.{}", self.sub);
        // An admin's grant of its own topic adds nothing; but the pattern `user.*` is not the own topic of the user `*`.
        let is_more = |part: &&String| **part != own || *part == "user.*";
        let mut topics: Vec<String> = self.listens.keys().filter(is_more).cloned().collect();
        topics.push(own);
        topics.sort();
        json!(topics)
    }

    fn hears(&self, topic: &str) -> bool {
        if topic == format!("user.{}", self.sub) {
            return true;
        }
        self.listens.keys().any(|part| match (is_user(topic), is_user(part)) {
            (true, true) => part == "user.*" || part == topic,
            (false, false) => covers(part, false, topic),
            _ => false,
        })
    }

    /// Sends a command and reads up to its answer; messages on the way are noted.
    fn ask(&mut self, command: Value) -> Value {
        self.client.send(&command.to_string());
        loop {
            let frame: Value = serde_json::from_str(&self.client.read()).unwrap();
            if frame.get("op").is_some() && frame.get("ref").is_some() {
                assert_eq!(frame["ref"], command["ref"]);
                return frame;
            }
            self.note(frame);
        }
    }

    fn note(&mut self, frame: Value) {
        if frame.get("op").is_some() {
            return self.note_members(&frame);
        }
        let id = frame["id"].as_str().unwrap();
        assert!(*self.last < *id, "ids rise along a connection");
        id.clone_into(&mut self.last);
        self.heard.push((frame["topic"].as_str().unwrap().to_owned(), frame["data"].clone()));
    }

    /// Takes members of a topic that it watches; those of another one would be none of its business.
    fn note_members(&mut self, frame: &Value) {
        let users = |name: &str| -> BTreeSet<String> {
            let users = frame[name].as_array().into_iter().flatten();
            users.map(|user| user.as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(frame["op"], "members");
        let known = self.watched.get_mut(frame["topic"].as_str().unwrap());
        let known = known.unwrap_or_else(|| panic!("{frame} to {}", self.sub));
        if frame.get("users").is_some() {
            *known = users("users");
        } else {
            known.extend(users("joined"));
            let left = users("left");
            known.retain(|user| !left.contains(user));
        }
        assert_eq!(frame["count"], json!(known.len()));
    }

    fn members(&mut self, topic: &str, number: usize) {
        let answer = self.ask(json!({"op": "members", "topic": topic, "ref": number}));
        if self.listens.contains_key(topic) {
            self.watched.insert(topic.to_owned(), BTreeSet::new());
            self.note_members(&answer);
        } else {
            assert_eq!(answer["code"], "forbidden", "{answer}");
        }
    }

    /// It watches no topic that it has given up or lost.
    fn look_away(&mut self) {
        self.watched.retain(|topic, _| self.listens.contains_key(topic));
    }

    fn subscribe(&mut self, wanted: &str, number: usize) {
        let answer = self.ask(json!({"op": "subscribe", "topic": wanted, "ref": number}));
        if wanted == format!("user.{}", self.sub) {
            assert_eq!(answer["op"], "subscribed");
            return;
        }
        let permitted = self.may.iter().any(|may| covers(may, self.admin, wanted));
        if permitted {
            let parts = match self.listens.contains_key(wanted) {
                true => vec![wanted.to_owned()],
                false => parts(wanted, self.admin),
            };
            for part in parts {
                self.listens.entry(part).or_insert(Why::Asked);
            }
            self.listens.insert(wanted.to_owned(), Why::Asked);
        }
        let listens = self.listens.contains_key(wanted);
        let expected = if listens { json!("subscribed") } else { json!("error") };
        assert_eq!(answer["op"], expected, "{wanted}: {answer}");
    }

    fn unsubscribe(&mut self, wanted: &str, number: usize) {
        let answer = self.ask(json!({"op": "unsubscribe", "topic": wanted, "ref": number}));
        if wanted == format!("user.{}", self.sub) {
            assert_eq!(answer["code"], "forbidden");
            return;
        }
        assert_eq!(answer["op"], "unsubscribed");
        for part in parts(wanted, true) {
            let why = self.listens.remove(&part);
            if why == Some(Why::Granted) && part == wanted {
                self.may.push(part);
            }
        }
        self.look_away();
    }

    fn list(&mut self, number: usize) {
        let answer = self.ask(json!({"op": "topics", "ref": number}));
        assert_eq!(answer, json!({"op": "topics", "topics": self.topics(), "ref": number}));
    }

    fn renew(&mut self, random: &mut Random, number: usize) {
        let (topics, may, admin) = (grants(random, 3), grants(random, 3), random.below(6) == 0);
        let newer = token(&self.sub, &topics, &may, admin);
        let answer = self.ask(json!({"op": "auth", "token": newer, "ref": number}));
        assert_eq!(answer["op"], "authed");
        let granted: BTreeSet<String> =
            topics.iter().flat_map(|grant| parts(grant, admin)).collect();
        self.listens.retain(|part, why| {
            *why == Why::Asked && may.iter().any(|grant| covers(grant, admin, part))
        });
        self.listens.extend(granted.into_iter().map(|part| (part, Why::Granted)));
        (self.may, self.admin) = (may, admin);
        self.look_away();
        assert_eq!(answer["topics"], self.topics());
    }

    /// Everything that was sent to it so far has been read afterwards.
    fn settle(&mut self, seed: u64) {
        self.read_on();
        assert_eq!(self.heard, self.expected, "seed {seed}, user {}", self.sub);
    }

    fn read_on(&mut self) {
        self.client.send("ping");
        loop {
            let text = self.client.read();
            if text == "pong" {
                break;
            }
            let frame = serde_json::from_str(&text).unwrap();
            self.note(frame);
        }
    }
}

/// Waits until each client knows the members of the topics that it watches: those who subscribe to exactly these. Returns how many
/// lists there are.
fn settle_members(clients: &mut [Modelled], seed: u64) -> usize {
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for client in clients.iter() {
        for topic in client.listens.keys() {
            members.entry(topic.clone()).or_default().insert(client.sub.clone());
        }
    }
    let until = Instant::now() + DEADLINE;
    for client in &mut *clients {
        while client.watched.iter().any(|(topic, known)| members[topic] != *known) {
            assert!(Instant::now() < until, "seed {seed}: {:?}, not {members:?}", client.watched);
            std::thread::sleep(Duration::from_millis(20));
            client.read_on();
        }
    }
    clients.iter().map(|client| client.watched.len()).sum()
}

/// Returns how many messages were delivered, and how many lists of members are right in the end.
fn run(server: &Server, seed: u64, many: usize, steps: usize) -> (usize, usize) {
    let mut random = Random::new(seed);
    let mut publisher = Publisher::connect(server);
    let mut clients: Vec<Modelled> =
        (0..many).map(|_| Modelled::connect(server, &mut random)).collect();
    let mut delivered = 0;
    for step in 0..steps {
        let at = random.below(clients.len());
        match random.below(20) {
            0..=3 => clients[at].subscribe(random.choose(&GRANTS), step),
            4..=5 => clients[at].unsubscribe(random.choose(&GRANTS), step),
            6 => clients[at].renew(&mut random, step),
            7 => {
                let mut leaving = clients.swap_remove(at);
                leaving.settle(seed);
                leaving.client.close();
                clients.push(Modelled::connect(server, &mut random));
            }
            8 => clients[at].list(step),
            9 => clients[at].members(random.choose(&EXACT), step),
            _ => {
                let topic = match random.below(2) {
                    0 => format!("user.{}", random.choose(&SUBS)),
                    _ => random.choose(&TOPICS).to_owned(),
                };
                let data = json!({ "step": step });
                let answered = publisher.publish(&format!("pub.{topic}"), &data.to_string());
                let mut reached = 0;
                for client in clients.iter_mut().filter(|client| client.hears(&topic)) {
                    client.expected.push((topic.clone(), data.clone()));
                    reached += 1;
                }
                assert_eq!(answered, reached, "seed {seed}, step {step}, {topic}");
                delivered += reached;
            }
        }
    }
    for client in &mut clients {
        client.settle(seed);
    }
    (delivered, settle_members(&mut clients, seed))
}

#[test]
fn everyone_hears_what_the_model_says_and_nothing_else() {
    let server = Server::start(&["--commands-per-second-max", "0", "--members", "*"]);
    let (mut delivered, mut lists) = (0, 0);
    for seed in 1..=12 {
        let found = run(&server, seed, 24, 1_500);
        (delivered, lists) = (delivered + found.0, lists + found.1);
    }
    println!("{delivered} messages delivered, each to whom the model says");
    assert!(
        delivered > 10_000 && lists > 10,
        "the model would have been silent: {delivered}, {lists}"
    );
}

/// Enough clients for large topics, whose fan-out takes many turns while other things go on.
#[test]
fn crowds_hear_what_the_model_says_too() {
    let flags =
        ["--commands-per-second-max", "0", "--flush-clients-per-turn", "3", "--members", "*"];
    let server = Server::start(&flags);
    let (mut delivered, mut lists) = (0, 0);
    for seed in 101..=104 {
        let found = run(&server, seed, 160, 2_500);
        (delivered, lists) = (delivered + found.0, lists + found.1);
    }
    println!("{delivered} messages delivered, each to whom the model says");
    assert!(
        delivered > 50_000 && lists > 10,
        "the model would have been silent: {delivered}, {lists}"
    );
}

#[test]
fn the_number_answered_to_a_publisher_is_the_number_of_clients() {
    let server = Server::start(&[]);
    let mut publisher = Publisher::connect(&server);
    let everything = ["a.b", "a.*", "*"].map(str::to_owned);
    let mut clients: Vec<Client> = (0..5)
        .map(|number| {
            Client::connect(&server, &token(&format!("{number}"), &everything, &[], false))
        })
        .collect();
    for client in &mut clients {
        assert!(client.read().contains("welcome"));
    }
    assert_eq!(publisher.publish("pub.a.b", "1"), 5);
    assert_eq!(publisher.publish("pub.user.3", "2"), 1);
    assert_eq!(publisher.publish("pub.user.9", "3"), 0);
    for (channel, payload) in [("pub.a..b", "4"), ("other.a.b", "5")] {
        let refusal = publisher.ask(channel, payload);
        assert!(refusal.starts_with("-ERR nobody hears this: "), "{refusal}");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert!(client.read().ends_with("\"data\":1}"));
        client.send("ping");
        if number == 3 {
            assert!(client.read().ends_with("\"data\":2}"));
        }
        assert_eq!(client.read(), "pong", "client {number} received what was not for it");
    }
}
