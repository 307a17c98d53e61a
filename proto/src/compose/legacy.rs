//! Forms of older compose files as those of the Compose Specification.
//!
//! Owns: `external: {name: X}` of networks, volumes, secrets and configs, which is `external: true` with `name: X`.

use super::{
    cx::Cx,
    yaml::{Entry, Kind, Node},
};

/// Rewrites the old forms in a tree.
pub(super) fn modernise(cx: &Cx<'_>, tree: &mut Node) {
    for kind in ["networks", "volumes", "secrets", "configs"] {
        let Some(Kind::Map(objects)) = tree.get_mut(kind).map(|node| &mut node.kind) else { continue };
        for (name, entry) in objects {
            external_name(cx, &format!("{kind}.{name}"), &mut entry.value);
        }
    }
}

fn external_name(cx: &Cx<'_>, path: &str, object: &mut Node) {
    let Kind::Map(map) = &mut object.kind else { return };
    let Some(external) = map.get_mut("external") else { return };
    let Kind::Map(old) = &mut external.value.kind else { return };
    let named = old.swap_remove("name");
    if let Some((key, entry)) = old.first() {
        let message = format!("unknown key `{}`", super::text::clip(key));
        let help = "write `external: true`, and `name: NAME` beside it".to_owned();
        cx.error(entry.key_at, &format!("{path}.external"), message, Some(help));
    }
    let at = external.value.at;
    external.value = Node { plain: true, ..Node::new(Kind::Scalar("true".to_owned()), at) };
    let Some(named) = named else { return };
    match map.get("name") {
        None => {
            map.insert("name".to_owned(), Entry { key_at: named.key_at, value: named.value });
        }
        Some(twice) if twice.value.text() != named.value.text() => {
            let help = "remove the one under `external`".to_owned();
            cx.error(named.key_at, &format!("{path}.external.name"), "the name is given twice", Some(help));
        }
        Some(_) => {}
    }
}
