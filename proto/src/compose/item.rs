//! Typed reading of nodes: a value, where it is in the model, and what to say when it is not what it should be.
//!
//! Owns: the wording of type errors, unknown keys and near misses. Holds: a reader that answers `None` has reported
//! why, unless it says otherwise; each key of a mapping is either taken by name or refused by name.

use std::{cell::RefCell, collections::BTreeMap, str::FromStr, time::Duration};

use indexmap::IndexMap;

use super::{
    cx::{Cx, Place},
    keys::{Effect, Table},
    text::{self, clip},
    yaml::{Entry, Kind, Map, Node},
};
use crate::name::BadName;

/// The extension that is ours, and so not for others to ignore.
pub(super) const EXTENSION: &str = "x-raftup";

/// A value with its place in the files and in the model.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub(super) cx: &'a Cx<'a>,
    pub(super) node: &'a Node,
    /// Such as `services.web.ports[0]`.
    pub(super) path: String,
}

impl<'a> Item<'a> {
    pub(super) fn root(cx: &'a Cx<'a>, node: &'a Node) -> Self {
        Self { cx, node, path: String::new() }
    }

    pub(super) fn error(&self, message: impl Into<String>) {
        self.cx.error(self.node.at, &self.path, message, None);
    }

    pub(super) fn error_help(&self, message: impl Into<String>, help: impl Into<String>) {
        self.cx.error(self.node.at, &self.path, message, Some(help.into()));
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        self.cx.warn(self.node.at, &self.path, message, None);
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    fn child(&self, key: &str, node: &'a Node) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { cx: self.cx, node, path: format!("{}{dot}{}", self.path, clip(key)) }
    }

    /// Any scalar but null, as written.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Scalar(text) if text.contains('\0') => {
                self.error("holds a NUL character");
                None
            }
            Kind::Scalar(text) => Some(text),
            Kind::Null | Kind::List(_) | Kind::Map(_) => {
                self.wrong("a text");
                None
            }
        }
    }

    /// A text that is not empty.
    pub(super) fn filled(&self) -> Option<&'a str> {
        let text = self.text()?;
        if text.trim().is_empty() {
            self.wrong("a text");
            return None;
        }
        Some(text)
    }

    /// Reads the text with a function that answers what is wrong.
    pub(super) fn parse<T, E: ToString>(&self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        match read(self.filled()?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(message.to_string());
                None
            }
        }
    }

    pub(super) fn whole(&self, min: u32, max: u32) -> Option<u32> {
        let value = self.parse(|text| text::whole(text, min.into(), max.into()))?;
        u32::try_from(value).ok()
    }

    pub(super) fn flag(&self) -> Option<bool> {
        let (value, old) = self.parse(text::switch)?;
        if old {
            self.warn(format!("write `{value}`: YAML 1.2 knows no other words for it"));
        }
        Some(value)
    }

    /// One of a few words.
    pub(super) fn word(&self, words: &[&'static str]) -> Option<&'static str> {
        self.parse(|text| {
            let found = words.iter().find(|word| **word == text).copied();
            found.ok_or_else(|| match words {
                [word] => format!("`{}` is not `{word}`, the only word for it here", clip(text)),
                words => format!("`{}` is none of `{}`", clip(text), words.join("`, `")),
            })
        })
    }

    /// The texts of a list.
    pub(super) fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(|item| item.filled().map(str::to_owned)).collect()
    }

    /// A mapping of texts, or a list of `KEY=VALUE`, without places. No value is an empty one.
    pub(super) fn values(&self) -> BTreeMap<String, String> {
        let pairs = self.pairs().into_iter();
        pairs.map(|(key, (value, _))| (key.to_owned(), value.unwrap_or_default().to_owned())).collect()
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.kind, Kind::List(_))
    }

    /// An empty text, as an unset variable leaves it, or null.
    pub(super) fn is_blank(&self) -> bool {
        match &self.node.kind {
            Kind::Null => true,
            Kind::Scalar(text) => text.trim().is_empty(),
            Kind::List(_) | Kind::Map(_) => false,
        }
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        self.parse(text::duration)
    }

    /// The elements of a list; null has none.
    pub(super) fn items(&self) -> Vec<Self> {
        match &self.node.kind {
            Kind::List(nodes) => {
                let element =
                    |(index, node)| Self { cx: self.cx, node, path: format!("{}[{index}]", self.path) };
                nodes.iter().enumerate().map(element).collect()
            }
            Kind::Null => Vec::new(),
            Kind::Scalar(_) | Kind::Map(_) => {
                self.wrong("a list");
                Vec::new()
            }
        }
    }

    /// The elements of a list, or a single scalar as one.
    pub(super) fn one_or_more(&self) -> Vec<Self> {
        match &self.node.kind {
            Kind::Scalar(_) => vec![self.clone()],
            Kind::Null | Kind::List(_) | Kind::Map(_) => self.items(),
        }
    }

    /// A mapping with keys that are known beforehand; `None` without a word for null.
    pub(super) fn fields(&self) -> Option<Fields<'a>> {
        match &self.node.kind {
            Kind::Map(map) => Some(Fields { item: self.clone(), map, taken: RefCell::default() }),
            Kind::Null => None,
            Kind::Scalar(_) | Kind::List(_) => {
                self.wrong("a mapping");
                None
            }
        }
    }

    /// A mapping with keys that the user chose: the key, where it is, its value. Null has none.
    pub(super) fn entries(&self) -> Vec<(&'a str, Place, Self)> {
        match &self.node.kind {
            Kind::Map(map) => {
                let entry = |(key, entry): (&'a String, &'a Entry)| {
                    (key.as_str(), entry.key_at, self.child(key, &entry.value))
                };
                map.iter().map(entry).collect()
            }
            Kind::Null => Vec::new(),
            Kind::Scalar(_) | Kind::List(_) => {
                self.wrong("a mapping");
                Vec::new()
            }
        }
    }

    /// A key at `at` that names this value.
    pub(super) fn name<T: FromStr<Err = BadName>>(&self, key: &str, at: Place) -> Option<T> {
        match key.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                self.cx.error(at, &self.path, error.to_string(), None);
                None
            }
        }
    }

    /// A mapping of texts, or a list of `KEY=VALUE`; the value is `None` where there is none. Later ones of a key win.
    pub(super) fn pairs(&self) -> IndexMap<&'a str, (Option<&'a str>, Self)> {
        let mut pairs = IndexMap::new();
        match &self.node.kind {
            Kind::List(_) => {
                for item in self.items() {
                    let Some(text) = item.filled() else { continue };
                    let (key, value) = match text.split_once('=') {
                        Some((key, value)) => (key, Some(value)),
                        None => (text, None),
                    };
                    item.check_key(key);
                    pairs.insert(key, (value, item));
                }
            }
            Kind::Null | Kind::Scalar(_) | Kind::Map(_) => {
                for (key, at, item) in self.entries() {
                    let value = if item.is_null() { None } else { item.text() };
                    item.check_key_at(key, at);
                    pairs.insert(key, (value, item));
                }
            }
        }
        pairs
    }

    fn check_key(&self, key: &str) {
        self.check_key_at(key, self.node.at);
    }

    fn check_key_at(&self, key: &str, at: Place) {
        if key.trim().is_empty() {
            self.cx.error(at, &self.path, "the name before `=` is missing", None);
        } else if key.contains(['\0', '=']) {
            self.cx.error(at, &self.path, format!("`{}` cannot be a name", clip(key)), None);
        }
    }

    fn wrong(&self, wanted: &str) {
        let found = match &self.node.kind {
            Kind::Null => return self.error(format!("has no value; it must be {wanted}")),
            Kind::Scalar(text) if text.trim().is_empty() => "an empty text",
            Kind::Scalar(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        };
        let wanted = if found == "an empty text" && wanted == "a text" { "a value" } else { wanted };
        self.error(format!("must be {wanted}, not {found}"));
    }
}

