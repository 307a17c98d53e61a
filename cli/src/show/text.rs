//! Text that may go to a terminal.
//!
//! Holds: what is not of this program (host names, output of health checks, names of containers, messages of engines) reaches a
//! terminal escaped, by one of the constructors here. Only lines of logs are shown as containers wrote them, as Docker does.

use std::fmt::{self, Display};

use raftup_proto::printable;

/// Text that does nothing to a terminal but show itself, and colours of this program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(String);

impl Text {
    /// One line, whatever stands in it.
    pub(crate) fn line(text: impl Display) -> Self {
        Self(line(text))
    }

    /// Several lines, for text in which nothing of others has a line end of its own.
    pub(crate) fn lines(text: impl Display) -> Self {
        Self(printable::lines(&text.to_string()).into_owned())
    }

    /// Put together of such text, and of colours.
    pub(super) fn of_parts(text: String) -> Self {
        Self(text)
    }

    /// One below the other, with an empty line between them.
    pub(crate) fn below_each_other(texts: &[Self]) -> Self {
        Self(texts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("\n"))
    }
}

/// As [`Text::line`], to be part of a text.
pub(super) fn line(text: impl Display) -> String {
    printable::line(&text.to_string()).into_owned()
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::line(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::line(text)
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Self::line(text)
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
