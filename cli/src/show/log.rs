//! Lines that containers wrote, as they wrote them; whose they are is not theirs to say.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use raftup_proto::api::LogLine;

use super::text::line as clean;

/// Colours that tell tasks apart; red is left to errors.
const COLOURS: [AnsiColor; 5] =
    [AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Magenta, AnsiColor::Yellow, AnsiColor::Blue];

/// Prints lines as they come, each to the stream that the container wrote it to.
pub(crate) struct Log {
    raw: bool,
    timestamps: bool,
    /// Width of the longest source so far.
    width: usize,
    out: anstream::Stdout,
    err: anstream::Stderr,
}

impl Log {
    /// Prints with the time of each line if `timestamps`, and without its source if `raw`.
    pub(crate) fn new(raw: bool, timestamps: bool) -> Self {
        Self { raw, timestamps, width: 0, out: anstream::stdout(), err: anstream::stderr() }
    }

    /// Prints a line.
    pub(crate) fn print(&mut self, line: &LogLine) -> io::Result<()> {
        let text = self.text(line);
        if line.stderr { self.err.write_all(text.as_bytes()) } else { self.out.write_all(text.as_bytes()) }
    }

    pub(super) fn text(&mut self, line: &LogLine) -> String {
        let time = if self.timestamps { format!("{} ", time(line.at_nanos)) } else { String::new() };
        if self.raw {
            return format!("{time}{}\n", line.line);
        }
        let source = clean(format!("{}@{}", line.source, line.hostname));
        self.width = self.width.max(source.chars().count());
        let style = colour(&line.source);
        format!("{time}{style}{source:<width$}{style:#} | {}\n", line.line, width = self.width)
    }
}

fn time(at_nanos: i64) -> String {
    match Timestamp::from_nanosecond(i128::from(at_nanos)) {
        Ok(time) => format!("{time:.6}"),
        Err(_) => "?".to_owned(),
    }
}

/// The same colour for the same source, in every run.
fn colour(source: &str) -> Style {
    let sum = source.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    COLOURS.get(sum % COLOURS.len()).map_or_else(Style::new, |colour| colour.on_default())
}
