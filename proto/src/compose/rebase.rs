//! Paths of a file in another directory, as seen from the project directory.
//!
//! Owns: which values are paths. They are changed in the tree before it is merged, so that later steps know one
//! directory only.
//!
//! Source: Compose Specification, "Include" and "Extends", "Relative path resolution".

use std::path::{Component, Path, PathBuf};

use super::{
    short,
    yaml::{Kind, Node},
};

/// Moves every relative path of a model from `dir` to the directory that `dir` is named from.
pub(super) fn model(root: &mut Node, dir: &Path) {
    if dir.as_os_str().is_empty() {
        return;
    }
    each(root.get_mut("services"), |service| self::service(service, dir));
    for kind in ["secrets", "configs"] {
        each(root.get_mut(kind), |object| scalar(object.get_mut("file"), dir));
    }
    each(root.get_mut("volumes"), |volume| {
        let Some(options) = volume.get_mut("driver_opts") else { return };
        let bind = options.get("o").and_then(Node::text).is_some_and(|o| o.split(',').any(|o| o == "bind"));
        if bind {
            scalar(options.get_mut("device"), dir);
        }
    });
}

fn service(service: &mut Node, dir: &Path) {
    one_or_more(service.get_mut("env_file"), dir);
    one_or_more(service.get_mut("label_file"), dir);
    match service.get_mut("build") {
        Some(build @ Node { kind: Kind::Scalar(_), .. }) => scalar(Some(build), dir),
        Some(build) => {
            scalar(build.get_mut("context"), dir);
            each(build.get_mut("additional_contexts"), |context| scalar(Some(context), dir));
        }
        None => {}
    }
    each(service.get_mut("volumes"), |mount| match &mut mount.kind {
        Kind::Scalar(text) => {
            if let Some(source) = short::mount(text).and_then(|mount| mount.source)
                && source.starts_with('.')
            {
                *text = format!("{}{}", moved(source, dir), &text[source.len()..]);
            }
        }
        Kind::Map(_) => {
            if mount.get("type").and_then(Node::text) == Some("bind") {
                scalar(mount.get_mut("source"), dir);
            }
        }
        Kind::Null | Kind::List(_) => {}
    });
    if let Some(develop) = service.get_mut("develop") {
        each(develop.get_mut("watch"), |rule| scalar(rule.get_mut("path"), dir));
    }
}

/// Does something with each value of a mapping or a list.
fn each(node: Option<&mut Node>, mut act: impl FnMut(&mut Node)) {
    match node.map(|node| &mut node.kind) {
        Some(Kind::Map(map)) => map.values_mut().for_each(|entry| act(&mut entry.value)),
        Some(Kind::List(items)) => items.iter_mut().for_each(act),
        Some(Kind::Null | Kind::Scalar(_)) | None => {}
    }
}

/// A text, a mapping with a `path`, or a list of them.
fn one_or_more(node: Option<&mut Node>, dir: &Path) {
    let Some(node) = node else { return };
    match &mut node.kind {
        Kind::List(items) => items.iter_mut().for_each(|item| one_or_more(Some(item), dir)),
        Kind::Map(_) => scalar(node.get_mut("path"), dir),
        Kind::Null | Kind::Scalar(_) => scalar(Some(node), dir),
    }
}

fn scalar(node: Option<&mut Node>, dir: &Path) {
    if let Some(Node { kind: Kind::Scalar(text), .. }) = node
        && is_relative(text)
    {
        *text = moved(text, dir);
    }
}

/// Whether a text is an address in the network and no path.
pub(super) fn is_remote(text: &str) -> bool {
    text.contains("://") || text.starts_with("git@")
}

/// Whether a text is a path that depends on a directory, and neither an address nor a path of a home directory.
pub(super) fn is_relative(text: &str) -> bool {
    let remote = is_remote(text)
        || ["github.com/", "service:", "docker-image:"].iter().any(|start| text.starts_with(start));
    let windows = text.len() > 2 && text.as_bytes()[1] == b':' && text.as_bytes()[2] == b'\\';
    !text.is_empty() && !text.starts_with(['/', '~']) && !remote && !windows
}

/// `path` in `dir`, in a form that is recognised as a path.
fn moved(path: &str, dir: &Path) -> String {
    let joined = plain(&dir.join(path));
    let text = joined.display().to_string();
    if joined.is_absolute() || text.starts_with("..") { text } else { format!("./{text}") }
}

/// A path without `.` and, as far as the names alone tell, without `..`.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir) => {}
                Some(Component::ParentDir | Component::CurDir | Component::Prefix(_)) | None => {
                    out.push("..")
                }
            },
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_moved() {
        for (path, dir, expected) in [
            ("a", "sub", "./sub/a"),
            ("./a", "sub", "./sub/a"),
            ("../a", "sub", "./a"),
            ("../../a", "sub", "../a"),
            (".", "sub", "./sub"),
            ("a", "/srv/x", "/srv/x/a"),
            ("../../../a", "/srv", "/a"),
        ] {
            assert_eq!(moved(path, Path::new(dir)), expected, "{path} in {dir}");
        }
        assert!(["a", "./a", "..", "a.txt"].iter().all(|path| is_relative(path)));
        assert!(
            !["/a", "~/a", "https://x/y.git", "git@x:y", r"C:\x", ""].iter().any(|path| is_relative(path))
        );
    }
}
