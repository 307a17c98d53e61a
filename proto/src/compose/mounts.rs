//! `volumes` and `tmpfs` of a service: what is mounted where.
//!
//! Owns: the short and the long notation, and paths: relative ones start at the project directory, `~` at the home
//! directory, and both are turned into absolute paths of the node. Holds: a target is mounted on once; the last one wins.

use std::collections::BTreeMap;

use super::{
    cx::Place,
    environment,
    item::{Fields, Item},
    keys, service,
    stack::Declared,
    text::{self, clip},
    yaml::Kind,
};
use crate::{
    name::VolumeName,
    spec::{Mount, MountOptions, MountSource, Recursive, Relabel, VolumeConfig},
    unit::MemBytes,
};

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Reads all mounts of a service, in the order of the file.
pub(super) fn read(fields: &Fields<'_>, declared: &Declared<'_>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut targets: BTreeMap<String, (usize, Place)> = BTreeMap::new();
    let volumes = fields.get("volumes").map(|item| item.items()).unwrap_or_default();
    let tmpfs = fields.get("tmpfs").map(|item| item.one_or_more()).unwrap_or_default();
    let read = volumes.into_iter().map(|item| {
        if let Some(source) = item.node.get("source").unwrap_or(item.node).text() {
            environment::refuse_placeholders(&item, source);
        }
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
            Some((index, there)) => {
                if there.file == at.file {
                    let before = item.cx.show(*there);
                    item.warn(format!(
                        "takes the place of what is mounted on `{}` at {before}",
                        clip(&mount.target)
                    ));
                }
                *there = at;
                mounts[*index] = mount;
            }
        }
    }
    mounts
}

/// `[SOURCE:]TARGET[:OPTION,...]`
fn short(item: &Item<'_>, declared: &Declared<'_>) -> Option<Mount> {
    let text = item.filled()?;
    if is_windows(text) {
        item.error_help("is a path of Windows, and nodes run Linux", "name a path of the nodes");
        return None;
    }
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
    let mut volume = VolumeConfig::default();
    let source = match source {
        None => MountSource::Anonymous,
        Some(path) if path.starts_with(['/', '.', '~']) => {
            let path = host_path(item, path)?;
            MountSource::Bind { path, create: true, propagation: options.propagation.clone() }
        }
        Some(key) => {
            let name;
            (name, volume) = self::volume(item, key, declared)?;
            MountSource::Volume { name, nocopy: options.nocopy }
        }
    };
    let bind = matches!(source, MountSource::Bind { .. });
    if options.propagation.is_some() && !bind {
        item.error("only paths of the node have a propagation");
    }
    if options.nocopy && !matches!(source, MountSource::Volume { .. }) {
        item.error("`nocopy` is for named volumes");
    }
    let more = MountOptions { relabel: options.relabel, volume, ..MountOptions::default() };
    Some(Mount { target, source, read_only: options.read_only, options: Box::new(more) })
}

/// Such as `C:\data` or `C:/data`.
fn is_windows(text: &str) -> bool {
    matches!(text.as_bytes(), [drive, b':', b'\\' | b'/', ..] if drive.is_ascii_alphabetic())
}

#[derive(Default)]
struct Options {
    read_only: bool,
    nocopy: bool,
    relabel: Option<Relabel>,
    propagation: Option<String>,
}

fn options_of(item: &Item<'_>, text: &str) -> Option<Options> {
    let mut options = Options::default();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" | "RW" => options.read_only = false,
            "ro" | "RO" => options.read_only = true,
            "nocopy" => options.nocopy = true,
            "consistent" | "cached" | "delegated" => no_effect(item, option),
            "z" => options.relabel = Some(Relabel::Shared),
            "Z" => options.relabel = Some(Relabel::Private),
            option if PROPAGATIONS.contains(&option) => options.propagation = Some(option.to_owned()),
            other => {
                item.error(format!("unknown option `{}`", clip(other)));
                return None;
            }
        }
    }
    Some(options)
}

/// Said once, for it is mostly said of all mounts or of none.
fn no_effect(item: &Item<'_>, option: &str) {
    if item.cx.is_news(&format!("volumes {option}")) {
        item.warn(format!("`{option}` has no effect on Linux"));
    }
}

