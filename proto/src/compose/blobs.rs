//! `secrets` and `configs`, of the file and of its services.
//!
//! Owns: their names, where they are in a container, and reading their contents. Leaves alone: `build.secrets`.
//! Holds: only those that a service uses are read, so that a file which only a build needs may be missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    cx::Place,
    environment,
    item::{Fields, Item},
    keys, mounts, networks,
    stack::Declared,
    text::{self, clip},
    yaml::Kind,
};
use crate::{
    name::BlobName,
    spec::{BlobData, BlobKind, BlobMount, BlobSpec, ContainerSpec, blob_name},
};

/// Permissions of a file where none are given. Source: Compose Specification.
const MODE: u32 = 0o444;

/// Where a content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    File,
    Environment,
    Content,
    External,
}

/// A secret or config at the top level.
pub(super) struct Declaration<'a> {
    at: Place,
    /// Without its content.
    spec: BlobSpec,
    /// None where that is not clear, which was told.
    source: Option<(Source, Item<'a>)>,
}

/// All of them by kind and key.
pub(super) type Declarations<'a> = BTreeMap<(BlobKind, String), Declaration<'a>>;

/// Reads what the file declares, but for the contents.
pub(super) fn declared<'a>(file: &Fields<'a>, stack: &str) -> Declarations<'a> {
    let mut all = Declarations::new();
    for kind in BlobKind::ALL {
        let Some(item) = file.get(kind.plural()) else { continue };
        for (key, at, item) in item.entries() {
            if item.name::<BlobName>(key, at).is_some() {
                let (spec, source) = declaration(kind, (key, at), &item, stack);
                all.insert((kind, key.to_owned()), Declaration { at, spec, source });
            }
        }
    }
    all
}

