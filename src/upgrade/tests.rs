//! The encoding against a plain list of values, and against garbage.

use super::*;
use crate::engine::random::Random;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Small(u8),
    Middle(u32),
    Large(u64),
    Truth(bool),
    Bytes(Vec<u8>),
    Text(String),
    Maybe(Option<u32>),
    List(Vec<u8>),
}

fn value(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Small(random.next() as u8),
        1 => Value::Middle(random.next() as u32),
        2 => Value::Large(random.next()),
        3 => Value::Truth(random.below(2) == 0),
        4 => {
            let length = random.choose(&[0, 1, 100, 70_000, 300_000]);
            Value::Bytes((0..length).map(|_| random.next() as u8).collect())
        }
        5 => Value::Text("é".repeat(random.below(40))),
        6 => Value::Maybe((random.below(2) == 0).then(|| random.next() as u32)),
        _ => Value::List((0..random.below(9)).map(|_| random.next() as u8).collect()),
    }
}

fn write(writer: &mut StateWriter<'_>, value: &Value) {
    match value {
        Value::Small(number) => writer.u8(*number),
        Value::Middle(number) => writer.u32(*number),
        Value::Large(number) => writer.u64(*number),
        Value::Truth(truth) => writer.bool(*truth),
        Value::Bytes(bytes) => writer.bytes(bytes),
        Value::Text(text) => writer.text(text),
        Value::Maybe(number) => {
            if let Some(number) = writer.option(*number) {
                writer.u32(number);
            }
        }
        Value::List(list) => {
            writer.len(list.len());
            list.iter().for_each(|one| writer.u8(*one));
        }
    }
}

fn read(reader: &mut StateReader<'_>, like: &Value) -> Result<Value, StateError> {
    Ok(match like {
        Value::Small(_) => Value::Small(reader.u8()?),
        Value::Middle(_) => Value::Middle(reader.u32()?),
        Value::Large(_) => Value::Large(reader.u64()?),
        Value::Truth(_) => Value::Truth(reader.bool()?),
        Value::Bytes(_) => Value::Bytes(reader.bytes(300_000)?),
        Value::Text(_) => Value::Text(reader.text(80)?),
        Value::Maybe(_) => Value::Maybe(reader.option(StateReader::u32)?),
        Value::List(_) => Value::List(reader.list(8, StateReader::u8)?),
    })
}

fn written(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StateWriter::new(&mut bytes);
    values.iter().for_each(|value| write(&mut writer, value));
    writer.finish().expect("a Vec takes all");
    bytes
}

#[test]
fn what_is_written_is_read() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let values: Vec<Value> = (0..random.below(30)).map(|_| value(&mut random)).collect();
        let bytes = written(&values);
        let mut nothing = ();
        let mut reader = StateReader::new(bytes, &mut nothing);
        for value in &values {
            let found = read(&mut reader, value);
            assert_eq!(found.ok().as_ref(), Some(value), "seed {seed}");
        }
        assert!(reader.u8().is_err(), "seed {seed}: something is left");
    }
}

#[test]
fn garbage_ends_with_an_error_and_takes_no_memory() {
    for seed in 0..3000 {
        let mut random = Random::new(seed);
        let values: Vec<Value> = (0..20).map(|_| value(&mut random)).collect();
        let mut bytes: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
        if random.below(2) == 0 {
            // A state that was cut or changed.
            bytes = written(&values);
            bytes.truncate(random.below(bytes.len() + 1));
            if !bytes.is_empty() {
                let at = random.below(bytes.len());
                bytes[at] ^= random.next() as u8;
            }
        }
        let most = bytes.len();
        let mut nothing = ();
        let mut reader = StateReader::new(bytes, &mut nothing);
        let mut read_bytes = 0;
        while let Ok(value) = read(&mut reader, &value(&mut random)) {
            read_bytes += match value {
                Value::Bytes(bytes) => bytes.capacity(),
                Value::Text(text) => text.capacity(),
                Value::List(list) => list.len(),
                _ => 1,
            };
        }
        assert!(read_bytes <= most, "seed {seed}: {read_bytes} of {most} bytes");
    }
}

#[test]
fn a_shared_object_is_written_once() {
    let mut bytes = Vec::new();
    let mut writer = StateWriter::new(&mut bytes);
    assert!(writer.shared(10));
    assert!(writer.shared(20));
    assert!(!writer.shared(10));
    writer.finish().expect("a Vec takes all");
    let mut nothing = ();
    let mut reader = StateReader::new(bytes, &mut nothing);
    let numbers: Vec<u32> = (0..3).map(|_| reader.u32().expect("it is there")).collect();
    assert_eq!(numbers, [0, 1, 0]);
}
