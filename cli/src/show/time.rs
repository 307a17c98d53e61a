//! Times in words.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use raftup_proto::unit::UnixMillis;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 30 * DAY;
const YEAR: u64 = 365 * DAY;

/// From which age on each unit is used, so that a number says enough: 47 hours, but 3 days.
const STEPS: [(u64, u64, &str); 7] = [
    (2 * YEAR, YEAR, "year"),
    (2 * MONTH, MONTH, "month"),
    (2 * WEEK, WEEK, "week"),
    (2 * DAY, DAY, "day"),
    (HOUR, HOUR, "hour"),
    (MINUTE, MINUTE, "minute"),
    (1, 1, "second"),
];

/// `2 minutes`, in the largest unit that fits.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match STEPS.iter().find(|(from, ..)| seconds >= *from) {
        None => "less than a second".to_owned(),
        Some((_, unit, name)) => match seconds / unit {
            1 => format!("1 {name}"),
            count => format!("{count} {name}s"),
        },
    }
}

/// `2 minutes ago`.
pub(super) fn ago(now: UnixMillis, then: UnixMillis) -> String {
    format!("{} ago", span(now.since(then)))
}

/// `2026-11-21 10:00:00 (2 minutes ago)`, in UTC.
pub(super) fn exact(now: UnixMillis, then: UnixMillis) -> String {
    let time = i64::try_from(then.0).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    match time {
        Some(time) => {
            let time = time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
            format!("{time} ({})", ago(now, then))
        }
        None => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let check = |seconds, text: &str| assert_eq!(span(Duration::from_secs(seconds)), text);
        check(0, "less than a second");
        check(1, "1 second");
        check(59, "59 seconds");
        check(60, "1 minute");
        check(3599, "59 minutes");
        check(2 * HOUR, "2 hours");
        check(47 * HOUR, "47 hours");
        check(3 * DAY, "3 days");
        check(15 * DAY, "2 weeks");
        check(70 * DAY, "2 months");
        check(800 * DAY, "2 years");
    }

    #[test]
    fn a_clock_that_lags_shows_no_negative_time() {
        assert_eq!(ago(UnixMillis(1000), UnixMillis(9000)), "less than a second ago");
        assert_eq!(
            exact(UnixMillis(1_795_255_320_000), UnixMillis(1_795_255_200_000)),
            "2026-11-21 10:00:00 UTC (2 minutes ago)"
        );
    }
}
