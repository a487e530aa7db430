//! The dates of a token (RFC 7519 section 2, NumericDate), checked and shown.

use std::ops::Range;

use serde_json::Value;

use crate::clock::utc;

/// Units that issuers use by mistake, with their number per second.
const UNITS: [(&str, u64); 3] =
    [("milliseconds", 1000), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000)];

/// The dates of this century in seconds. In another unit each lies at least thirty thousand years ahead.
const CENTURY: Range<u64> = 946_684_800..4_102_444_800;

/// The last second of the year 9999, the end of RFC 3339's dates.
const LAST: u64 = 253_402_300_799;

/// Reads the claim `name` as a date.
///
/// # Errors
/// A sentence if the claim is not a number of seconds, or plainly a number of another unit.
pub fn date(name: &str, claim: &Value) -> Result<u64, String> {
    let number = seconds(claim).ok_or_else(|| format!("{name} must be a number of seconds"))?;
    match mistaken_unit(number) {
        None => Ok(number),
        Some((unit, _)) => Err(format!("{name} is in {unit}: it must be in seconds")),
    }
}

/// Whole seconds, rounded down; a larger number than `u64::MAX` counts as that.
fn seconds(claim: &Value) -> Option<u64> {
    let fraction = || claim.as_f64().filter(|seconds| *seconds >= 0.0);
    claim.as_u64().or_else(|| fraction().map(|seconds| seconds as u64))
}

/// The unit of a date that is not in seconds, with its number per second.
fn mistaken_unit(number: u64) -> Option<(&'static str, u64)> {
    UNITS.into_iter().find(|(_, per_second)| CENTURY.contains(&(number / per_second)))
}

/// A date in UTC with its distance from the second `now`, and the mistake in its unit if there is one.
pub fn shown(claim: &Value, now: u64) -> String {
    let Some(number) = seconds(claim) else {
        return "no number of seconds".to_owned();
    };
    match mistaken_unit(number) {
        None => moment(number, now),
        Some((unit, per_second)) => {
            let moment = moment(number / per_second, now);
            format!("{moment}, if it were in seconds: it is in {unit}")
        }
    }
}

fn moment(unix: u64, now: u64) -> String {
    if unix > LAST {
        return "after the year 9999".to_owned();
    }
    let distance = match unix.abs_diff(now) {
        0 => "now".to_owned(),
        seconds if unix > now => format!("in {}", span(seconds)),
        seconds => format!("{} ago", span(seconds)),
    };
    format!("{}Z, {distance}", utc(unix))
}

/// A duration in its two largest units.
fn span(seconds: u64) -> String {
    let (larger, smaller, per_larger, per_smaller) = match seconds {
        ..60 => return format!("{seconds} s"),
        60..3600 => ("min", "s", 60, 1),
        3600..86_400 => ("h", "min", 3600, 60),
        _ => ("d", "h", 86_400, 3600),
    };
    match seconds % per_larger / per_smaller {
        0 => format!("{} {larger}", seconds / per_larger),
        rest => format!("{} {larger} {rest} {smaller}", seconds / per_larger),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn another_unit_than_seconds_is_named() {
        for number in [0, 1, NOW, 4_102_444_799, 99_999_999_999, LAST, u64::MAX] {
            assert_eq!(date("exp", &Value::from(number)), Ok(number));
        }
        for (number, unit) in [
            (NOW * 1000, "milliseconds"),
            (946_684_800_000, "milliseconds"),
            (4_102_444_799_999, "milliseconds"),
            (NOW * 1_000_000, "microseconds"),
            (NOW * 1_000_000_000, "nanoseconds"),
        ] {
            for claim in [Value::from(number), Value::from(number as f64)] {
                let refusal = date("nbf", &claim).expect_err("not in seconds");
                assert_eq!(refusal, format!("nbf is in {unit}: it must be in seconds"));
            }
        }
    }

    #[test]
    fn dates_are_shown_with_their_distance() {
        for (number, expected) in [
            (NOW, "2023-11-14T22:13:20Z, now"),
            (NOW + 59, "2023-11-14T22:14:19Z, in 59 s"),
            (NOW + 3600, "2023-11-14T23:13:20Z, in 1 h"),
            (NOW - 150, "2023-11-14T22:10:50Z, 2 min 30 s ago"),
            (NOW - 5400, "2023-11-14T20:43:20Z, 1 h 30 min ago"),
            (NOW + 90_000, "2023-11-15T23:13:20Z, in 1 d 1 h"),
            (0, "1970-01-01T00:00:00Z, 19675 d 22 h ago"),
            (LAST, "9999-12-31T23:59:59Z, in 2913221 d 1 h"),
            (LAST + 1, "after the year 9999"),
            (u64::MAX, "after the year 9999"),
            (
                (NOW + 60) * 1000,
                "2023-11-14T22:14:20Z, in 1 min, if it were in seconds: it is in milliseconds",
            ),
        ] {
            assert_eq!(shown(&Value::from(number), NOW), expected, "{number}");
        }
        assert_eq!(shown(&Value::from(NOW as f64 + 0.9), NOW), "2023-11-14T22:13:20Z, now");
        assert_eq!(shown(&Value::from("soon"), NOW), "no number of seconds");
    }
}
