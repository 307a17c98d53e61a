//! `build`: kept in the spec for tools that build.

use std::collections::BTreeMap;

use super::{
    environment,
    item::{Fields, Item},
    keys, limits, mounts, namespaces,
    yaml::Kind,
};
use crate::spec::{BuildSecret, BuildSpec};

/// Reads `build` in its short or long form.
pub(super) fn read(item: &Item<'_>) -> Option<BuildSpec> {
    if matches!(item.node.kind, Kind::Scalar(_)) {
        return Some(BuildSpec { context: context(item)?, ..BuildSpec::default() });
    }
    let fields = item.fields()?;
    let text = |key| fields.given(key).and_then(|item| item.filled().map(str::to_owned));
    let flag = |key| fields.given(key).and_then(|item| item.flag()).unwrap_or(false);
    let list = |key| fields.get(key).map(|item| item.one_or_more()).unwrap_or_default();
    let texts = |key| {
        let items = list(key);
        items.iter().filter_map(|item| item.filled().map(str::to_owned)).collect::<Vec<_>>()
    };
    let spec = BuildSpec {
        context: match fields.given("context") {
            Some(item) => context(&item).unwrap_or_default(),
            None => item.cx.input.project_dir.display().to_string(),
        },
        dockerfile: text("dockerfile").filter(|path| path != "Dockerfile"),
        dockerfile_inline: text("dockerfile_inline"),
        target: text("target"),
        args: args(&fields),
        additional_contexts: additional_contexts(&fields),
        labels: fields.get("labels").map(|item| environment::labels(&item)).unwrap_or_default(),
        tags: texts("tags"),
        platforms: texts("platforms"),
        cache_from: texts("cache_from"),
        cache_to: texts("cache_to"),
        no_cache: flag("no_cache"),
        pull: flag("pull"),
        ssh: ssh(&fields),
        secrets: list("secrets").iter().filter_map(secret).collect(),
        network: text("network"),
        extra_hosts: fields.get("extra_hosts").map(|item| namespaces::hosts(&item)).unwrap_or_default(),
        shm_size: limits::size(&fields, "shm_size"),
        ulimits: limits::ulimits(&fields),
        privileged: flag("privileged"),
        entitlements: texts("entitlements"),
        isolation: text("isolation"),
        provenance: text("provenance"),
        sbom: text("sbom"),
    };
    fields.end(&keys::BUILD);
    Some(spec)
}

/// An absolute path, or an address as it is.
fn context(item: &Item<'_>) -> Option<String> {
    place(item, item.filled()?)
}

/// An address as it is, a path from the project's directory on.
fn place(item: &Item<'_>, text: &str) -> Option<String> {
    let is_address = text.contains("://") || text.starts_with("git@") || text.starts_with("github.com/");
    if is_address { Some(text.to_owned()) } else { mounts::host_path(item, text) }
}

/// Paths, addresses, and what another service or an image has.
fn additional_contexts(fields: &Fields<'_>) -> BTreeMap<String, String> {
    let Some(item) = fields.get("additional_contexts") else { return BTreeMap::new() };
    let read = |(name, (value, item)): (&str, (Option<&str>, Item<'_>))| {
        let text = value?;
        let found = match text.starts_with("service:") {
            true => Some(text.to_owned()),
            false => place(&item, text),
        };
        Some((name.to_owned(), found?))
    };
    item.pairs().into_iter().filter_map(read).collect()
}

fn args(fields: &Fields<'_>) -> BTreeMap<String, Option<String>> {
    let Some(item) = fields.get("args") else { return BTreeMap::new() };
    let value = |name: &str, value: Option<&str>| value.map(str::to_owned).or_else(|| item.cx.var(name));
    item.pairs().into_iter().map(|(name, (found, _))| (name.to_owned(), value(name, found))).collect()
}

/// `default`, a list of `ID` or `ID=PATH`, or a mapping.
fn ssh(fields: &Fields<'_>) -> Vec<String> {
    let Some(item) = fields.get("ssh") else { return Vec::new() };
    if matches!(item.node.kind, Kind::Scalar(_)) {
        return item.filled().map(str::to_owned).into_iter().collect();
    }
    let shown =
        |(id, value): (&str, Option<&str>)| value.map_or(id.to_owned(), |path| format!("{id}={path}"));
    item.pairs().into_iter().map(|(id, (value, _))| shown((id, value))).collect()
}

fn secret(item: &Item<'_>) -> Option<BuildSecret> {
    if !matches!(item.node.kind, Kind::Map(_)) {
        return Some(BuildSecret { source: item.filled()?.to_owned(), ..BuildSecret::default() });
    }
    let fields = item.fields()?;
    let text = |key| fields.given(key).and_then(|item| item.filled().map(str::to_owned));
    let secret = BuildSecret {
        source: text("source").unwrap_or_default(),
        target: text("target"),
        uid: text("uid"),
        gid: text("gid"),
        mode: fields.given("mode").and_then(|item| item.parse(mounts::permissions)),
    };
    fields.finish(&[]);
    if secret.source.is_empty() {
        item.error("`source` is missing");
        return None;
    }
    Some(secret)
}
