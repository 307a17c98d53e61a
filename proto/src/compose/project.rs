//! From the input to one tree and a name: reads the files, `.env`, interpolates, merges.
//!
//! Owns: the order of these steps and the name of the stack. Later steps of the Compose Specification (`include`,
//! `extends`, profiles) have their place between merging and reading the model.

use super::{
    cx::{Cx, Place, Unread},
    dotenv,
    interpolate::Scope,
    item::Item,
    merge,
    text::clip,
    yaml::{self, Kind, Node},
};
use crate::{name::StackName, spec::StackSpec};

/// Variable that names the stack, and that files may use for its name. Source: Compose Specification.
const NAME_VARIABLE: &str = "COMPOSE_PROJECT_NAME";

/// Loads the stack; `None` if it was reported why not.
pub(super) fn load(cx: &Cx<'_>) -> Option<StackSpec> {
    if cx.input.files.is_empty() {
        cx.error(Place::file(0), "", "no compose file was given", None);
    }
    let trees: Vec<Option<Node>> = cx.input.files.iter().map(|name| read(cx, name)).collect();
    let env_is_sound = read_env(cx);
    let mut trees: Vec<Node> = trees.into_iter().collect::<Option<_>>()?;
    let before = cx.errors();
    let lookup = |name: &str| cx.var(name);
    let scope = Scope::new(cx, &lookup);
    let name = stack_name(cx, &scope, &trees);
    if let Some(name) = &name {
        cx.env.borrow_mut().insert(NAME_VARIABLE.to_owned(), name.to_string());
    }
    for tree in &mut trees {
        scope.tree(tree, "");
    }
    let root = trees.into_iter().reduce(|base, over| merge::merge(cx, base, over))?;
    if cx.errors() > before {
        return None;
    }
    let spec = super::stack::read(&Item::root(cx, &root), name?);
    spec.filter(|_| env_is_sound)
}

fn read(cx: &Cx<'_>, name: &std::path::Path) -> Option<Node> {
    match cx.read(name, name) {
        Ok((file, text)) => yaml::parse(cx, file, &text),
        Err(Unread::Missing) => {
            cx.error(cx.last(), "", "there is no such file", None);
            None
        }
        Err(Unread::Reported) => None,
    }
}

/// Puts the variables of `.env` under those of the process; there need not be such a file.
fn read_env(cx: &Cx<'_>) -> bool {
    let (name, path) = cx.beside(".env".as_ref());
    match cx.read(&name, &path) {
        Ok((file, text)) => {
            let env = |name: &str| cx.var(name);
            let found = dotenv::parse(cx, file, &text, dotenv::Format::Dotenv, &env);
            let mut env = cx.env.borrow_mut();
            for (name, value) in found {
                if !cx.input.env.contains_key(&name) {
                    env.insert(name, value);
                }
            }
            true
        }
        Err(Unread::Missing) => true,
        Err(Unread::Reported) => false,
    }
}

/// The name that was given, else the variable's, else the last file's `name`, else that of the directory.
fn stack_name(cx: &Cx<'_>, scope: &Scope<'_>, trees: &[Node]) -> Option<StackName> {
    let whole = Place::file(0);
    let given = cx.input.name.map(str::to_owned);
    if let Some(name) = given.or_else(|| cx.var(NAME_VARIABLE).filter(|name| !name.is_empty())) {
        return match name.parse() {
            Ok(name) => Some(name),
            Err(error) => {
                cx.error(whole, "", error.to_string(), None);
                None
            }
        };
    }
    let keys = trees.iter().rev().filter_map(|tree| match &tree.kind {
        Kind::Map(map) => map.get("name"),
        Kind::Null | Kind::Scalar(_) | Kind::List(_) => None,
    });
    if let Some(entry) = keys.into_iter().next() {
        return named(cx, scope, &entry.value);
    }
    let base = cx.input.project_dir.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let fits = |char: &char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '-' | '_');
    let name: String = base.chars().filter(fits).collect();
    let name = name.trim_start_matches(['-', '_']).parse();
    if name.is_err() {
        let message = "the stack has no name, and that of the directory cannot be used";
        cx.error(whole, "", message, Some("add `name: NAME` to the file, or give a name".to_owned()));
    }
    name.ok()
}

/// The name in a `name:`. Compose wants lower case; it becomes a part of host names.
fn named(cx: &Cx<'_>, scope: &Scope<'_>, node: &Node) -> Option<StackName> {
    let mut node = node.clone();
    scope.tree(&mut node, "name");
    let item = Item { cx, node: &node, path: "name".to_owned() };
    let name = item.filled()?;
    let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '-' | '_');
    if !name.chars().all(fits) {
        let allowed = "only lower-case letters, digits, `-` and `_` are allowed";
        item.error(format!("`{}` cannot be the name of a stack: {allowed}", clip(name)));
        return None;
    }
    item.parse(str::parse)
}