/// A mapping whose keys are taken by name.
pub(super) struct Fields<'a> {
    pub(super) item: Item<'a>,
    map: &'a Map,
    taken: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The value of a key, which is thereby known.
    pub(super) fn get(&self, key: &'static str) -> Option<Item<'a>> {
        self.taken.borrow_mut().push(key);
        self.map.get(key).map(|entry| self.item.child(key, &entry.value))
    }

    /// The value of a key, which is thereby known; none where it is null or, as an unset variable leaves it, empty.
    pub(super) fn given(&self, key: &'static str) -> Option<Item<'a>> {
        self.get(key).filter(|item| !item.is_blank())
    }

    /// Where a key is.
    pub(super) fn key_at(&self, key: &str) -> Option<Place> {
        self.map.get(key).map(|entry| entry.key_at)
    }

    /// How many entries the mapping under a key has, without extensions.
    pub(super) fn map_length(&self, key: &str) -> usize {
        match self.map.get(key).map(|entry| &entry.value.kind) {
            Some(Kind::Map(map)) => map.keys().filter(|key| !key.starts_with("x-")).count(),
            Some(Kind::Null | Kind::Scalar(_) | Kind::List(_)) | None => 0,
        }
    }

    /// Says of every key that was not taken what its table says: no effect, once, or refused. One that is not in the table
    /// is unknown.
    pub(super) fn end(self, table: &'static Table) {
        let taken = self.taken.into_inner();
        let cx = self.item.cx;
        for (key, entry) in self.map {
            let other = key.starts_with("x-") && key != EXTENSION;
            if taken.contains(&key.as_str()) || other {
                continue;
            }
            let path = self.item.child(key, &entry.value).path;
            match table.find(key).map(|key| key.effect) {
                Some(Effect::Idle(why)) => {
                    if cx.is_news(&format!("{} {key}", table.path)) {
                        cx.warn(entry.key_at, &path, format!("has no effect: {why}"), None);
                    }
                }
                Some(Effect::Refused(why, instead)) => {
                    let help = (!instead.is_empty()).then(|| instead.to_owned());
                    cx.error(entry.key_at, &path, why, help);
                }
                Some(Effect::Applied(_)) => cx.error(entry.key_at, &path, "is not supported here", None),
                None if key == EXTENSION => {
                    let help = Some("it belongs to a service".to_owned());
                    cx.error(entry.key_at, &path, format!("`{EXTENSION}` says nothing here"), help);
                }
                None => {
                    let near = text::nearest(key, table.keys.iter().map(|key| key.name));
                    let help = near.map(|near| format!("did you mean `{near}`?"));
                    cx.error(entry.key_at, &path, format!("unknown key `{}`", clip(key)), help);
                }
            }
        }
    }

    /// Refuses every key that was not taken; those in `later` belong to the Compose Specification, those that begin with
    /// `x-` to others.
    pub(super) fn finish(self, later: &[&'static str]) {
        let taken = self.taken.into_inner();
        for (key, entry) in self.map {
            if taken.contains(&key.as_str()) || (key.starts_with("x-") && key != EXTENSION) {
                continue;
            }
            let path = self.item.child(key, &entry.value).path;
            if key == EXTENSION {
                let help = Some("it belongs to a service".to_owned());
                self.item.cx.error(entry.key_at, &path, format!("`{EXTENSION}` says nothing here"), help);
                continue;
            }
            if later.contains(&key.as_str()) {
                self.item.cx.error(entry.key_at, &path, "is not supported yet", None);
                continue;
            }
            let near = text::nearest(key, taken.iter().chain(later).copied());
            let help = near.map(|near| format!("did you mean `{near}`?"));
            self.item.cx.error(entry.key_at, &path, format!("unknown key `{}`", clip(key)), help);
        }
    }
}
