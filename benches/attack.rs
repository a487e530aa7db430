//! The cost of attacks to a server with its default settings, and to everybody else.
//!
//! Each attack is a file below `attacks/`, starts a server of its own, and returns its figures; a bound that an attack may not
//! pass is asserted there. `--only NAME` runs one of them; `ONELOOP_BENCH_BINARY=PATH` measures another binary beside this one,
//! and then nothing is asserted.

mod attacks;
mod support;

use serde_json::{Map, Value};
use support::{Options, receivers, report};

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == receivers::ROLE => receivers::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let only = options.value("--only");
    let mut found = Map::new();
    for (name, attack) in attacks::ALL {
        if only.as_deref().is_none_or(|only| only == *name) {
            let Value::Object(figures) = attack(options) else {
                panic!("the figures of {name} have names");
            };
            println!("{name}: {}", Value::Object(figures.clone()));
            found.insert((*name).to_owned(), Value::Object(figures));
        }
    }
    assert!(!found.is_empty(), "there is no attack of that name");
    report::print("attack", options, Value::Object(found));
}
