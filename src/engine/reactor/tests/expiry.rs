//! Connections end at the `exp` of their tokens, by the wall clock of that moment.

use serde_json::json;

use crate::config::RouteConfig;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::slots::ConnId;

/// The lifetime of a token in these tests, in seconds.
const LIFETIME: u64 = 3600;

/// A client that connected `millis` after a second of the wall clock began.
fn connected(millis: u64) -> (TestLoop, ConnId) {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| {
        (bounds.silence_seconds, bounds.ping_seconds) = (0, 0);
    });
    let now = &mut test.reactor.router.server.now;
    now.unix_millis = now.unix * 1000 + millis;
    now.millis = 12_345;
    test.reactor.router.server.follow_wall_clock();
    let id = test.connect("42", &[]);
    test.received(id);
    (test, id)
}

fn end() -> [serde_json::Value; 1] {
    let detail = "exp has passed: come back with a fresh token";
    [json!({"close": 4002, "reason": {"reason": "expired", "detail": detail}})]
}

#[test]
fn a_connection_receives_nothing_after_exp() {
    for millis in [0, 1, 55, 99, 500, 999] {
        let (mut test, id) = connected(millis);
        test.pass(LIFETIME * 1000 - millis - 100);
        assert!(test.received(id).is_empty(), "{millis}");
        test.pass(100);
        assert_eq!(test.received(id), end(), "{millis}");
    }
}

#[test]
fn a_wall_clock_that_is_set_moves_the_end() {
    let moved = |seconds: i64| {
        let (mut test, id) = connected(500);
        let now = &mut test.reactor.router.server.now;
        now.unix_millis = now.unix_millis.saturating_add_signed(seconds * 1000);
        test.reactor.router.server.follow_wall_clock();
        let left = (LIFETIME as i64 - seconds) * 1000 - 500;
        (test, id, left)
    };
    for seconds in [-86_400, -100, 100, 3_500] {
        let (mut test, id, left) = moved(seconds);
        test.pass(left as u64 - 200);
        assert!(test.received(id).is_empty(), "{seconds}");
        test.pass(200);
        assert_eq!(test.received(id), end(), "{seconds}");
    }
    // As after a night's sleep.
    let (mut test, id, _) = moved(40_000);
    test.turn();
    assert_eq!(test.received(id), end());
}

#[test]
fn a_wall_clock_that_is_set_moves_no_other_end() {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| bounds.auth_seconds = 10);
    let stranger = test.connect_anonymous();
    let now = &mut test.reactor.router.server.now;
    now.unix_millis += 3_000_000_000;
    test.reactor.router.server.follow_wall_clock();
    test.turn();
    assert!(test.received(stranger).is_empty());
}
