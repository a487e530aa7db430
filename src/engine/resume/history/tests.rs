use super::*;
use crate::engine::pubsub::topic::TOPIC_BYTES_MAX;
use crate::engine::random::Random;
use crate::upgrade::{StateReader, StateWriter};

/// A topic and perhaps a key.
type Name = (String, Option<&'static str>);

fn subject((topic, key): &Name) -> Subject<'_> {
    Subject { topic, key: *key }
}

fn name_bytes((topic, key): &Name) -> usize {
    topic.len() + key.map_or(0, |key| 1 + key.len())
}

/// The parts that a record was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Made {
    Message(Name, Vec<u8>),
    Entry(usize, EntryId, Name, Vec<u8>),
    Gap(u64),
}

impl Made {
    fn bytes(&self) -> usize {
        match self {
            Made::Message(name, payload) => HEAD_BYTES + name_bytes(name) + payload.len(),
            Made::Entry(.., name, payload) => ENTRY_HEAD_BYTES + name_bytes(name) + payload.len(),
            Made::Gap(_) => HEAD_BYTES + 8,
        }
    }

    fn name(&self) -> Option<&Name> {
        match self {
            Made::Message(name, _) | Made::Entry(_, _, name, _) => Some(name),
            Made::Gap(_) => None,
        }
    }
}

fn made(random: &mut Random, counter: &mut u64) -> Made {
    let topic = random.choose(&["a", "room.7", "user.ü", "news"]).to_owned();
    let topic = (topic, random.choose(&[None, None, Some("k"), Some("ü#")]));
    let payload = vec![random.next() as u8; random.below(40)];
    match random.below(5) {
        0 => Made::Gap(random.next()),
        1 | 2 => Made::Message(topic, payload),
        _ => {
            *counter += 1;
            Made::Entry(random.below(2), EntryId { millis: *counter, number: 3 }, topic, payload)
        }
    }
}

fn record_of(made: &Made) -> Record<'_> {
    match made {
        Made::Message(name, payload) => Record::Message { subject: subject(name), payload },
        Made::Entry(stream, id, name, payload) => {
            Record::Entry { stream: *stream, id: *id, subject: subject(name), payload }
        }
        Made::Gap(from) => Record::Gap { from: *from },
    }
}

#[test]
fn agrees_with_a_list_from_a_seed() {
    for seed in 1..400 {
        let mut random = Random::new(seed);
        let (messages_max, bytes_max) = (1 + random.below(30), 20 + random.below(400));
        let mut history = History::new(messages_max, bytes_max, 2);
        // Around the end of the count of offsets.
        history.base = u32::MAX - random.below(300) as u32;
        let mut model: VecDeque<(u64, Made)> = VecDeque::new();
        let (mut next, mut covered) = (ORIGIN, [EntryId::ZERO; 2]);
        history.cover(0, EntryId::ZERO);
        history.cover(1, EntryId::ZERO);
        let mut counter = 1000;
        for _ in 0..200 {
            let one = made(&mut random, &mut counter);
            match &one {
                Made::Message(name, payload) => history.push(subject(name), payload),
                Made::Entry(stream, id, name, payload) => {
                    history.push_entry(*stream, *id, subject(name), payload);
                }
                Made::Gap(from) => notes::push_gap(&mut history, *from),
            }
            model.push_back((next, one));
            next += 1;
            let bytes = |model: &VecDeque<(u64, Made)>| -> usize {
                model.iter().map(|(_, one)| one.bytes()).sum()
            };
            while model.len() > messages_max || bytes(&model) > bytes_max {
                if let Some((_, Made::Entry(stream, id, ..))) = model.pop_front() {
                    covered[stream] = id;
                }
            }
            assert_eq!(history.next(), next, "seed {seed}");
            assert_eq!(history.first(), next - model.len() as u64, "seed {seed}");
            assert_eq!(history.bytes.len(), bytes(&model), "seed {seed}");
            assert_eq!(history.covered(), covered, "seed {seed}");
            let mut scratch = Vec::new();
            for (number, one) in &model {
                assert_eq!(history.get(*number, &mut scratch), record_of(one), "seed {seed}");
                let name = one.name().filter(|name| name.1.is_some());
                let mut later = model.iter().filter(|other| other.0 > *number);
                let is_superseded = name.is_some() && later.any(|other| other.1.name() == name);
                assert_eq!(history.is_superseded(*number), is_superseded, "seed {seed}");
            }
            let keyed = model.iter().filter_map(|one| one.1.name());
            let keys: std::collections::BTreeSet<_> =
                keyed.filter(|name| name.1.is_some()).collect();
            assert_eq!(
                history.newest.len(),
                keys.len(),
                "seed {seed}: the index is as large as it must be"
            );
            assert!(keys.iter().all(|name| history.has_newer(subject(name))), "seed {seed}");
            let after = EntryId { millis: counter - random.below(60) as u64, number: 3 };
            let starts = [0, 1].map(|stream| history.after(stream, after));
            for (number, one) in &model {
                let Made::Entry(stream, id, ..) = one else { continue };
                assert_eq!(*number >= starts[*stream], *id > after, "seed {seed}");
            }
        }
    }
}

