//! `extends`: a service laid over another one, of the same file or of another.
//!
//! Owns: finding the other service, its paths as seen from here, and circles. Holds: a chain is at most [`DEPTH_MAX`]
//! long, a file is read once, and a service is worked out once.
//!
//! Source: Compose Specification, "Extends".

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    cx::{Cx, Place},
    layer::{self, Base, Named},
    legacy, merge, rebase,
    text::{clip, nearest},
    yaml::{Kind, Map, Node},
};

/// Longest chain of services that extend one another.
const DEPTH_MAX: usize = 64;

/// Resolves the `extends` of all services of a file.
pub(super) fn apply(cx: &Cx<'_>, tree: &mut Node, base: &Base) {
    let Some(Kind::Map(services)) = tree.get_mut("services").map(|node| &mut node.kind) else { return };
    if !services.values().any(|entry| entry.value.get("extends").is_some()) {
        return;
    }
    let own = Source { dir: base.dir.clone(), services: std::mem::take(services) };
    let names: Vec<String> = own.services.keys().cloned().collect();
    let mut sources = Sources { cx, base, list: vec![own], files: BTreeMap::new(), done: BTreeMap::new() };
    for name in names {
        let Some(mut entry) = sources.list[0].services.get(&name).cloned() else { continue };
        match sources.service(0, &name, &mut Vec::new()) {
            Some(node) => entry.value = node,
            None => cx.broken.set(true),
        }
        services.insert(name, entry);
    }
}

/// The services of a file.
struct Source {
    /// Where the `file` of an `extends` in it is looked for.
    dir: PathBuf,
    services: Map,
}

struct Sources<'a> {
    cx: &'a Cx<'a>,
    base: &'a Base,
    /// The file itself, and those that were read since.
    list: Vec<Source>,
    /// Which of `list` a file is; nothing if it could not be read.
    files: BTreeMap<PathBuf, Option<usize>>,
    done: BTreeMap<(usize, String), Option<Node>>,
}

/// What an `extends` names.
struct Reference {
    service: String,
    service_at: Place,
    file: Option<(String, Place)>,
}