fn long(item: &Item<'_>, declared: &Declared<'_>) -> Option<Mount> {
    let fields = item.fields()?;
    let kind = fields.get("type");
    let source = fields.given("source");
    let target = fields.get("target");
    let read_only = fields.get("read_only").and_then(|item| item.flag()).unwrap_or(false);
    let part = |key| fields.get(key);
    let parts = [part("bind"), part("volume"), part("tmpfs"), part("image")];
    fields.end(&keys::MOUNT);
    let Some(kind) = kind else {
        item.error("`type` is missing: `volume`, `bind`, `tmpfs` or `image`");
        return None;
    };
    let kind_text = kind.filled()?;
    for (name, part) in ["bind", "volume", "tmpfs", "image"].into_iter().zip(&parts) {
        if let Some(part) = part.as_ref().filter(|_| name != kind_text) {
            part.error(format!("does not go with `type: {}`", clip(kind_text)));
        }
    }
    let [of_bind, of_volume, of_tmpfs, of_image] = parts;
    let mut options = MountOptions::default();
    let source = match kind_text {
        "bind" => bind(item, source, of_bind, &mut options),
        "volume" => named(source, of_volume, declared, &mut options),
        "tmpfs" => tmpfs(source, of_tmpfs),
        "image" => image(item, source, of_image, &mut options),
        "npipe" => {
            kind.error("`npipe` belongs to containers of Windows");
            None
        }
        "cluster" => {
            kind.error_help(
                "`cluster` is not supported",
                "use a named volume with a `driver` that nodes share",
            );
            None
        }
        other => {
            let near = text::nearest(other, ["volume", "bind", "tmpfs", "image"]).unwrap_or("volume");
            kind.error_help(format!("unknown type `{}`", clip(other)), format!("did you mean `{near}`?"));
            None
        }
    };
    let Some(target) = target else {
        item.error("`target` is missing: the path in the container");
        return None;
    };
    let target = target.parse(|text| absolute(text, "the target"))?;
    Some(Mount { target, source: source?, read_only, options: Box::new(options) })
}

fn bind(
    item: &Item<'_>,
    source: Option<Item<'_>>,
    part: Option<Item<'_>>,
    options: &mut MountOptions,
) -> Option<MountSource> {
    let Some(source) = source else {
        item.error("`source` is missing: the path on the node");
        return None;
    };
    if is_windows(source.filled()?) {
        source.error_help("is a path of Windows, and nodes run Linux", "name a path of the nodes");
        return None;
    }
    let path = host_path(&source, source.filled()?);
    let (mut create, mut propagation) = (true, None);
    if let Some(fields) = part.and_then(|part| part.fields()) {
        create = fields.get("create_host_path").and_then(|item| item.flag()).unwrap_or(true);
        propagation = fields.given("propagation").and_then(|item| {
            item.parse(|text| match PROPAGATIONS.contains(&text) {
                true => Ok(text.to_owned()),
                false => Err(format!("`{}` is none of {}", clip(text), PROPAGATIONS.join(", "))),
            })
        });
        options.relabel =
            fields.given("selinux").and_then(|item| item.word(&["z", "Z"])).map(|word| match word {
                "z" => Relabel::Shared,
                _ => Relabel::Private,
            });
        options.recursive = fields.given("recursive").and_then(|item| {
            item.parse(|text| match text {
                "enabled" => Ok(None),
                "disabled" => Ok(Some(Recursive::Disabled)),
                "writable" => Ok(Some(Recursive::Writable)),
                "readonly" => Ok(Some(Recursive::Readonly)),
                other => {
                    let all = "`enabled`, `disabled`, `writable` and `readonly`";
                    Err(format!("`{}` is none of {all}", clip(other)))
                }
            })?
        });
        fields.end(&keys::MOUNT_BIND);
    }
    Some(MountSource::Bind { path: path?, create, propagation })
}

fn named(
    source: Option<Item<'_>>,
    part: Option<Item<'_>>,
    declared: &Declared<'_>,
    options: &mut MountOptions,
) -> Option<MountSource> {
    let (mut nocopy, mut labels) = (false, BTreeMap::new());
    if let Some(fields) = part.and_then(|part| part.fields()) {
        if let Some(item) = fields.get("nocopy") {
            nocopy = item.flag().unwrap_or(false);
            if nocopy && source.is_none() {
                item.error("`nocopy` is for named volumes");
            }
        }
        options.subpath = fields.given("subpath").and_then(|item| item.parse(subpath));
        labels = fields.get("labels").map(|item| environment::labels(&item)).unwrap_or_default();
        fields.end(&keys::MOUNT_VOLUME);
    }
    let source = match source {
        None => MountSource::Anonymous,
        Some(source) => {
            let name;
            (name, options.volume) = volume(&source, source.filled()?, declared)?;
            MountSource::Volume { name, nocopy }
        }
    };
    options.volume.labels.extend(labels);
    Some(source)
}

