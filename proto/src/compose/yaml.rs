//! YAML text to a tree of nodes that know their places.
//!
//! Owns: anchors and aliases, merge keys (`<<`), duplicate keys, and the limits on all of them. Leaves alone: what
//! a scalar means; its text is kept as written, so that `0644` and `1.10` reach whoever knows the type.
//! Holds: a tree is at most [`DEPTH_MAX`] deep and aliases add at most [`EXPANSION_MAX`] to a file, so that the
//! steps behind may recurse and copy.

use std::collections::BTreeMap;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};
use indexmap::IndexMap;

use super::cx::{Cx, Place};

/// Deepest nesting, aliases expanded.
const DEPTH_MAX: usize = 64;
/// Most that aliases and merge keys may add to a file, in bytes.
const EXPANSION_MAX: usize = 8 << 20;
/// What a node costs besides its text, in bytes: about what it takes in memory.
const NODE_COST: usize = 200;

/// A value and where it is.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) at: Place,
    /// Whether a scalar was written without quotes, so that YAML gives it a type.
    pub(super) plain: bool,
    pub(super) mark: Mark,
}

/// What a tag of Compose says about a value in a later file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mark {
    /// Merge it.
    #[default]
    None,
    /// `!reset`: remove what is there, and this value.
    Reset,
    /// `!override`: put it in place of what is there.
    Override,
}

impl Node {
    /// A value that no tag and no quotes say anything about.
    pub(super) fn new(kind: Kind, at: Place) -> Self {
        Self { kind, at, plain: false, mark: Mark::None }
    }

    /// The entry of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(map) => map.get(key).map(|entry| &entry.value),
            Kind::Null | Kind::Scalar(_) | Kind::List(_) => None,
        }
    }

    /// The entry of a mapping, to change it.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.kind {
            Kind::Map(map) => map.get_mut(key).map(|entry| &mut entry.value),
            Kind::Null | Kind::Scalar(_) | Kind::List(_) => None,
        }
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text) => Some(text),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// Whether two values say the same, wherever they are.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Null, Kind::Null) => true,
            (Kind::Scalar(one), Kind::Scalar(two)) => one == two,
            (Kind::List(one), Kind::List(two)) => {
                one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.is_same(two))
            }
            (Kind::Map(one), Kind::Map(two)) => {
                let same = |(key, entry): (&String, &Entry)| {
                    two.get(key).is_some_and(|other| entry.value.is_same(&other.value))
                };
                one.len() == two.len() && one.iter().all(same)
            }
            (Kind::Null | Kind::Scalar(_) | Kind::List(_) | Kind::Map(_), _) => false,
        }
    }

    /// The memory that a copy takes, in bytes, roughly.
    pub(super) fn cost(&self) -> usize {
        NODE_COST
            + match &self.kind {
                Kind::Null => 0,
                Kind::Scalar(text) => text.len(),
                Kind::List(items) => items.iter().map(Self::cost).sum(),
                Kind::Map(map) => map.iter().map(|(key, entry)| key.len() + entry.value.cost()).sum(),
            }
    }
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar, as written but without quotes and escapes.
    Scalar(String),
    List(Vec<Node>),
    Map(Map),
}

/// A mapping in the order of the file.
pub(super) type Map = IndexMap<String, Entry>;

/// A value under its key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the key is.
    pub(super) key_at: Place,
    pub(super) value: Node,
}

/// Parses a file to its documents, at least one; `None` if it was reported why not.
pub(super) fn parse(cx: &Cx<'_>, file: usize, text: &str) -> Option<Vec<Node>> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.block_nesting_limit = DEPTH_MAX;
    options.flow_nesting_limit = DEPTH_MAX;
    let mut builder = Builder {
        cx,
        file,
        frames: Vec::new(),
        anchors: BTreeMap::new(),
        spent: 0,
        roots: Vec::new(),
        sound: true,
    };
    for next in Parser::new_from_str_with_options(text, options) {
        match next {
            Ok((event, span)) => builder.event(event, span)?,
            Err(error) => {
                builder.refuse_scan(&error);
                return None;
            }
        }
    }
    let mut roots = builder.roots;
    // A file that ends in `---` has an empty document behind it.
    let full = |root: &Node| !matches!(root.kind, Kind::Null);
    if roots.iter().any(full) {
        roots.retain(full);
    }
    if roots.is_empty() {
        cx.error(Place::file(file), "", "is empty", None);
        return None;
    }
    builder.sound.then_some(roots)
}