impl Sources<'_> {
    /// The service of a source with all that it extends; `None` if it was reported why not.
    fn service(&mut self, source: usize, name: &str, trail: &mut Vec<(usize, String)>) -> Option<Node> {
        let key = (source, name.to_owned());
        if let Some(done) = self.done.get(&key) {
            return done.clone();
        }
        let mut node = self.list[source].services.get(name)?.value.clone();
        let path = format!("services.{}", clip(name));
        let extends = match &mut node.kind {
            Kind::Map(map) => map.shift_remove("extends"),
            Kind::Null | Kind::Scalar(_) | Kind::List(_) => None,
        };
        let at = node.at;
        let found = match extends {
            None => Some(node),
            Some(extends) => {
                let path = format!("{path}.extends");
                trail.push(key.clone());
                let base = self.extended(source, &extends.value, &path, trail);
                trail.pop();
                base.map(|mut base| {
                    merge::settle(&mut base);
                    merge::merge_service(self.cx, name, base, node)
                })
            }
        };
        // One copy is kept here, for other services that extend it.
        let found = found.filter(|node| {
            let fits = self.cx.take(2 * node.cost());
            if !fits {
                self.cx.error(at, &path, "what this stack extends is larger than a stack can be", None);
            }
            fits
        });
        self.done.insert(key, found.clone());
        found
    }

    /// The service that an `extends` of a source names.
    fn extended(
        &mut self,
        source: usize,
        extends: &Node,
        path: &str,
        trail: &mut Vec<(usize, String)>,
    ) -> Option<Node> {
        let Reference { service, service_at, file } = reference(self.cx, extends, path)?;
        let target = match &file {
            Some((file, at)) => self.file(source, &Named { text: file, at: *at, by: path })?,
            None => source,
        };
        let next = (target, service.clone());
        if trail.contains(&next) {
            let names: Vec<&str> =
                trail.iter().map(|(_, name)| name.as_str()).chain([service.as_str()]).collect();
            let message = format!("the services extend one another in a circle: {}", clip(&names.join(", ")));
            self.cx.error(service_at, path, message, None);
            return None;
        }
        if trail.len() >= DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} services extend one another");
            self.cx.error(service_at, path, message, None);
            return None;
        }
        let services = &self.list[target].services;
        if !services.contains_key(&service) {
            let place = file.map(|(file, _)| format!(" in `{}`", clip(&file))).unwrap_or_default();
            let near = nearest(&service, services.keys().map(String::as_str));
            let help = near.map(|near| format!("did you mean `{near}`?"));
            let message = format!("there is no service `{}`{place}", clip(&service));
            self.cx.error(service_at, path, message, help);
            return None;
        }
        self.service(target, &service, trail)
    }

    /// The source that a file is which another source names.
    fn file(&mut self, by: usize, named: &Named<'_>) -> Option<usize> {
        let path = rebase::plain(&self.list[by].dir.join(named.text));
        if let Some(known) = self.files.get(&path) {
            return *known;
        }
        let source = self.read(&path, &self.list[by].dir, named).map(|source| {
            self.list.push(source);
            self.list.len() - 1
        });
        self.files.insert(path, source);
        source
    }

    fn read(&self, path: &Path, named_from: &Path, named: &Named<'_>) -> Option<Source> {
        let (_, documents) = layer::read(self.cx, named_from, named)?;
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut merged: Option<Node> = None;
        for mut tree in documents {
            self.base.expand(self.cx, &mut tree);
            legacy::modernise(self.cx, &mut tree);
            merged = Some(match merged {
                Some(below) => merge::merge(self.cx, below, tree),
                None => tree,
            });
        }
        let mut tree = merged?;
        rebase::model(&mut tree, &own_dir(&dir, &self.base.dir));
        let services = match tree.get_mut("services").map(|node| &mut node.kind) {
            Some(Kind::Map(services)) => std::mem::take(services),
            Some(Kind::Null | Kind::Scalar(_) | Kind::List(_)) | None => Map::new(),
        };
        Some(Source { dir, services })
    }
}

/// `dir` as seen from `base`, if it is below it: the including model moves all its paths once more.
fn own_dir(dir: &Path, base: &Path) -> PathBuf {
    let Ok(below) = dir.strip_prefix(base) else {
        let up: PathBuf = base.components().map(|_| "..").collect();
        return if dir.is_absolute() || base.is_absolute() {
            dir.to_owned()
        } else {
            rebase::plain(&up.join(dir))
        };
    };
    below.to_owned()
}

fn reference(cx: &Cx<'_>, extends: &Node, path: &str) -> Option<Reference> {
    let wrong = |at, message: &str| {
        let help = "write `extends: SERVICE`, or `extends: {file: FILE, service: SERVICE}`".to_owned();
        cx.error(at, path, message, Some(help));
        None
    };
    let map = match &extends.kind {
        Kind::Scalar(service) => {
            return Some(Reference { service: service.clone(), service_at: extends.at, file: None });
        }
        Kind::Map(map) => map,
        Kind::Null | Kind::List(_) => return wrong(extends.at, "names no service"),
    };
    if let Some((key, entry)) = map.iter().find(|(key, _)| !matches!(key.as_str(), "service" | "file")) {
        return wrong(entry.key_at, &format!("unknown key `{}`", clip(key)));
    }
    let text = |key| match map.get(key) {
        None => Ok(None),
        Some(entry) => match entry.value.text() {
            Some(text) if !text.is_empty() => Ok(Some((text.to_owned(), entry.value.at))),
            Some(_) | None => Err(entry.value.at),
        },
    };
    match (text("service"), text("file")) {
        (Ok(Some((service, service_at))), Ok(file)) => Some(Reference { service, service_at, file }),
        (Ok(None), _) => wrong(extends.at, "names no service"),
        (Err(at), _) | (_, Err(at)) => wrong(at, "must be a text"),
    }
}
