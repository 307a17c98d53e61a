//! What every step of the loader needs: the input, the texts that were read, and the list of what was found.
//!
//! Holds: a step that cannot go on has reported why, so `None` needs no reason; at most [`REPORTED_MAX`]
//! diagnostics of a kind are kept.

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
const FILES_MAX: usize = 64;
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
}

impl Place {
    /// The whole of a file.
    pub(super) fn file(file: usize) -> Self {
        Self { file, line: 0, column: 0, width: 0 }
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
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
    /// Variables that were warned about.
    missing: RefCell<BTreeSet<String>>,
    /// What is left of [`EXPANDED_MAX`].
    pub(super) expandable: Cell<usize>,
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
            missing: RefCell::default(),
            expandable: Cell::new(EXPANDED_MAX),
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
        let Ok(text) = String::from_utf8(bytes) else {
            self.error(whole, "", "is not text in UTF-8", None);
            return Err(Unread::Reported);
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

    pub(super) fn error(&self, at: Place, path: &str, message: impl Into<String>, help: Option<String>) {
        self.push(&self.errors, at, path, message.into(), help);
    }

    pub(super) fn warn(&self, at: Place, path: &str, message: impl Into<String>, help: Option<String>) {
        self.push(&self.warnings, at, path, message.into(), help);
    }

    fn push(
        &self,
        list: &RefCell<Vec<Diagnostic>>,
        at: Place,
        path: &str,
        message: String,
        help: Option<String>,
    ) {
        let mut list = list.borrow_mut();
        if list.len() >= REPORTED_MAX {
            return;
        }
        let sources = self.sources.borrow();
        let source = sources.get(at.file);
        let line = source.and_then(|source| source.text.lines().nth(at.line.checked_sub(1)? as usize));
        list.push(Diagnostic {
            file: source.map(|source| source.name.clone()).unwrap_or_default(),
            line: at.line,
            column: at.column,
            path: path.to_owned(),
            message,
            help,
            excerpt: line.map(|line| Excerpt::new(line, at.column, at.width)),
        });
    }

    /// The whole of the file that was asked for last.
    pub(super) fn last(&self) -> Place {
        Place::file(self.sources.borrow().len().saturating_sub(1))
    }

    /// How many errors were reported.
    pub(super) fn errors(&self) -> usize {
        self.errors.borrow().len()
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

    /// The place of `needle` inside the scalar that begins at `at`, if it is on the same line.
    pub(super) fn find(&self, at: Place, needle: &str) -> Place {
        if self.errors() >= REPORTED_MAX {
            return at;
        }
        let sources = self.sources.borrow();
        let found = sources.get(at.file).and_then(|source| {
            let line = source.text.lines().nth(at.line.checked_sub(1)? as usize)?;
            let skip = line.char_indices().nth(at.column.checked_sub(1)? as usize)?.0;
            let before = line[skip..].find(needle)?;
            u32::try_from(line[skip..skip + before].chars().count()).ok()
        });
        let width = u32::try_from(needle.chars().count()).unwrap_or(1);
        found.map_or(at, |before| Place { column: at.column + before, width, ..at })
    }

    /// Errors and warnings, each in the order of the files.
    pub(super) fn into_diagnostics(self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        let sources = self.sources.into_inner();
        let order = |found: &Diagnostic| {
            let file = sources.iter().position(|source| source.name == found.file);
            (file, found.line, found.column)
        };
        let sorted = |mut list: Vec<Diagnostic>| {
            list.sort_by_key(order);
            list.dedup();
            list
        };
        (sorted(self.errors.into_inner()), sorted(self.warnings.into_inner()))
    }
}
