//! Environment variables of a container (`environment`, `env_file`), and labels.

use std::collections::BTreeMap;

use super::{
    cx::Unread,
    dotenv::{self, Format},
    item::{Fields, Item},
    text::clip,
    yaml::Kind,
};

/// Labels that the cluster itself puts on what it creates; nothing else may look like them.
const RESERVED_LABELS: [&str; 3] = ["dev.raftup.", "com.docker.swarm.", "com.docker.stack."];

/// Reads `env_file`, and `environment` over it. A name without a value takes that of the loader's environment and is
/// left out if there is none.
pub(super) fn read(fields: &Fields<'_>) -> BTreeMap<String, String> {
    let mut env = fields.get("env_file").map(|item| files(&item)).unwrap_or_default();
    let Some(item) = fields.get("environment") else { return env };
    variables(&item, &mut env);
    env
}

/// Reads `environment` into `env`.
pub(super) fn variables(item: &Item<'_>, env: &mut BTreeMap<String, String>) {
    for (name, (value, item)) in item.pairs() {
        match value.map(str::to_owned).or_else(|| item.cx.var(name)) {
            Some(value) => {
                refuse_placeholders(&item, &value);
                env.insert(name.to_owned(), value);
            }
            None => {
                env.remove(name);
            }
        }
    }
}

/// What Swarm puts something in the place of, for each task. Passed on as it is, it would be a value that nobody meant.
pub(super) fn refuse_placeholders(item: &Item<'_>, text: &str) {
    let is_one = |rest: &str| {
        let rest = rest.trim_start();
        [".Service.", ".Node.", ".Task."].iter().any(|kind| rest.starts_with(kind))
    };
    let Some(rest) = text.split("{{").skip(1).find(|rest| is_one(rest)) else { return };
    let name = rest.split("}}").next().unwrap_or_default().trim();
    item.error(format!("the placeholder `{{{{{}}}}}` is not supported yet", clip(name)));
}

/// The variables of the files that `env_file` names.
pub(super) fn files(item: &Item<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for item in item.one_or_more() {
        env.extend(env_file(&item));
    }
    env
}

fn env_file(item: &Item<'_>) -> BTreeMap<String, String> {
    let (path, required, format) = match &item.node.kind {
        Kind::Map(_) => match long_env_file(item) {
            Some(long) => long,
            None => return BTreeMap::new(),
        },
        Kind::Null | Kind::Scalar(_) | Kind::List(_) => match item.filled() {
            Some(path) => (path, true, Format::Dotenv),
            None => return BTreeMap::new(),
        },
    };
    let (shown, path) = item.cx.beside(path.as_ref());
    match item.cx.read(&shown, &path) {
        Ok((file, text)) => dotenv::parse(item.cx, file, &text, format, &|name| item.cx.var(name)),
        Err(Unread::Missing) if required => {
            let help = "create it, or use the long form with `required: false`";
            item.error_help(format!("there is no file `{}`", shown.display()), help);
            BTreeMap::new()
        }
        Err(Unread::Missing | Unread::Reported) => BTreeMap::new(),
    }
}

fn long_env_file<'a>(item: &Item<'a>) -> Option<(&'a str, bool, Format)> {
    let fields = item.fields()?;
    let path = fields.get("path");
    if path.is_none() {
        item.error("`path` is missing");
    }
    let required = fields.get("required").and_then(|item| item.flag()).unwrap_or(true);
    let format = fields.get("format").and_then(|item| {
        item.parse(|text| match text {
            "raw" => Ok(Format::Raw),
            other => Err(format!("`{}` is no format; the only one that can be named is `raw`", clip(other))),
        })
    });
    fields.finish(&[]);
    Some((path?.filled()?, required, format.unwrap_or(Format::Dotenv)))
}

/// The labels of a service's containers: `label_file`, and `labels` over it.
pub(super) fn container_labels(fields: &Fields<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for item in fields.get("label_file").map(|item| item.one_or_more()).unwrap_or_default() {
        for (key, value) in env_file(&item) {
            check_label(&item, &key);
            found.insert(key, value);
        }
    }
    found.extend(fields.get("labels").map(|item| labels(&item)).unwrap_or_default());
    found
}

fn check_label(item: &Item<'_>, key: &str) {
    if RESERVED_LABELS.iter().any(|prefix| key.starts_with(prefix)) {
        item.error(format!("the label `{}` is one that the cluster sets itself", clip(key)));
    }
}

/// Reads labels in either notation.
pub(super) fn labels(item: &Item<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (key, (value, item)) in item.pairs() {
        check_label(&item, key);
        labels.insert(key.to_owned(), value.unwrap_or_default().to_owned());
    }
    labels
}