#[test]
fn older_entries_go_before_all_others_while_there_is_room() {
    let id = |millis| EntryId { millis, number: 0 };
    let mut history = History::new(4, 1000, 1);
    history.push("live", b"1");
    assert!(history.push_before(0, id(7), "a", b"seven"));
    assert!(history.push_before(0, id(6), "a", b"six"));
    history.push("live", b"2");
    assert!(!history.push_before(0, id(5), "a", b"five"), "four are held");
    assert_eq!((history.first(), history.next()), (ORIGIN - 2, ORIGIN + 2));
    let mut scratch = Vec::new();
    let six = Record::Entry { stream: 0, id: id(6), subject: "a".into(), payload: b"six" };
    assert_eq!(history.get(ORIGIN - 2, &mut scratch), six);
    assert_eq!(history.hash(ORIGIN - 2), hash_of("a"));
    let last = Record::Message { subject: "live".into(), payload: b"2" };
    assert_eq!(history.get(ORIGIN + 1, &mut scratch), last);
    history.push("live", b"3");
    assert_eq!((history.first(), history.covered()), (ORIGIN - 1, &[id(6)][..]));
}

#[test]
fn an_entry_from_before_is_superseded_by_what_came_since() {
    let id = |millis| EntryId { millis, number: 0 };
    let of = |key| Subject { topic: "a", key: Some(key) };
    let mut history = History::new(9, 1000, 1);
    history.push(of("k"), b"new");
    assert!(history.push_before(0, id(3), of("l"), b"newest of l"));
    assert!(history.push_before(0, id(2), of("l"), b"old"));
    assert!(history.push_before(0, id(1), of("k"), b"old"));
    let superseded: Vec<bool> =
        (history.first()..history.next()).map(|number| history.is_superseded(number)).collect();
    assert_eq!(superseded, [true, true, false, false]);
    history.clear();
    assert_eq!((history.newest.len(), history.bytes()), (0, 0));
}

#[test]
fn the_longest_topic_is_told_whole() {
    let topic = "t".repeat(TOPIC_BYTES_MAX);
    let id = EntryId { millis: 7, number: 8 };
    let mut history = History::new(4, 1000, 1);
    history.push(&*topic, b"1");
    assert!(history.push_before(0, id, &*topic, b"2"));
    let mut scratch = Vec::new();
    let entry = Record::Entry { stream: 0, id, subject: (&*topic).into(), payload: b"2" };
    assert_eq!(history.get(ORIGIN - 1, &mut scratch), entry);
    let message = Record::Message { subject: (&*topic).into(), payload: b"1" };
    assert_eq!(history.get(ORIGIN, &mut scratch), message);
}

#[test]
fn what_is_larger_than_the_ring_is_not_held_and_nothing_before_it_is() {
    let mut history = History::new(10, 50, 1);
    history.push("a", b"1");
    history.push("a", &[0; 60]);
    assert!(history.is_empty());
    assert_eq!((history.first(), history.next()), (ORIGIN + 2, ORIGIN + 2));
    history.push("a", b"3");
    assert_eq!(history.len(), 1);
    history.clear();
    assert_eq!((history.first(), history.next(), history.bytes()), (ORIGIN + 3, ORIGIN + 3, 0));
}

#[test]
fn a_ring_that_is_off_only_counts() {
    for mut history in [History::new(0, 100, 0), History::new(10, 0, 0)] {
        history.push("a", b"1");
        assert!(!history.is_on() && history.is_empty());
        assert_eq!((history.first(), history.next()), (ORIGIN + 1, ORIGIN + 1));
        assert_eq!((history.bytes.capacity(), history.places.capacity()), (0, 0));
    }
}

#[test]
fn places_of_returning_clients_are_found_in_a_history_that_was_handed_over() {
    let mut history = History::new(1000, 1 << 20, 2);
    let id = |millis| EntryId { millis, number: 0 };
    for number in 1..=600 {
        history.push_entry((number % 3 == 0).into(), id(number), "a", b"1");
    }
    let mut state = Vec::new();
    let mut writer = StateWriter::new(&mut state);
    history.save(&mut writer);
    writer.finish().expect("a vector takes everything");
    let mut heir = History::new(1000, 1 << 20, 2);
    heir.restore(&mut StateReader::new(state, &mut ())).expect("it is whole");
    for stream in [0, 1] {
        for number in 0..=600 {
            let places = [&history, &heir].map(|one| one.after(stream, id(number)));
            assert_eq!(places[0], places[1], "stream {stream}, after {number}");
        }
    }
}
