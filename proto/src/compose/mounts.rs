//! `volumes` and `tmpfs` of a service: what is mounted where.
//!
//! Owns: the short and the long notation, and paths: relative ones start at the project directory, `~` at the home
//! directory, and both are turned into absolute paths of the node. Holds: a target is mounted on once; one of a later
//! file wins.

use std::collections::BTreeMap;

use super::{
    cx::Place,
    item::{Fields, Item},
    stack::Declared,
    text::{self, clip},
    yaml::Kind,
};
use crate::{
    name::VolumeName,
    spec::{Mount, MountSource},
    unit::MemBytes,
};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Reads all mounts of a service, in the order of the file.
pub(super) fn read(fields: &Fields<'_>, declared: &Declared) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut targets: BTreeMap<String, (usize, Place)> = BTreeMap::new();
    let volumes = fields.get("volumes").map(|item| item.items()).unwrap_or_default();
    let tmpfs = fields.get("tmpfs").map(|item| item.one_or_more()).unwrap_or_default();
    let read = volumes.into_iter().map(|item| {
        let mount = match &item.node.kind {
            Kind::Map(_) => long(&item, declared),
            Kind::Null | Kind::Scalar(_) | Kind::List(_) => short(&item, declared),
        };
        (item, mount)
    });
    let tmpfs = tmpfs.into_iter().map(|item| {
        let mount = short_tmpfs(&item);
        (item, mount)
    });
    for (item, mount) in read.chain(tmpfs) {
        let Some(mount) = mount else { continue };
        let at = item.node.at;
        match targets.get_mut(&mount.target) {
            None => {
                targets.insert(mount.target.clone(), (mounts.len(), at));
                mounts.push(mount);
            }
            Some((index, there)) if there.file != at.file => {
                *there = at;
                mounts[*index] = mount;
            }
            Some((_, there)) => {
                let there = item.cx.show(*there);
                item.error(format!("`{}` is mounted on already, at {there}", clip(&mount.target)));
            }
        }
    }
    mounts
}

/// `[SOURCE:]TARGET[:OPTION,...]`
fn short(item: &Item<'_>, declared: &Declared) -> Option<Mount> {
    let text = item.filled()?;
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => {
            item.error_help("has too many `:`", "it is `SOURCE:TARGET`, or `SOURCE:TARGET:OPTIONS`");
            return None;
        }
    };
    let target = item.parse(|_| absolute(target, "the target"))?;
    let options = options_of(item, options)?;
    let source = match source {
        None => MountSource::Anonymous,
        Some(path) if path.starts_with(['/', '.', '~']) => {
            let path = host_path(item, path)?;
            MountSource::Bind { path, create: true, propagation: options.propagation.clone() }
        }
        Some(name) => MountSource::Volume { name: volume(item, name, declared)?, nocopy: options.nocopy },
    };
    let bind = matches!(source, MountSource::Bind { .. });
    if options.propagation.is_some() && !bind {
        item.error("only paths of the node have a propagation");
    }
    if options.nocopy && !matches!(source, MountSource::Volume { .. }) {
        item.error("`nocopy` is for named volumes");
    }
    Some(Mount { target, source, read_only: options.read_only })
}

#[derive(Default)]
struct Options {
    read_only: bool,
    nocopy: bool,
    propagation: Option<String>,
}

fn options_of(item: &Item<'_>, text: &str) -> Option<Options> {
    let mut options = Options::default();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => options.read_only = false,
            "ro" => options.read_only = true,
            "nocopy" => options.nocopy = true,
            "consistent" | "cached" | "delegated" => no_effect(item, option),
            "z" | "Z" => {
                item.error(format!("the option `{option}` is not supported yet"));
                return None;
            }
            option if PROPAGATIONS.contains(&option) => options.propagation = Some(option.to_owned()),
            other => {
                item.error(format!("unknown option `{}`", clip(other)));
                return None;
            }
        }
    }
    Some(options)
}

fn no_effect(item: &Item<'_>, option: &str) {
    item.warn(format!("`{option}` has no effect on Linux"));
}

fn long(item: &Item<'_>, declared: &Declared) -> Option<Mount> {
    let fields = item.fields()?;
    let kind = fields.get("type");
    let source = fields.get("source");
    let target = fields.get("target");
    let read_only = fields.get("read_only").and_then(|item| item.flag()).unwrap_or(false);
    if let Some(consistency) = fields.get("consistency")
        && let Some(text) = consistency.text()
    {
        no_effect(&consistency, text);
    }
    let parts = (fields.get("bind"), fields.get("volume"), fields.get("tmpfs"));
    fields.finish(&["image"]);
    let Some(kind) = kind else {
        item.error("`type` is missing: `volume`, `bind` or `tmpfs`");
        return None;
    };
    let kind_text = kind.filled()?;
    let misplaced = [("bind", &parts.0), ("volume", &parts.1), ("tmpfs", &parts.2)];
    for (name, part) in misplaced {
        if let Some(part) = part.as_ref().filter(|_| name != kind_text) {
            part.error(format!("does not go with `type: {}`", clip(kind_text)));
        }
    }
    let source = match kind_text {
        "bind" => bind(item, source, parts.0),
        "volume" => named(source, parts.1, declared),
        "tmpfs" => tmpfs(source, parts.2),
        "npipe" | "cluster" | "image" => {
            kind.error(format!("the type `{kind_text}` is not supported yet"));
            None
        }
        other => {
            let near = text::nearest(other, ["volume", "bind", "tmpfs"]).unwrap_or("volume");
            kind.error_help(format!("unknown type `{}`", clip(other)), format!("did you mean `{near}`?"));
            None
        }
    };
    let Some(target) = target else {
        item.error("`target` is missing: the path in the container");
        return None;
    };
    let target = target.parse(|text| absolute(text, "the target"))?;
    Some(Mount { target, source: source?, read_only })
}

