//! What every step of the loader needs: the input, the texts that were read, and the list of what was found.
//!
//! Holds: a step that cannot go on has reported why, so `None` needs no reason; at most [`REPORTED_MAX`]
//! diagnostics of a kind are kept, and the rest is counted; what is said again of the same place is said once.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use super::{Diagnostic, Excerpt, FILE_MAX, Input};

/// Most errors, and most warnings, that are kept; nobody reads more in one go.
const REPORTED_MAX: usize = 50;

/// Most files that one load reads.
const FILES_MAX: usize = 1000;
/// Most bytes that one load reads from files.
const BYTES_MAX: usize = 8 << 20;
/// Most memory that the values of all files may take, in bytes by [`super::yaml::Node::cost`].
const NODES_MAX: usize = 24 << 20;
/// Most text that interpolation may yield in one load, in bytes.
pub(super) const EXPANDED_MAX: usize = 8 << 20;

/// A place in one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the file in the order of reading.
    pub(super) file: usize,
    /// Line, from 1; 0 for the whole file.
    pub(super) line: u32,
    /// Column in characters, from 1.
    pub(super) column: u32,
    /// Characters on that line.
    pub(super) width: u32,
    /// How many further lines it spans.
    pub(super) lines: u32,
}

impl Place {
    /// The whole of a file.
    pub(super) fn file(file: usize) -> Self {
        Self { file, line: 0, column: 0, width: 0, lines: 0 }
    }

    /// Whether `other` is inside of the value that is here.
    fn holds(self, other: Self) -> bool {
        let same_line = other.line == self.line && other.column >= self.column;
        let inside = other.column < self.column.saturating_add(self.width.max(1));
        let below = other.line > self.line && other.line <= self.line.saturating_add(self.lines);
        self.file == other.file && self.line > 0 && (same_line && inside || below)
    }
}

/// A file that was read.
struct Source {
    name: PathBuf,
    text: String,
}

/// The context of one load.
pub(super) struct Cx<'a> {
    pub(super) input: &'a Input<'a>,
    /// `.env` and, over it, the process environment; set before anything is interpolated.
    pub(super) env: RefCell<BTreeMap<String, String>>,
    sources: RefCell<Vec<Source>>,
    errors: RefCell<Found>,
    warnings: RefCell<Found>,
    /// Values of which nothing more is said.
    silent: RefCell<Vec<Place>>,
    /// Variables that were warned about.
    missing: RefCell<BTreeSet<String>>,
    /// What is left of [`EXPANDED_MAX`].
    pub(super) expandable: Cell<usize>,
    /// Whether variables are expanded.
    pub(super) interpolates: bool,
    /// Whether a part of the model is missing because an `include` or `extends` failed, which was reported.
    pub(super) broken: Cell<bool>,
    /// Whether a limit of including was met, so that no more files are read.
    pub(super) exhausted: Cell<bool>,
    /// What is left of [`BYTES_MAX`].
    readable: Cell<usize>,
    /// What is left of [`NODES_MAX`].
    room: Cell<usize>,
}

/// What was found of a kind.
#[derive(Default)]
struct Found {
    kept: Vec<Reported>,
    /// How many more there were.
    omitted: usize,
}

/// A diagnostic, and how often its place gave rise to it.
struct Reported {
    at: Place,
    diagnostic: Diagnostic,
    times: usize,
}

/// Why a file could not be had.
pub(super) enum Unread {
    /// There is none.
    Missing,
    /// It was reported.
    Reported,
}

