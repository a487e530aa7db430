//! The dates of a token (RFC 7519 section 2, NumericDate): checked, and as a person reads them.

use std::ops::Range;

use super::claim::Claim;
use crate::clock::utc;

/// Units that issuers write in place of seconds, and how many of them a second has.
const UNITS: [(&str, u64); 3] =
    [("milliseconds", 1000), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000)];

/// The dates of this century in seconds. In another unit each of them lies thirty thousand years ahead at least.
const CENTURY: Range<u64> = 946_684_800..4_102_444_800;

/// The last second of the year 9999, behind which RFC 3339 has no dates.
const LAST: u64 = 253_402_300_799;

/// Reads a claim that is a date.
///
/// # Errors
/// A sentence, if the claim is no number of seconds, or plainly one of another unit.
pub fn date(name: &str, claim: &Claim) -> Result<u64, String> {
    let number = claim.seconds().ok_or_else(|| format!("{name} must be a number of seconds"))?;
    match mistaken_unit(number) {
        None => Ok(number),
        Some((unit, _)) => Err(format!("{name} is in {unit}: it must be in seconds")),
    }
}

/// The unit of a date that is not in seconds, and how many of them a second has.
fn mistaken_unit(number: u64) -> Option<(&'static str, u64)> {
    UNITS.into_iter().find(|(_, per_second)| CENTURY.contains(&(number / per_second)))
}

/// A date in UTC, how far it is from the second `now`, and the mistake in its unit if there is one.
pub fn shown(claim: &Claim, now: u64) -> String {
    let Some(number) = claim.seconds() else {
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
            assert_eq!(date("exp", &Claim::Unsigned(number)), Ok(number));
        }
        for (number, unit) in [
            (NOW * 1000, "milliseconds"),
            (946_684_800_000, "milliseconds"),
            (4_102_444_799_999, "milliseconds"),
            (NOW * 1_000_000, "microseconds"),
            (NOW * 1_000_000_000, "nanoseconds"),
        ] {
            for claim in [Claim::Unsigned(number), Claim::Float(number as f64)] {
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
            assert_eq!(shown(&Claim::Unsigned(number), NOW), expected, "{number}");
        }
        assert_eq!(shown(&Claim::Float(NOW as f64 + 0.9), NOW), "2023-11-14T22:13:20Z, now");
        assert_eq!(shown(&Claim::Text("soon".to_owned()), NOW), "no number of seconds");
    }
}