fn bind(item: &Item<'_>, source: Option<Item<'_>>, options: Option<Item<'_>>) -> Option<MountSource> {
    let Some(source) = source else {
        item.error("`source` is missing: the path on the node");
        return None;
    };
    let path = host_path(&source, source.filled()?);
    let (mut create, mut propagation) = (true, None);
    if let Some(fields) = options.and_then(|options| options.fields()) {
        create = fields.get("create_host_path").and_then(|item| item.flag()).unwrap_or(true);
        propagation = fields.get("propagation").and_then(|item| {
            item.parse(|text| match PROPAGATIONS.contains(&text) {
                true => Ok(text.to_owned()),
                false => Err(format!("`{}` is none of {}", clip(text), PROPAGATIONS.join(", "))),
            })
        });
        fields.finish(&["selinux", "recursive"]);
    }
    Some(MountSource::Bind { path: path?, create, propagation })
}

fn named(source: Option<Item<'_>>, options: Option<Item<'_>>, declared: &Declared) -> Option<MountSource> {
    let mut nocopy = false;
    let fields = options.and_then(|options| options.fields());
    if let Some(fields) = fields {
        if let Some(item) = fields.get("nocopy") {
            nocopy = item.flag().unwrap_or(false);
            if nocopy && source.is_none() {
                item.error("`nocopy` is for named volumes");
            }
        }
        fields.finish(&["subpath", "labels"]);
    }
    match source {
        None => Some(MountSource::Anonymous),
        Some(source) => {
            Some(MountSource::Volume { name: volume(&source, source.filled()?, declared)?, nocopy })
        }
    }
}

fn tmpfs(source: Option<Item<'_>>, options: Option<Item<'_>>) -> Option<MountSource> {
    if let Some(source) = source {
        source.error("memory has no source");
    }
    let (mut size, mut mode) = (None, None);
    if let Some(fields) = options.and_then(|options| options.fields()) {
        size = fields.get("size").and_then(|item| item.parse(text::bytes)).map(MemBytes);
        mode = fields.get("mode").and_then(|item| item.parse(permissions));
        fields.finish(&[]);
    }
    Some(MountSource::Tmpfs { size: size.filter(|size| size.0 > 0), mode })
}

/// `TARGET[:OPTION,...]` in a service's `tmpfs`.
fn short_tmpfs(item: &Item<'_>) -> Option<Mount> {
    let (target, options) = item.filled().map(|text| text.split_once(':').unwrap_or((text, "")))?;
    let target = item.parse(|_| absolute(target, "the target"))?;
    let (mut size, mut mode, mut read_only) = (None, None, false);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", value) => size = Some(item.parse(|_| text::bytes(value))?),
            ("mode", value) => mode = Some(item.parse(|_| permissions(value))?),
            ("rw", "") => read_only = false,
            ("ro", "") => read_only = true,
            (other, _) => {
                item.error_help(
                    format!("the option `{}` is not supported yet", clip(other)),
                    "`size`, `mode` and `ro` are",
                );
                return None;
            }
        }
    }
    let size = size.filter(|size| *size > 0).map(MemBytes);
    Some(Mount { target, source: MountSource::Tmpfs { size, mode }, read_only })
}

/// Permission bits: octal digits, with or without `0` or `0o` in front.
pub(super) fn permissions(text: &str) -> Result<u32, String> {
    const ALL: u32 = 0o7777;
    let digits = text.trim_start_matches("0o");
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= ALL && !digits.starts_with('+') => Ok(mode),
        Ok(_) | Err(_) => Err(format!("`{}` are not permissions in octal such as `1777`", clip(text))),
    }
}

fn volume(item: &Item<'_>, name: &str, declared: &Declared) -> Option<VolumeName> {
    if declared.volumes.contains(name) {
        return item.parse(|_| name.parse());
    }
    let near = text::nearest(name, declared.volumes.iter().map(String::as_str));
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "declare it at the top level, `volumes: {{{0}: {{}}}}`, or write `./{0}` for a path",
            clip(name)
        ),
    };
    item.error_help(format!("the volume `{}` is not declared", clip(name)), help);
    None
}

/// The absolute path on the node that `path` names.
fn host_path(item: &Item<'_>, path: &str) -> Option<String> {
    let joined = if path == "~" || path.starts_with("~/") {
        let Some(home) = item.cx.var("HOME").filter(|home| home.starts_with('/')) else {
            item.error("`~` cannot be resolved: HOME is not set");
            return None;
        };
        format!("{home}/{}", path.trim_start_matches(['~', '/']))
    } else if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{}/{path}", item.cx.input.project_dir.display())
    };
    item.parse(|_| absolute(&joined, "the source"))
}

/// An absolute path without `.`, `..` and doubled slashes.
pub(super) fn absolute(path: &str, what: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("{what} `{}` is not an absolute path", clip(path)));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    match (what, parts.is_empty()) {
        ("the target", true) => Err("nothing can be mounted on `/`".to_owned()),
        _ => Ok(format!("/{}", parts.join("/"))),
    }
}
