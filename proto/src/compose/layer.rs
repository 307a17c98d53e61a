//! The files of one model to one tree: interpolates, resolves `extends` and `include`, merges.
//!
//! Owns: the order of these steps for each file, which is that of Docker Compose 2.40: interpolation, `extends` within
//! the file, `include`, then the merge over the files before it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    cx::{Cx, Place, Unread},
    extends, include,
    interpolate::Scope,
    legacy, merge, path,
    rebase::{is_remote, plain},
    yaml::{self, Node},
};

/// What the files of one model share.
pub(super) struct Base {
    /// Where their relative paths start, from the project directory or absolute.
    pub(super) dir: PathBuf,
    /// Their variables.
    pub(super) env: BTreeMap<String, String>,
    /// The files that include one another down to these, as they are shown.
    pub(super) trail: Vec<PathBuf>,
}

impl Base {
    pub(super) fn var(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    /// Expands the variables of a tree, unless they are to stay.
    pub(super) fn expand(&self, cx: &Cx<'_>, tree: &mut Node) {
        if cx.interpolates {
            let lookup = |name: &str| self.var(name);
            Scope::new(cx, &lookup).tree(tree, &mut path::Path::default());
        }
    }
}

/// The tree that the documents make, each laid over those before it.
pub(super) fn load(cx: &Cx<'_>, documents: Vec<Node>, base: &Base) -> Option<Node> {
    let mut merged: Option<Node> = None;
    for mut tree in documents {
        base.expand(cx, &mut tree);
        legacy::modernise(cx, &mut tree);
        extends::apply(cx, &mut tree, base);
        include::apply(cx, &mut tree, base);
        merged = Some(match merged {
            Some(below) => merge::merge(cx, below, tree),
            None => tree,
        });
    }
    let mut merged = merged?;
    merge::settle(&mut merged);
    Some(merged)
}

/// A file that another one names.
pub(super) struct Named<'a> {
    /// As it is written.
    pub(super) text: &'a str,
    pub(super) at: Place,
    /// Where in the model it is written.
    pub(super) by: &'a str,
}

/// Reads a file that another one names, whose paths start in `dir`: how it is shown, and its documents. `None` if it was
/// reported why not.
pub(super) fn read(cx: &Cx<'_>, dir: &Path, named: &Named<'_>) -> Option<(PathBuf, Vec<Node>)> {
    if is_remote(named.text) {
        let help = "copy it beside the compose file, and name it by its path".to_owned();
        cx.error(named.at, named.by, "files are not fetched from the network", Some(help));
        return None;
    }
    let (shown, path) = cx.beside(&plain(&dir.join(named.text)));
    let shown = plain(&shown);
    match cx.read(&shown, &path) {
        Ok((file, text)) => yaml::parse(cx, file, &text).map(|documents| (shown, documents)),
        Err(Unread::Missing) => {
            cx.error(named.at, named.by, format!("there is no file `{}`", shown.display()), None);
            None
        }
        Err(Unread::Reported) => None,
    }
}
