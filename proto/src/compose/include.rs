//! `include`: other compose files, each with its own directory and variables, whose parts are taken over.
//!
//! Owns: the forms of `include`, which variables the files see, and names that are here already. Holds: includes are at
//! most [`DEPTH_MAX`] deep, and a file does not include itself.
//!
//! Source: Compose Specification, "Include".

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    cx::{Cx, Place, Unread},
    dotenv,
    layer::{self, Base, Named},
    rebase::{self, plain},
    text::clip,
    yaml::{Entry, Kind, Map, Node},
};

/// Deepest chain of includes.
const DEPTH_MAX: usize = 32;

/// What is taken over of an included model.
const KINDS: [&str; 6] = ["services", "networks", "volumes", "secrets", "configs", "models"];

/// Takes over what the `include` of a file names, and removes it.
pub(super) fn apply(cx: &Cx<'_>, tree: &mut Node, base: &Base) {
    let Kind::Map(map) = &mut tree.kind else { return };
    let Some(include) = map.shift_remove("include") else { return };
    let items = match include.value.kind {
        Kind::Null => return,
        Kind::List(items) => items,
        Kind::Scalar(_) | Kind::Map(_) => {
            let help = Some("write `include: [FILE]`".to_owned());
            cx.error(include.value.at, "include", "must be a list", help);
            cx.broken.set(true);
            return;
        }
    };
    for (index, item) in items.iter().enumerate() {
        let path = format!("include[{index}]");
        let taken = entry(cx, item, &path).and_then(|entry| model(cx, &entry, base, &path));
        match taken {
            Some(model) => take_over(cx, map, model, item.at, &path),
            None => cx.broken.set(true),
        }
    }
}

/// One element of `include`.
struct Include {
    paths: Vec<(String, Place)>,
    project_directory: Option<String>,
    env_files: Option<Vec<(String, Place)>>,
}

fn entry(cx: &Cx<'_>, item: &Node, path: &str) -> Option<Include> {
    let wrong = |at, message: String| {
        let help = "write the path of a file, or `path`, `project_directory` and `env_file`".to_owned();
        cx.error(at, path, message, Some(help));
        None
    };
    let map = match &item.kind {
        Kind::Scalar(text) if !text.is_empty() => {
            let paths = vec![(text.clone(), item.at)];
            return Some(Include { paths, project_directory: None, env_files: None });
        }
        Kind::Map(map) => map,
        Kind::Null | Kind::Scalar(_) | Kind::List(_) => return wrong(item.at, "names no file".to_owned()),
    };
    let mut include = Include { paths: Vec::new(), project_directory: None, env_files: None };
    for (key, Entry { key_at, value }) in map {
        let Some(texts) = texts(value) else {
            return wrong(value.at, format!("`{}` must be a text or a list of texts", clip(key)));
        };
        match key.as_str() {
            "path" => include.paths = texts,
            "project_directory" => include.project_directory = texts.into_iter().next().map(|(text, _)| text),
            "env_file" => include.env_files = Some(texts),
            other if other.starts_with("x-") => {}
            other => return wrong(*key_at, format!("unknown key `{}`", clip(other))),
        }
    }
    if include.paths.is_empty() {
        return wrong(item.at, "names no file".to_owned());
    }
    Some(include)
}

fn texts(node: &Node) -> Option<Vec<(String, Place)>> {
    let text = |node: &Node| node.text().map(|text| (text.to_owned(), node.at));
    match &node.kind {
        Kind::Null => Some(Vec::new()),
        Kind::Scalar(_) => text(node).map(|text| vec![text]),
        Kind::List(items) => items.iter().map(text).collect(),
        Kind::Map(_) => None,
    }
}

/// The model of the files of an element, with its paths as seen from where the including file's start.
fn model(cx: &Cx<'_>, include: &Include, base: &Base, path: &str) -> Option<Node> {
    let (first, first_at) = include.paths.first()?;
    let beside = |file: &str| plain(&base.dir.join(file));
    let dir = match &include.project_directory {
        Some(dir) => beside(dir),
        None => beside(first).parent().unwrap_or(Path::new("")).to_owned(),
    };
    if cx.exhausted.get() {
        return None;
    }
    if base.trail.len() >= DEPTH_MAX {
        cx.exhausted.set(true);
        let message = format!("more than {DEPTH_MAX} files include one another");
        cx.error(*first_at, path, message, None);
        return None;
    }
    let env = env(cx, include, base, &dir, path)?;
    let mut trail = base.trail.clone();
    let mut documents = Vec::new();
    for (file, at) in &include.paths {
        let shown = plain(&cx.beside(&beside(file)).0);
        if base.trail.contains(&shown) {
            let names: Vec<_> = trail.iter().chain([&shown]).map(|name| name.display().to_string()).collect();
            let message = format!("the files include one another in a circle: {}", names.join(", "));
            cx.error(*at, path, message, None);
            return None;
        }
        let named = Named { text: file, at: *at, by: path };
        let (shown, trees) = layer::read(cx, &base.dir, &named)?;
        trail.push(shown);
        documents.extend(trees);
    }
    let inner = Base { dir, env, trail };
    let mut model = layer::load(cx, documents, &inner)?;
    rebase::model(&mut model, &from(&inner.dir, &base.dir));
    fill_environment(&mut model, &inner);
    Some(model)
}

