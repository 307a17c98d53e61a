//! `healthcheck`.

use std::time::Duration;

use super::{
    item::{Fields, Item},
    keys,
    text::clip,
    yaml::Kind,
};
use crate::spec::Healthcheck;

/// Shortest time that the engine takes for any part of a check.
const SHORTEST: Duration = Duration::from_millis(1);

/// Reads a health check; `None` leaves the image's own one.
pub(super) fn read(item: &Item<'_>) -> Option<Healthcheck> {
    let fields = item.fields()?;
    let disabled = fields.get("disable").and_then(|item| item.flag()).unwrap_or(false);
    let test = fields.get("test").map(|item| test(&item));
    let check = Healthcheck::Check {
        interval: time(&fields, "interval"),
        timeout: time(&fields, "timeout"),
        retries: fields.get("retries").and_then(|item| item.whole(0, 1000)).filter(|retries| *retries > 0),
        start_period: time(&fields, "start_period"),
        start_interval: time(&fields, "start_interval"),
        test: match &test {
            Some(Test::Run(words)) => Some(words.clone()),
            Some(Test::None | Test::Inherit) | None => None,
        },
    };
    fields.end(&keys::HEALTHCHECK);
    match test {
        _ if disabled => Some(Healthcheck::Disabled),
        Some(Test::None) => Some(Healthcheck::Disabled),
        Some(Test::Run(_) | Test::Inherit) | None => Some(check),
    }
}

enum Test {
    /// `NONE`: no check at all.
    None,
    /// The image's own.
    Inherit,
    Run(Vec<String>),
}

fn test(item: &Item<'_>) -> Test {
    if let Kind::Scalar(line) = &item.node.kind {
        return match line.trim() {
            "" => Test::Inherit,
            _ => Test::Run(vec!["CMD-SHELL".to_owned(), line.clone()]),
        };
    }
    let words: Vec<String> = item.items().iter().filter_map(|word| word.text().map(str::to_owned)).collect();
    let kinds: Vec<&str> = words.iter().map(String::as_str).collect();
    match kinds.as_slice() {
        [] => Test::Inherit,
        ["NONE"] => Test::None,
        ["CMD", _, ..] | ["CMD-SHELL", _] => Test::Run(words),
        ["NONE", ..] => {
            item.error("nothing may follow `NONE`");
            Test::Inherit
        }
        ["CMD"] | ["CMD-SHELL"] => {
            item.error(format!("the command after `{}` is missing", kinds[0]));
            Test::Inherit
        }
        ["CMD-SHELL", line, ..] => {
            let help = format!("write the whole line as one text: `[\"CMD-SHELL\", \"{} ...\"]`", clip(line));
            let message = "the shell runs the first text alone; the others are its arguments";
            item.cx.warn(item.node.at, &item.path, message, Some(help));
            Test::Run(words)
        }
        [..] => {
            let help = "such as `[\"CMD\", \"curl\", \"-f\", \"http://localhost\"]`";
            item.error_help("must begin with `CMD`, `CMD-SHELL` or `NONE`", help);
            Test::Inherit
        }
    }
}

/// A time; zero stands for the image's own, as in the engine.
fn time(fields: &Fields<'_>, key: &'static str) -> Option<Duration> {
    let item = fields.get(key)?;
    let time = item.duration()?;
    if time > Duration::ZERO && time < SHORTEST {
        item.error("must be at least 1ms");
    }
    Some(time).filter(|time| !time.is_zero())
}
