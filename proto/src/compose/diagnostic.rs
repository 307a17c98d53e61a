//! What is wrong with a file, and where.
//!
//! Owns: the plain text that a person reads. Colours are for whoever prints.

use std::{fmt, path::PathBuf};

use crate::refusal::{Code, Refusal};

/// One thing that is wrong or odd in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Its line, from 1; 0 where the whole file is meant.
    pub line: u32,
    /// The column in characters, from 1; 0 where the whole file is meant.
    pub column: u32,
    /// Where it is in the model, such as `services.web.ports[0]`; empty where that is not known.
    pub path: String,
    /// What is wrong; lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The line of the file.
    pub excerpt: Option<Excerpt>,
}

impl Diagnostic {
    /// One that is about no file.
    pub(super) fn without_place(message: String) -> Self {
        let (file, path) = (PathBuf::new(), String::new());
        Self { file, line: 0, column: 0, path, message, help: None, excerpt: None }
    }
}

/// A line of a file with the part that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line, or a part of a long one, safe to print.
    pub text: String,
    /// Characters of `text` before the part.
    pub start: usize,
    /// Characters in the part, at least 1.
    pub width: usize,
}

/// Longest part of a line that is shown, in characters.
const EXCERPT_MAX: usize = 120;
/// How much of a long line is shown before the part that is meant, in characters.
const EXCERPT_LEAD: usize = 40;

impl Excerpt {
    /// The excerpt of `line` around `column` (from 1).
    pub(super) fn new(line: &str, column: u32, width: u32) -> Self {
        let column = usize::try_from(column).unwrap_or(usize::MAX).saturating_sub(1);
        let skip =
            if line.chars().nth(EXCERPT_MAX).is_none() { 0 } else { column.saturating_sub(EXCERPT_LEAD) };
        let text: String = line.chars().skip(skip).take(EXCERPT_MAX).map(printable).collect();
        let length = text.trim_end().chars().count();
        let start = (column - skip).min(length);
        let width = usize::try_from(width).unwrap_or(usize::MAX);
        Self { text: text.trim_end().to_owned(), start, width: width.min(length - start).max(1) }
    }
}

/// A character that moves no cursor and starts no escape sequence.
fn printable(char: char) -> char {
    match char {
        '\t' => ' ',
        char if char.is_control() => '\u{fffd}',
        char => char,
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.file.display()) {
            (0, file) if self.file.as_os_str().is_empty() => write!(f, "{file}")?,
            (0, file) => write!(f, "{file}: ")?,
            (line, file) => write!(f, "{file}:{line}:{}: ", self.column)?,
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        if let Some(excerpt) = &self.excerpt {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            write!(f, "\n {number} | {}", excerpt.text)?;
            write!(f, "\n {margin} | {}{}", " ".repeat(excerpt.start), "^".repeat(excerpt.width))?;
        }
        match &self.help {
            Some(help) => write!(f, "\n   help: {help}"),
            None => Ok(()),
        }
    }
}

/// Why a stack could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// What is wrong, at least one, in the order of the files.
    pub errors: Vec<Diagnostic>,
    /// What is odd besides.
    pub warnings: Vec<Diagnostic>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let gap = if index > 0 { "\n\n" } else { "" };
            write!(f, "{gap}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Refusal {
    fn from(problems: Problems) -> Self {
        Self::new(Code::Invalid, problems)
    }
}