/// The variables of an included model: those of the including one, and its own where they have no value yet.
fn env(
    cx: &Cx<'_>,
    include: &Include,
    base: &Base,
    dir: &Path,
    path: &str,
) -> Option<BTreeMap<String, String>> {
    let mut env = base.env.clone();
    let default = [(dir.join(".env"), None)];
    let named = include.env_files.iter().flatten();
    let named: Vec<_> = named.map(|(file, at)| (plain(&base.dir.join(file)), Some(*at))).collect();
    let files = if named.is_empty() { &default[..] } else { &named[..] };
    let mut found = BTreeMap::new();
    for (file, at) in files {
        let (shown, file) = cx.beside(file);
        match cx.read(&plain(&shown), &file) {
            Ok((file, text)) => {
                let known = |name: &str| base.var(name).or_else(|| found.get(name).cloned());
                let more = dotenv::parse(cx, file, &text, dotenv::Format::Dotenv, &known);
                found.extend(more);
            }
            Err(Unread::Missing) => {
                if let Some(at) = at {
                    let message = format!("there is no file `{}`", plain(&shown).display());
                    cx.error(*at, path, message, None);
                    return None;
                }
            }
            Err(Unread::Reported) => return None,
        }
    }
    for (name, value) in found {
        env.entry(name).or_insert(value);
    }
    Some(env)
}

/// `dir` as seen from `base`.
fn from(dir: &Path, base: &Path) -> PathBuf {
    if dir.is_absolute() || base.as_os_str().is_empty() {
        return dir.to_owned();
    }
    if let Ok(below) = dir.strip_prefix(base) {
        return below.to_owned();
    }
    let up: PathBuf = base.components().map(|_| "..").collect();
    plain(&up.join(dir))
}

/// Gives variables without a value the one that the included files see.
fn fill_environment(model: &mut Node, base: &Base) {
    let Some(Kind::Map(services)) = model.get_mut("services").map(|node| &mut node.kind) else { return };
    for entry in services.values_mut() {
        match entry.value.get_mut("environment").map(|node| &mut node.kind) {
            Some(Kind::Map(map)) => {
                for (name, entry) in map {
                    if let (Kind::Null, Some(value)) = (&entry.value.kind, base.var(name)) {
                        entry.value.kind = Kind::Scalar(value);
                    }
                }
            }
            Some(Kind::List(items)) => {
                for item in items {
                    if let Kind::Scalar(text) = &mut item.kind
                        && !text.contains('=')
                        && let Some(value) = base.var(text)
                    {
                        *text = format!("{text}={value}");
                    }
                }
            }
            Some(Kind::Null | Kind::Scalar(_)) | None => {}
        }
    }
}

/// Adds what an included model has. What is here already must be the same.
fn take_over(cx: &Cx<'_>, map: &mut Map, model: Node, at: Place, path: &str) {
    let Kind::Map(mut model) = model.kind else {
        cx.error(at, path, "the file is not a mapping", None);
        cx.broken.set(true);
        return;
    };
    for kind in KINDS {
        let Some(from) = model.shift_remove(kind) else { continue };
        let Kind::Map(objects) = from.value.kind else { continue };
        let to = map.entry(kind.to_owned()).or_insert_with(|| Entry {
            key_at: from.key_at,
            value: Node::new(Kind::Map(Map::new()), from.value.at),
        });
        if matches!(to.value.kind, Kind::Null) {
            to.value.kind = Kind::Map(Map::new());
        }
        let Kind::Map(to) = &mut to.value.kind else { continue };
        for (name, entry) in objects {
            match to.get(&name) {
                None => {
                    to.insert(name, entry);
                }
                Some(here) if here.value.is_same(&entry.value) => {}
                Some(here) => {
                    let there = cx.show(entry.key_at);
                    let message =
                        format!("`{}` is in the included file too, at {there}, and differs", clip(&name));
                    let help = "rename one of them, or put the changes into a file that `path` lists second";
                    cx.error(here.key_at, &format!("{kind}.{}", clip(&name)), message, Some(help.to_owned()));
                }
            }
        }
    }
}