fn image(
    item: &Item<'_>,
    source: Option<Item<'_>>,
    part: Option<Item<'_>>,
    options: &mut MountOptions,
) -> Option<MountSource> {
    if let Some(fields) = part.and_then(|part| part.fields()) {
        options.subpath = fields.given("subpath").and_then(|item| item.parse(subpath));
        fields.end(&keys::MOUNT_IMAGE);
    }
    let Some(source) = source else {
        item.error("`source` is missing: the image");
        return None;
    };
    Some(MountSource::Image { image: source.parse(service::image)? })
}

/// A path inside of what is mounted.
fn subpath(text: &str) -> Result<String, String> {
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(format!("`{}` is not a relative path without `..`", clip(text)));
    }
    Ok(text.to_owned())
}

fn tmpfs(source: Option<Item<'_>>, options: Option<Item<'_>>) -> Option<MountSource> {
    if let Some(source) = source {
        source.error("memory has no source");
    }
    let (mut size, mut mode) = (None, None);
    if let Some(fields) = options.and_then(|options| options.fields()) {
        size = fields.given("size").and_then(|item| item.parse(text::bytes)).map(MemBytes);
        mode = fields.given("mode").and_then(|item| item.parse(permissions));
        fields.end(&keys::MOUNT_TMPFS);
    }
    Some(MountSource::Tmpfs { size: size.filter(|size| size.0 > 0), mode })
}

/// `TARGET[:OPTION,...]` in a service's `tmpfs`.
fn short_tmpfs(item: &Item<'_>) -> Option<Mount> {
    let (target, options) = item.filled().map(|text| text.split_once(':').unwrap_or((text, "")))?;
    let target = item.parse(|_| absolute(target, "the target"))?;
    let (mut size, mut mode, mut read_only) = (None, None, false);
    let mut more = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            // Of the node's memory, as the kernel works out.
            ("size", value) if is_percentage(value) => more.push(option.to_owned()),
            ("size", value) => size = Some(item.parse(|_| text::bytes(value))?),
            ("mode", value) => mode = Some(item.parse(|_| permissions(value))?),
            ("rw", "") => read_only = false,
            ("ro", "") => read_only = true,
            (flag, "") if TMPFS_FLAGS.contains(&flag) => more.push(option.to_owned()),
            (key, value) if TMPFS_VALUES.contains(&key) && !value.is_empty() => more.push(option.to_owned()),
            (other, _) => {
                let all = format!(
                    "there are `size`, `mode`, {}, {}",
                    TMPFS_VALUES.join(", "),
                    TMPFS_FLAGS.join(", ")
                );
                item.error_help(format!("unknown option `{}`", clip(other)), all);
                return None;
            }
        }
    }
    let size = size.filter(|size| *size > 0).map(MemBytes);
    let options = MountOptions { tmpfs: more, ..MountOptions::default() };
    Some(Mount { target, source: MountSource::Tmpfs { size, mode }, read_only, options: Box::new(options) })
}

/// Options of a tmpfs that the engine passes on. Source: the engine's `pkg/mount`, and `tmpfs(5)`.
const TMPFS_FLAGS: [&str; 18] = [
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "defaults",
];
const TMPFS_VALUES: [&str; 5] = ["uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

fn is_percentage(text: &str) -> bool {
    text.strip_suffix('%').is_some_and(|number| text::whole(number, 1, 100).is_ok())
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

/// A declared volume, and how it is named and made.
fn volume(item: &Item<'_>, name: &str, declared: &Declared<'_>) -> Option<(VolumeName, VolumeConfig)> {
    if let Some(config) = declared.volumes.get(name) {
        return Some((item.parse(|_| name.parse())?, config.clone()));
    }
    let near = text::nearest(name, declared.volumes.keys().map(String::as_str));
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
pub(super) fn host_path(item: &Item<'_>, path: &str) -> Option<String> {
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
