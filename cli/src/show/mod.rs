//! Everything that people see: the only code that prints.
//!
//! Owns: tables, fields, progress, words for times, colours. Holds: standard output gets the answer alone; colour
//! only on terminals and not under NO_COLOR; what a table shows is a function of the data and a [`Look`]; text of others
//! controls no terminal, as [`Text`] is all that is printed.

mod blob;
mod board;
mod debug;
mod doctor;
mod error;
mod fields;
mod log;
mod look;
mod network;
mod node;
mod service;
mod stack;
mod status;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod text;
mod time;

use std::{
    fmt::Display,
    io::{self, Write},
};

use raftup_proto::{compose::Diagnostic, printable, refusal::Refusal};
use serde::Serialize;

use crate::failure::Failure;

pub(crate) use blob::{inspect as blob, list as blobs};
pub(crate) use board::Board;
pub(crate) use debug::controllers;
pub(crate) use doctor::{advised, findings};
pub(crate) use log::Log;
pub(crate) use look::Look;
pub(crate) use network::{inspect as network, list as networks};
pub(crate) use node::{inspect as node, list as nodes, notes as node_notes};
pub(crate) use service::{inspect as service, list as services, problems, updates, waiting};
pub(crate) use stack::{changes, list as stacks};
pub(crate) use status::status;
pub(crate) use task::list as tasks;
pub(crate) use text::Text;

/// Prints an answer, with a line end if it has none.
pub(crate) fn answer(text: impl Into<Text>) -> io::Result<()> {
    print(text.into().as_ref())
}

fn print(text: &str) -> io::Result<()> {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let mut out = anstream::stdout().lock();
    write!(out, "{text}{end}")?;
    out.flush()
}

/// Prints an answer as JSON.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    print(&printable::json(&serde_json::to_string_pretty(value).map_err(io::Error::other)?))
}

/// Prints an answer as JSON on one line.
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<()> {
    print(&printable::json(&serde_json::to_string(value).map_err(io::Error::other)?))
}

/// Prints a file in YAML, in which nothing is left that a terminal would obey.
pub(crate) fn yaml(text: &str) -> io::Result<()> {
    print(text)
}

/// Prints an answer line by line.
pub(crate) fn lines<T: Display>(lines: impl IntoIterator<Item = T>) -> io::Result<()> {
    print(&lines.into_iter().map(|line| format!("{}\n", Text::line(line))).collect::<String>())
}

/// Tells a person something beside the answer.
pub(crate) fn note(text: impl Display) {
    tell(&Text::line(text));
}

/// Tells why a command failed.
pub(crate) fn failure(failure: &Failure) {
    tell(&error::failure(failure));
}

/// Tells why one object of several was refused.
pub(crate) fn refusal(refusal: &Refusal) {
    tell(&error::refusal(refusal));
}

/// Tells what is odd and stops nothing.
pub(crate) fn warnings<'a>(warnings: impl IntoIterator<Item = &'a Diagnostic>) {
    for warning in warnings {
        tell(&error::warning_in_full(warning));
    }
}

/// Tells what is odd and stops nothing.
pub(crate) fn warning(text: impl Display) {
    tell(&error::warning(text));
}

/// Writes to standard error. Nobody is left to tell if that fails.
fn tell(text: &Text) {
    if !text.as_ref().is_empty() {
        drop(writeln!(anstream::stderr().lock(), "{text}"));
    }
}
