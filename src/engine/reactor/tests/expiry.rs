//! Connections end at the `exp` of their tokens, by the wall clock of that moment.

use serde_json::json;

use crate::config::RouteConfig;
use crate::engine::reactor::tests::harness::Talks;
use crate::engine::slots::ConnId;

/// The lifetime of a token in these tests, in seconds.
const LIFETIME: u64 = 3600;

/// A client that connected `millis` after a second of the wall clock began.
fn connected(millis: u64) -> (Talks, ConnId) {
    let mut talks = Talks::new(RouteConfig::default(), |bounds| {
        (bounds.silence_seconds, bounds.ping_seconds) = (0, 0);
    });
    let now = &mut talks.reactor.router.server.now;
    now.unix_millis = now.unix * 1000 + millis;
    now.millis = 12_345;
    talks.reactor.router.server.follow_wall_clock();
    let id = talks.connect("42", &[]);
    talks.told(id);
    (talks, id)
}

fn end() -> [serde_json::Value; 1] {
    let detail = "exp has passed: come back with a fresh token";
    [json!({"close": 4002, "reason": {"reason": "expired", "detail": detail}})]
}

#[test]
fn a_connection_receives_nothing_after_exp() {
    for millis in [0, 1, 55, 99, 500, 999] {
        let (mut talks, id) = connected(millis);
        talks.pass(LIFETIME * 1000 - millis - 100);
        assert!(talks.told(id).is_empty(), "{millis}");
        talks.pass(100);
        assert_eq!(talks.told(id), end(), "{millis}");
    }
}

#[test]
fn a_wall_clock_that_is_set_moves_the_end() {
    let moved = |seconds: i64| {
        let (mut talks, id) = connected(500);
        let now = &mut talks.reactor.router.server.now;
        now.unix_millis = now.unix_millis.saturating_add_signed(seconds * 1000);
        talks.reactor.router.server.follow_wall_clock();
        let left = (LIFETIME as i64 - seconds) * 1000 - 500;
        (talks, id, left)
    };
    for seconds in [-86_400, -100, 100, 3_500] {
        let (mut talks, id, left) = moved(seconds);
        talks.pass(left as u64 - 200);
        assert!(talks.told(id).is_empty(), "{seconds}");
        talks.pass(200);
        assert_eq!(talks.told(id), end(), "{seconds}");
    }
    // As after a night's sleep.
    let (mut talks, id, _) = moved(40_000);
    talks.turn();
    assert_eq!(talks.told(id), end());
}

#[test]
fn a_wall_clock_that_is_set_moves_no_other_end() {
    let mut talks = Talks::new(RouteConfig::default(), |bounds| bounds.auth_seconds = 10);
    let stranger = talks.connect_anonymous();
    let now = &mut talks.reactor.router.server.now;
    now.unix_millis += 3_000_000_000;
    talks.reactor.router.server.follow_wall_clock();
    talks.turn();
    assert!(talks.told(stranger).is_empty());
}