impl<'a> Cx<'a> {
    pub(super) fn new(input: &'a Input<'a>) -> Self {
        Self {
            input,
            env: RefCell::new(input.env.clone()),
            sources: RefCell::default(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            silent: RefCell::default(),
            missing: RefCell::default(),
            expandable: Cell::new(EXPANDED_MAX),
            interpolates: true,
            broken: Cell::new(false),
            exhausted: Cell::new(false),
            readable: Cell::new(BYTES_MAX),
            room: Cell::new(NODES_MAX),
        }
    }

    /// Reads a file whole: its index and text. `name` is how it is shown.
    pub(super) fn read(&self, name: &Path, path: &Path) -> Result<(usize, String), Unread> {
        let file = self.sources.borrow().len();
        if file >= FILES_MAX {
            let message = format!("more than {FILES_MAX} files are too many for one stack");
            self.error(Place::file(0), "", message, None);
            return Err(Unread::Reported);
        }
        let read = (self.input.read)(path, FILE_MAX + 1);
        self.sources.borrow_mut().push(Source { name: name.to_owned(), text: String::new() });
        let whole = Place::file(file);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unread::Missing),
            Err(error) => {
                self.error(whole, "", format!("cannot be read: {error}"), None);
                return Err(Unread::Reported);
            }
        };
        if bytes.len() as u64 > FILE_MAX {
            self.error(whole, "", format!("is larger than the limit of {} MiB", FILE_MAX >> 20), None);
            return Err(Unread::Reported);
        }
        let Some(left) = self.readable.get().checked_sub(bytes.len()) else {
            self.error(
                whole,
                "",
                format!("the files of a stack are limited to {} MiB", BYTES_MAX >> 20),
                None,
            );
            return Err(Unread::Reported);
        };
        self.readable.set(left);
        let Ok(text) = String::from_utf8(bytes) else {
            self.error(whole, "", "is not text in UTF-8", None);
            return Err(Unread::Reported);
        };
        let text = match text.strip_prefix('\u{feff}') {
            Some(text) => text.to_owned(),
            None => text,
        };
        if let Some(source) = self.sources.borrow_mut().get_mut(file) {
            source.text.clone_from(&text);
        }
        Ok((file, text))
    }

    /// How a file that lies at `path` (relative ones in the project directory) is shown, and where it is.
    pub(super) fn beside(&self, path: &Path) -> (PathBuf, PathBuf) {
        let shown = self.input.files.first().and_then(|first| first.parent()).unwrap_or(Path::new(""));
        (shown.join(path), self.input.project_dir.join(path))
    }

    /// Value of a variable from the process environment or `.env`.
    pub(super) fn var(&self, name: &str) -> Option<String> {
        self.env.borrow().get(name).cloned()
    }

    /// Takes memory for values; `false` if there is not that much left.
    pub(super) fn take(&self, cost: usize) -> bool {
        let left = self.room.get().checked_sub(cost);
        self.room.set(left.unwrap_or(0));
        left.is_some()
    }

    pub(super) fn error(&self, at: Place, path: &str, message: impl Into<String>, help: Option<String>) {
        self.push(&self.errors, at, path, message.into(), help);
    }

    pub(super) fn warn(&self, at: Place, path: &str, message: impl Into<String>, help: Option<String>) {
        self.push(&self.warnings, at, path, message.into(), help);
    }

    /// Keeps quiet about the value at `at` from here on: it is wrong, and that was said.
    pub(super) fn silence(&self, at: Place) {
        let mut silent = self.silent.borrow_mut();
        if silent.len() < REPORTED_MAX && !silent.contains(&at) {
            silent.push(at);
        }
    }

    fn push(&self, list: &RefCell<Found>, at: Place, path: &str, message: String, help: Option<String>) {
        let mut list = list.borrow_mut();
        let again = |found: &&mut Reported| {
            (found.at.file, found.at.line, found.at.column) == (at.file, at.line, at.column)
                && found.diagnostic.message == message
        };
        if let Some(found) = list.kept.iter_mut().find(again) {
            found.times += 1;
            return;
        }
        if self.silent.borrow().iter().any(|value| value.holds(at)) {
            return;
        }
        if list.kept.len() >= REPORTED_MAX {
            list.omitted += 1;
            return;
        }
        let sources = self.sources.borrow();
        let source = sources.get(at.file);
        let line = source.and_then(|source| source.text.lines().nth(at.line.checked_sub(1)? as usize));
        let diagnostic = Diagnostic {
            file: source.map(|source| source.name.clone()).unwrap_or_default(),
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            message,
            help,
            excerpt: line.map(|line| Excerpt::new(line, at.column, at.width)),
        };
        list.kept.push(Reported { at, diagnostic, times: 1 });
    }

    /// The whole of the file that was asked for last.
    pub(super) fn last(&self) -> Place {
        Place::file(self.sources.borrow().len().saturating_sub(1))
    }

    /// How many errors were reported.
    pub(super) fn errors(&self) -> usize {
        let errors = self.errors.borrow();
        errors.kept.len() + errors.omitted
    }

    /// `FILE:LINE:COLUMN` of a place, for messages that name a second one.
    pub(super) fn show(&self, at: Place) -> String {
        let sources = self.sources.borrow();
        let name = sources.get(at.file).map(|source| source.name.display().to_string()).unwrap_or_default();
        format!("{name}:{}:{}", at.line, at.column)
    }

    /// Whether a missing variable is worth a warning: the first time, as long as there is room.
    pub(super) fn is_news(&self, variable: &str) -> bool {
        let mut missing = self.missing.borrow_mut();
        missing.len() < REPORTED_MAX && missing.insert(variable.to_owned())
    }

    /// The place of `needle` inside the scalar that begins at `at`: on its first line, or on one of those that follow.
    pub(super) fn find(&self, at: Place, needle: &str) -> Place {
        let needle = needle.lines().next().unwrap_or_default();
        if self.errors() >= REPORTED_MAX || needle.is_empty() {
            return at;
        }
        let sources = self.sources.borrow();
        let Some(source) = sources.get(at.file) else { return at };
        let (first, count) = (at.line.saturating_sub(1), at.lines.saturating_add(1));
        let lines = source.text.lines().skip(first as usize).take(count as usize);
        for (number, line) in (0_u32..).zip(lines) {
            let skip = if number > 0 { 0 } else { at.column.saturating_sub(1) as usize };
            let Some((start, _)) = line.char_indices().nth(skip) else { continue };
            let Some(before) = line[start..].find(needle) else { continue };
            let Ok(column) = u32::try_from(line[..start + before].chars().count() + 1) else { continue };
            let width = u32::try_from(needle.chars().count()).unwrap_or(1);
            return Place { line: at.line + number, column, width, lines: 0, ..at };
        }
        at
    }

    /// The place of `needle`, which stands shortly before `at`, as a tag before its value.
    pub(super) fn find_before(&self, at: Place, needle: &str) -> Place {
        /// A tag may stand on a line of its own.
        const LINES: u32 = 3;
        let sources = self.sources.borrow();
        let Some(source) = sources.get(at.file) else { return at };
        let first = at.line.saturating_sub(LINES).max(1);
        let lines: Vec<&str> =
            source.text.lines().skip(first as usize - 1).take((at.line - first) as usize + 1).collect();
        for (number, line) in (first..).zip(lines).collect::<Vec<_>>().into_iter().rev() {
            let most = if number == at.line { at.column.saturating_sub(1) as usize } else { usize::MAX };
            let end = line.char_indices().nth(most).map_or(line.len(), |(end, _)| end);
            let Some(before) = line[..end].rfind(needle) else { continue };
            let Ok(column) = u32::try_from(line[..before].chars().count() + 1) else { continue };
            let width = u32::try_from(needle.chars().count()).unwrap_or(1);
            return Place { line: number, column, width, lines: 0, ..at };
        }
        at
    }

    /// Errors and warnings, each in the order of the files; the last one of a kind says how many were left out.
    pub(super) fn into_diagnostics(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        (self.errors.into_inner().sorted("errors"), self.warnings.into_inner().sorted("warnings"))
    }
}

impl Found {
    fn sorted(mut self, what: &str) -> Vec<Diagnostic> {
        self.kept.sort_by_key(|found| (found.at.file, found.at.line, found.at.column));
        let mut list: Vec<Diagnostic> = self.kept.into_iter().map(Reported::counted).collect();
        if self.omitted > 0 {
            list.push(Diagnostic::without_place(format!("{} more {what} are not shown", self.omitted)));
        }
        list
    }
}

impl Reported {
    fn counted(mut self) -> Diagnostic {
        if self.times > 1 {
            let text = format!(" ({} times, as this line is used more than once)", self.times);
            self.diagnostic.message.push_str(&text);
        }
        self.diagnostic
    }
}