/// A finished node with what it costs to copy it.
#[derive(Clone)]
struct Built {
    node: Node,
    cost: usize,
    depth: usize,
}

/// A collection that is still open.
struct Frame {
    at: Place,
    mark: Mark,
    anchor: usize,
    cost: usize,
    depth: usize,
    open: Open,
}

enum Open {
    List(Vec<Node>),
    Map { map: Map, key: Option<(String, Place)>, merge: Option<Node> },
}

struct Builder<'a> {
    cx: &'a Cx<'a>,
    file: usize,
    frames: Vec<Frame>,
    anchors: BTreeMap<usize, Built>,
    spent: usize,
    roots: Vec<Node>,
    sound: bool,
}

/// The key whose value is merged into the mapping.
const MERGE_KEY: &str = "<<";

impl Builder<'_> {
    /// Takes one event; `None` if there is no use in going on.
    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let at = self.place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let mark = self.mark(tag.as_deref(), at);
                let forced = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
                let plain = style == ScalarStyle::Plain && !forced;
                let kind = if plain && is_null(&text) { Kind::Null } else { Kind::Scalar(text.into_owned()) };
                let node = Node { kind, at, plain, mark };
                let cost = node.cost();
                self.take(cost, at)?;
                self.value(Built { node, cost, depth: 0 }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(at, anchor, tag.as_deref(), Open::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let open = Open::Map { map: Map::new(), key: None, merge: None };
                self.open(at, anchor, tag.as_deref(), open)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => self.alias(id, at),
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::UnresolvedAlias(_)
            | _ => Some(()),
        }
    }

    fn open(&mut self, at: Place, anchor: usize, tag: Option<&Tag>, open: Open) -> Option<()> {
        let mark = self.mark(tag, at);
        self.take(NODE_COST, at)?;
        if let Some(Frame { open: Open::Map { key: None, .. }, .. }) = self.frames.last() {
            self.error(at, "a key must be a plain text", "");
            return None;
        }
        if self.frames.len() >= DEPTH_MAX {
            self.too_deep(at);
            return None;
        }
        self.frames.push(Frame { at, mark, anchor, cost: NODE_COST, depth: 0, open });
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        let frame = self.frames.pop()?;
        let kind = match frame.open {
            Open::List(items) => Kind::List(items),
            Open::Map { mut map, merge, .. } => {
                if let Some(merge) = merge {
                    self.merge(&mut map, merge);
                }
                Kind::Map(map)
            }
        };
        let node = Node { kind, at: frame.at, plain: false, mark: frame.mark };
        self.value(Built { node, cost: frame.cost, depth: frame.depth + 1 }, frame.anchor)
    }

    fn alias(&mut self, id: usize, at: Place) -> Option<()> {
        let Some(built) = self.anchors.get(&id) else {
            self.error(at, "this alias stands inside of what it names", "");
            return None;
        };
        if self.frames.len() + built.depth > DEPTH_MAX {
            self.too_deep(at);
            return None;
        }
        let cost = built.cost;
        self.spend(cost, at)?;
        let built = self.anchors.get(&id)?.clone();
        self.value(built, 0)
    }

    /// Puts a finished node where it belongs.
    fn value(&mut self, mut built: Built, anchor: usize) -> Option<()> {
        if anchor > 0 {
            self.spend(built.cost, built.node.at)?;
            self.anchors.insert(anchor, built.clone());
        }
        let Some(frame) = self.frames.last_mut() else {
            self.roots.push(built.node);
            return Some(());
        };
        frame.cost += built.cost;
        // What is merged stands one level higher than where it is named.
        let merged = matches!(&frame.open, Open::Map { key: Some((key, _)), .. } if key == MERGE_KEY);
        frame.depth = frame.depth.max(built.depth.saturating_sub(usize::from(merged)));
        match &mut frame.open {
            Open::List(items) => items.push(built.node),
            Open::Map { key: key @ None, .. } => match built.node.kind {
                Kind::Scalar(text) => *key = Some((text, built.node.at)),
                Kind::Null | Kind::List(_) | Kind::Map(_) => {
                    self.error(built.node.at, "a key must be a plain text", "");
                    return None;
                }
            },
            Open::Map { map, key, merge } => {
                let (text, key_at) = key.take()?;
                if matches!(built.node.kind, Kind::Null) && built.node.at.width == 0 {
                    built.node.at = key_at;
                }
                let first = match map.get(&text) {
                    Some(first) => Some(first.key_at),
                    None => merge.as_ref().filter(|_| text == MERGE_KEY).map(|merge| merge.at),
                };
                match first {
                    Some(first) => {
                        let help = format!("it is first at {}", self.cx.show(first));
                        self.error(
                            key_at,
                            &format!("the key `{}` is here twice", super::text::clip(&text)),
                            &help,
                        );
                    }
                    None if text == MERGE_KEY => *merge = Some(built.node),
                    None => {
                        map.insert(text, Entry { key_at, value: built.node });
                    }
                }
            }
        }
        Some(())
    }

    /// Merges what `<<` names into `map`, whose own keys win; the cost was paid with the alias.
    fn merge(&mut self, map: &mut Map, from: Node) {
        match from.kind {
            Kind::Map(from) => {
                for (key, entry) in from {
                    map.entry(key).or_insert(entry);
                }
            }
            Kind::List(items) => items.into_iter().for_each(|item| self.merge(map, item)),
            Kind::Null | Kind::Scalar(_) => {
                self.error(from.at, "`<<` takes a mapping or a list of mappings", "such as `<<: *common`");
            }
        }
    }

    /// Counts a value against the limit of the whole load.
    fn take(&mut self, cost: usize, at: Place) -> Option<()> {
        if self.cx.take(cost) {
            return Some(());
        }
        self.error(at, "this and the other files hold more values than a stack can have", "");
        None
    }

    fn spend(&mut self, cost: usize, at: Place) -> Option<()> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > EXPANSION_MAX {
            self.error(at, "the aliases of this file blow it up beyond all measure", "");
            return None;
        }
        Some(())
    }

    /// What a tag means; one that means nothing is reported.
    fn mark(&mut self, tag: Option<&Tag>, at: Place) -> Mark {
        let Some(tag) = tag else { return Mark::None };
        match tag.core_suffix() {
            Some("str" | "int" | "float" | "bool" | "null" | "seq" | "map") => Mark::None,
            Some(_) | None => match tag.original().as_str() {
                "!!merge" | "!!timestamp" => Mark::None,
                "!reset" => Mark::Reset,
                "!override" => Mark::Override,
                name => {
                    let message = format!("the tag `{}` is unknown", super::text::clip(name));
                    let help = "the tags of Compose are `!reset` and `!override`";
                    self.error(self.cx.find_before(at, name), &message, help);
                    Mark::None
                }
            },
        }
    }

    fn refuse_scan(&mut self, error: &ScanError) {
        let marker = error.marker();
        let at = Place {
            file: self.file,
            line: u32::try_from(marker.line()).unwrap_or(u32::MAX),
            column: u32::try_from(marker.col() + 1).unwrap_or(u32::MAX),
            width: 1,
            lines: 0,
        };
        if *error.kind() == ErrorKind::RecursionLimitExceeded {
            return self.too_deep(at);
        }
        let tab = matches!(
            error.kind(),
            ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation
        );
        let help = if tab { "YAML is indented with spaces, never with tabs" } else { "" };
        self.error(at, &format!("this is not YAML: {}", error.info()), help);
    }

    fn too_deep(&mut self, at: Place) {
        self.error(at, &format!("this is nested more than {DEPTH_MAX} deep"), "");
    }

    fn error(&mut self, at: Place, message: &str, help: &str) {
        self.sound = false;
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.cx.error(at, &self.path(), message, help);
    }

    /// The path of what is open.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.open {
                Open::List(items) => path.push_str(&format!("[{}]", items.len())),
                Open::Map { key: Some((key, _)), .. } => {
                    let dot = if path.is_empty() { "" } else { "." };
                    path.push_str(&format!("{dot}{}", super::text::clip(key)));
                }
                Open::Map { .. } => {}
            }
        }
        path
    }

    fn place(&self, span: Span) -> Place {
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let (start, end) = (span.start, span.end);
        let lines = end.line().saturating_sub(start.line());
        let width = if lines == 0 { end.col().saturating_sub(start.col()) } else { usize::MAX };
        Place {
            file: self.file,
            line: narrow(start.line()),
            column: narrow(start.col() + 1),
            width: narrow(width),
            lines: narrow(lines),
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}
