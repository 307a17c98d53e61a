//! Errors: what is wrong, then what to do.

use std::{fmt::Display, io};

use anstyle::{AnsiColor, Style};
use raftup_proto::{
    compose::{Diagnostic, Problems},
    refusal::Refusal,
};

use super::text::{Text, line};
use crate::failure::Failure;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// The text for a failure, empty where everything was told already.
pub(super) fn failure(failure: &Failure) -> Text {
    match failure {
        Failure::Refused(refused) => refusal(refused),
        Failure::Compose(problems) => compose(problems),
        Failure::Interrupted(text) => Text::of_parts(format!("\n{}", line(text))),
        Failure::Told(_) => Text::default(),
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Text::default(),
        Failure::Output(error) => one(ERROR, "error", line(format!("the answer cannot be written: {error}"))),
    }
}

/// The text for a refusal.
pub(super) fn refusal(refusal: &Refusal) -> Text {
    let error = one(ERROR, "error", line(&refusal.message));
    match &refusal.hint {
        Some(hint) => Text::of_parts(format!("{error}\n{}", one(HINT, "hint", line(hint)))),
        None => error,
    }
}

/// The text for something odd.
pub(super) fn warning(text: impl Display) -> Text {
    one(WARNING, "warning", line(text))
}

/// The text for something odd in a file, with the place.
pub(super) fn warning_in_full(diagnostic: &Diagnostic) -> Text {
    one(WARNING, "warning", Text::lines(diagnostic))
}

/// `what` is clean already.
fn one(style: Style, word: &str, what: impl Display) -> Text {
    Text::of_parts(format!("{style}{word}:{style:#} {what}"))
}

fn compose(problems: &Problems) -> Text {
    let warnings = problems.warnings.iter().map(warning_in_full);
    let errors = problems.errors.iter().map(|error| one(ERROR, "error", Text::lines(error)));
    let mut parts: Vec<String> = warnings.chain(errors).map(|text| text.to_string()).collect();
    parts.push(one(HINT, "hint", "nothing was changed").to_string());
    Text::of_parts(parts.join("\n\n"))
}
