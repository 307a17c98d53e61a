//! Errors: what is wrong, then what to do.

use std::{fmt::Display, io};

use anstyle::{AnsiColor, Style};
use raftup_proto::{compose::Problems, refusal::Refusal};

use crate::failure::Failure;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

/// The text for a failure, empty where everything was told already.
pub(super) fn failure(failure: &Failure) -> String {
    match failure {
        Failure::Refused(refused) => refusal(refused),
        Failure::Compose(problems) => compose(problems),
        Failure::Interrupted(text) => format!("\n{text}"),
        Failure::Told(_) => String::new(),
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => String::new(),
        Failure::Output(error) => error_line(format!("the answer cannot be written: {error}")),
    }
}

/// The text for a refusal.
pub(super) fn refusal(refusal: &Refusal) -> String {
    let error = error_line(&refusal.message);
    match &refusal.hint {
        Some(hint) => format!("{error}\n{HINT}hint:{HINT:#} {hint}"),
        None => error,
    }
}

/// The text for something odd.
pub(super) fn warning(text: impl Display) -> String {
    format!("{WARNING}warning:{WARNING:#} {text}")
}

fn error_line(text: impl Display) -> String {
    format!("{ERROR}error:{ERROR:#} {text}")
}

fn compose(problems: &Problems) -> String {
    let warnings = problems.warnings.iter().map(warning);
    let errors = problems.errors.iter().map(error_line);
    let mut parts: Vec<String> = warnings.chain(errors).collect();
    parts.push(format!("{HINT}hint:{HINT:#} nothing was changed"));
    parts.join("\n\n")
}