fn declaration<'a>(
    kind: BlobKind,
    (key, at): (&str, Place),
    item: &Item<'a>,
    stack: &str,
) -> (BlobSpec, Option<(Source, Item<'a>)>) {
    let own_name = || format!("{stack}_{key}");
    let none = BlobSpec { name: own_name(), external: false, labels: BTreeMap::new(), data: None };
    let wanted = match kind {
        BlobKind::Secret => "`file`, `environment` or `external: true`",
        BlobKind::Config => "`file`, `content`, `environment` or `external: true`",
    };
    let missing = || item.cx.error(at, &item.path, "has no content", Some(format!("give it {wanted}")));
    let Some(fields) = item.fields() else {
        if item.is_null() {
            missing();
        }
        return (none, None);
    };
    let external = fields.get("external").filter(|item| networks::external(item).0);
    let labels = fields.get("labels").map(|item| environment::labels(&item)).unwrap_or_default();
    let name = fields.given("name").and_then(|item| item.parse(blob_name));
    let mut sources = Vec::new();
    sources.extend(fields.given("file").map(|item| (Source::File, item)));
    sources.extend(fields.given("environment").map(|item| (Source::Environment, item)));
    if kind == BlobKind::Config {
        sources.extend(fields.get("content").map(|item| (Source::Content, item)));
    }
    sources.extend(external.clone().map(|item| (Source::External, item)));
    // Which is refused as such.
    let has_content = kind == BlobKind::Secret && fields.key_at("content").is_some();
    fields.end(match kind {
        BlobKind::Secret => &keys::SECRET,
        BlobKind::Config => &keys::CONFIG,
    });
    if sources.is_empty() && !has_content {
        missing();
    }
    if let Some((_, second)) = sources.get(1) {
        second.error_help("is a second content of the same thing", format!("give it one of {wanted}"));
    }
    let external = external.is_some();
    let name = name.unwrap_or_else(|| if external { key.to_owned() } else { own_name() });
    (BlobSpec { name, external, labels, data: None }, sources.into_iter().next())
}

/// The secrets and configs that a service uses, put into its container.
pub(super) fn used(fields: &Fields<'_>, declared: &Declared<'_>, container: &mut ContainerSpec) {
    let mut taken: BTreeMap<String, &'static str> = BTreeMap::new();
    for mount in &container.mounts {
        taken.insert(mount.target.clone(), "a volume");
    }
    for kind in BlobKind::ALL {
        let items = fields.get(kind.plural()).map(|item| item.items()).unwrap_or_default();
        for item in items {
            let Some(mount) = mount(kind, &item, declared) else { continue };
            let what = match kind {
                BlobKind::Secret => "a secret",
                BlobKind::Config => "a config",
            };
            if let Some(other) = taken.insert(mount.target.clone(), what) {
                let target = clip(&mount.target);
                item.error_help(
                    format!("is mounted on `{target}`, as {other} of the service is"),
                    "give it another `target`",
                );
                continue;
            }
            match kind {
                BlobKind::Secret => container.secrets.push(mount),
                BlobKind::Config => container.configs.push(mount),
            }
        }
    }
}

fn mount(kind: BlobKind, item: &Item<'_>, declared: &Declared<'_>) -> Option<BlobMount> {
    if !matches!(item.node.kind, Kind::Map(_)) {
        let (source, name) = reference(kind, item, declared)?;
        let target = format!("{}/{source}", kind.dir());
        return Some(BlobMount { source, name, target, uid: 0, gid: 0, mode: MODE, id: None });
    }
    let fields = item.fields()?;
    let found = fields.given("source");
    let target = fields.given("target").map(|item| item.parse(|text| inside(kind, text)));
    let owner = |key| match fields.given(key) {
        Some(item) => item.parse(|text| {
            text.parse::<u32>().map_err(|_| {
                format!("`{}` is no number; names of users and groups are the image's own", clip(text))
            })
        }),
        None => Some(0),
    };
    let (uid, gid) = (owner("uid"), owner("gid"));
    let mode = fields.given("mode").map_or(Some(MODE), |item| item.parse(mounts::permissions));
    fields.end(&keys::SERVICE_SECRET);
    let Some(found) = found else {
        item.error("`source` is missing");
        return None;
    };
    let (source, name) = reference(kind, &found, declared)?;
    let target = match target {
        Some(target) => target?,
        None => format!("{}/{source}", kind.dir()),
    };
    Some(BlobMount { source, name, target, uid: uid?, gid: gid?, mode: mode?, id: None })
}

/// The path of the file in the container.
fn inside(kind: BlobKind, text: &str) -> Result<String, String> {
    let path = if text.starts_with('/') { text.to_owned() } else { format!("{}/{text}", kind.dir()) };
    let target = mounts::absolute(&path, "the target")?;
    if path.ends_with('/') || target == kind.dir() {
        return Err(format!("`{}` is a directory; a {kind} is one file", clip(text)));
    }
    Ok(target)
}

/// Key and full name of one that is declared.
fn reference(kind: BlobKind, item: &Item<'_>, declared: &Declared<'_>) -> Option<(BlobName, String)> {
    let key = item.filled()?;
    if let Some(found) = declared.blobs.get(&(kind, key.to_owned())) {
        return Some((item.parse(|text| text.parse())?, found.spec.name.clone()));
    }
    let keys = |kind| declared.blobs.keys().filter(move |(of, _)| *of == kind).map(|(_, key)| key.as_str());
    let other = match kind {
        BlobKind::Secret => BlobKind::Config,
        BlobKind::Config => BlobKind::Secret,
    };
    let key = clip(key);
    let help = match text::nearest(&key, keys(kind)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if keys(other).any(|other| other == key) => {
            format!("there is a {other} of that name: name it under `{}`", other.plural())
        }
        None => format!(
            "declare it at the top level, `{}: {{{key}: {{file: ./{key}}}}}`, or `{{external: true}}` where the cluster \
             has it",
            kind.plural()
        ),
    };
    item.error_help(format!("the {kind} `{key}` is not declared"), help);
    None
}

/// Those of a kind that containers use, with their contents. `all_read` says that no service is missing among them.
pub(super) fn read<'c>(
    declared: &Declarations<'_>,
    kind: BlobKind,
    containers: impl Iterator<Item = &'c ContainerSpec>,
    builds: &BTreeSet<String>,
    all_read: bool,
) -> BTreeMap<BlobName, BlobSpec> {
    let mounts = containers.flat_map(ContainerSpec::blobs).filter(|(of, _)| *of == kind);
    let used: BTreeSet<BlobName> = mounts.map(|(_, mount)| mount.source.clone()).collect();
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut specs = BTreeMap::new();
    for ((of, key), declaration) in declared.iter().filter(|((of, _), _)| *of == kind) {
        let Some((source, item)) = &declaration.source else { continue };
        let path = format!("{}.{}", of.plural(), clip(key));
        let Some(name) = used.get(key.as_str()) else {
            let for_build = kind == BlobKind::Secret && builds.contains(key);
            if all_read && !declaration.spec.external && !for_build {
                let message = format!("no service uses this {kind}; it is not created");
                item.cx.warn(declaration.at, &path, message, None);
            }
            continue;
        };
        if !declaration.spec.external
            && let Some(other) = names.insert(&declaration.spec.name, key)
        {
            let message = format!("has the name `{}`, as `{}` has", declaration.spec.name, clip(other));
            item.cx.error(declaration.at, &path, message, Some("give it another `name`".to_owned()));
        }
        let data = match declaration.spec.external {
            true => None,
            false => match content(kind, *source, item) {
                Some(data) => Some(data),
                None => continue,
            },
        };
        specs.insert(BlobName::clone(name), BlobSpec { data, ..declaration.spec.clone() });
    }
    specs
}

fn content(kind: BlobKind, source: Source, item: &Item<'_>) -> Option<BlobData> {
    let bytes = match source {
        Source::File => file(kind, item)?,
        Source::Environment => {
            let name = item.filled()?;
            let Some(value) = item.cx.var(name) else {
                item.error_help(
                    format!("the variable `{}` is not set", clip(name)),
                    "set it for the command that deploys, or in `.env`",
                );
                return None;
            };
            value.into_bytes()
        }
        Source::Content if item.is_null() => Vec::new(),
        Source::Content => item.text()?.as_bytes().to_vec(),
        Source::External => return None,
    };
    if let Err(wrong) = kind.check_size(bytes.len()) {
        item.error(wrong);
        return None;
    }
    Some(bytes.into())
}

fn file(kind: BlobKind, item: &Item<'_>) -> Option<Vec<u8>> {
    let max = kind.bytes_max();
    let path = mounts::host_path(item, item.filled()?)?;
    match (item.cx.input.read)(Path::new(&path), max as u64 + 1) {
        Ok(bytes) if bytes.len() > max => {
            item.error(format!("the file is larger than the {} KB ({max} bytes) of a {kind}", max >> 10));
            None
        }
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            item.error(format!("there is no file `{}`", clip(&path)));
            None
        }
        Err(error) => {
            item.error(format!("the file `{}` cannot be read: {error}", clip(&path)));
            None
        }
    }
}
