//! `label_file`: labels of a container that are kept in files of their own.
//!
//! Owns: reading them into `labels`, whose own entries win, so that later steps know `labels` only.

use super::{
    cx::{Cx, Unread},
    dotenv, merge,
    text::clip,
    yaml::{Entry, Kind, Map, Node},
};

/// Reads the label files of all services.
pub(super) fn read(cx: &Cx<'_>, root: &mut Node) {
    let Some(Kind::Map(services)) = root.get_mut("services").map(|node| &mut node.kind) else { return };
    for (name, entry) in services {
        service(cx, name, &mut entry.value);
    }
}

fn service(cx: &Cx<'_>, name: &str, service: &mut Node) {
    let Kind::Map(keys) = &mut service.kind else { return };
    let Some(files) = keys.shift_remove("label_file") else { return };
    let path = format!("services.{}.label_file", clip(name));
    let at = files.value.at;
    let items = match merge::as_list(files.value).kind {
        Kind::List(items) => items,
        Kind::Null => return,
        Kind::Scalar(_) | Kind::Map(_) => {
            return cx.error(at, &path, "must be the path of a file or a list of them", None);
        }
    };
    let mut labels = Map::new();
    for item in items {
        let Some(file) = item.text().filter(|text| !text.is_empty()) else {
            cx.error(item.at, &path, "must be the path of a file", None);
            continue;
        };
        let (shown, file) = cx.beside(file.as_ref());
        match cx.read(&shown, &file) {
            Ok((file, text)) => {
                let found = dotenv::parse(cx, file, &text, dotenv::Format::Dotenv, &|name| cx.var(name));
                for (name, value) in found {
                    let value = Node::new(Kind::Scalar(value), item.at);
                    labels.insert(name, Entry { key_at: item.at, value });
                }
            }
            Err(Unread::Missing) => {
                cx.error(item.at, &path, format!("there is no file `{}`", shown.display()), None);
            }
            Err(Unread::Reported) => {}
        }
    }
    let from_files = Node::new(Kind::Map(labels), at);
    let merged = match keys.shift_remove("labels") {
        Some(own) => {
            let own_at = own.key_at;
            let merged = merge::merge_value(cx, ["services", name, "labels"], from_files, own.value);
            Entry { key_at: own_at, value: merged }
        }
        None => Entry { key_at: files.key_at, value: from_files },
    };
    keys.insert("labels".to_owned(), merged);
}
