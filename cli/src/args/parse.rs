//! Values that are more than a word: durations, times, labels, scales.

use std::{str::FromStr, time::Duration};

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use raftup_proto::unit::UnixMillis;

/// How long something is waited for; none waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<Duration>);

/// A point of time to start from.
pub(crate) type Since = UnixMillis;

/// How many lines of each task; none for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail(pub(crate) Option<u64>);

/// A service and the number of replicas that it shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Name, id or beginning of an id.
    pub(crate) service: String,
    /// The number.
    pub(crate) replicas: u32,
}

/// `90s`, `5m`, `1h30m`; a bare number counts seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let odd = || "a duration is written like `90s`, `5m` or `1h30m`".to_owned();
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let signed: SignedDuration = text.parse().map_err(|_| odd())?;
    Duration::try_from(signed).map_err(|_| odd())
}

/// An option of a network, as of Docker's overlay driver: whether it is encrypted.
pub(super) fn encrypted(text: &str) -> Result<bool, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("encrypted", "" | "true") => Ok(true),
        ("encrypted", "false") => Ok(false),
        (_, _) => Err("it is `encrypted` or `encrypted=false`".to_owned()),
    }
}

pub(super) fn limit(text: &str) -> Result<Limit, String> {
    Ok(Limit(Some(duration(text)?).filter(|limit| !limit.is_zero())))
}

pub(super) fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        count => count.parse().map(|lines| Tail(Some(lines))).map_err(|_| "a number, or `all`".to_owned()),
    }
}

pub(super) fn since(text: &str) -> Result<Since, String> {
    since_at(text, Timestamp::now(), &TimeZone::system())
}

/// A duration before `now`, an exact time, or a local one in `zone`.
fn since_at(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Since, String> {
    let time = match (duration(text), text.parse::<Timestamp>(), text.parse::<civil::DateTime>()) {
        (Ok(ago), _, _) => now.checked_sub(ago).ok(),
        (_, Ok(time), _) => Some(time),
        (_, _, Ok(local)) => zone.to_timestamp(local).ok(),
        (Err(_), Err(_), Err(_)) => None,
    };
    time.and_then(|time| u64::try_from(time.as_millisecond()).ok())
        .map(UnixMillis)
        .ok_or_else(|| "a duration such as `10m`, or a time such as `2026-11-21T09:30:00`".to_owned())
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a label is written like `disk=ssd`".to_owned()),
    }
}

/// `KEY=VALUE`, where the value may be empty.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a variable is written like `LEVEL=debug`".to_owned()),
    }
}

/// A word that the type knows; else the type says what it knows.
pub(super) fn word<T: FromStr<Err = String>>(text: &str) -> Result<T, String> {
    text.parse()
}

pub(super) fn scale(text: &str) -> Result<Scale, String> {
    let odd = || "written like `shop_web=3`".to_owned();
    let (service, replicas) = text.split_once('=').ok_or_else(odd)?;
    if service.is_empty() {
        return Err(odd());
    }
    let replicas = replicas.parse().map_err(|_| format!("`{replicas}` is no number of replicas"))?;
    Ok(Scale { service: service.to_owned(), replicas })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse() {
        assert_eq!(limit("0"), Ok(Limit(None)));
        assert_eq!(limit("0s"), Ok(Limit(None)));
        assert_eq!(limit("90"), Ok(Limit(Some(Duration::from_secs(90)))));
        assert_eq!(limit("1h30m"), Ok(Limit(Some(Duration::from_secs(5400)))));
        assert_eq!(limit("250ms"), Ok(Limit(Some(Duration::from_millis(250)))));
        for text in ["", "soon", "-5s", "-5", "5 parsecs"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_parse() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let at = |text| since_at(text, now, &zone).map(|since| since.0);
        let expected = u64::try_from(now.as_millisecond()).unwrap() - 600_000;
        for text in ["10m", "600", "2026-11-21T09:50:00Z", "2026-11-21T10:50:00", "2026-11-21 10:50"] {
            assert_eq!(at(text), Ok(expected), "{text}");
        }
        assert!(at("yesterday").is_err());
    }

    #[test]
    fn scales_and_labels_parse() {
        assert_eq!(scale("a=3"), Ok(Scale { service: "a".to_owned(), replicas: 3 }));
        for text in ["a", "=3", "a=", "a=-1", "a=x"] {
            assert!(scale(text).is_err(), "{text}");
        }
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("=b").is_err());
        assert!(label("a").is_err());
    }
}
