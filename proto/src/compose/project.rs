//! From the input to one tree and a name: variables, files, the name of the stack, profiles.
//!
//! Owns: the order of these steps. Holds: whatever is wrong in one of them does not hide what is wrong in the model,
//! but for a file that cannot be read and an `include` or `extends` that fails: the model is not there then.

use std::collections::BTreeSet;

use super::{
    cx::{Cx, Place, Unread},
    dotenv,
    interpolate::Scope,
    item::Item,
    label_file,
    layer::{self, Base},
    path::Path,
    profiles,
    rebase::plain,
    text::clip,
    unique,
    yaml::{self, Kind, Node},
};
use crate::{name::StackName, spec::StackSpec};

/// Variable that names the stack, and that files may use for its name. Source: Compose Specification.
const NAME_VARIABLE: &str = "COMPOSE_PROJECT_NAME";

/// The merged files of a stack.
pub(super) struct Project {
    /// Nothing if what would be its name cannot be one, which was reported.
    pub(super) name: Option<StackName>,
    pub(super) root: Node,
    /// All profiles that the files name.
    pub(super) profiles: BTreeSet<String>,
}

/// Loads the stack; `None` if it was reported why not.
pub(super) fn load(cx: &Cx<'_>) -> Option<StackSpec> {
    let mut project = tree(cx)?;
    profiles::forget(&mut project.root);
    // What is wrong with the model is told in any case; without a name nothing comes of it.
    let name = project.name.or_else(|| "stack".parse().ok())?;
    forget_names(&mut project.root, name.as_str());
    super::stack::read(&Item::root(cx, &project.root), name)
}

/// Removes names of networks and the like that are those they have anyway, as a normalised file gives them to all.
fn forget_names(root: &mut Node, stack: &str) {
    for kind in ["networks", "volumes", "secrets", "configs"] {
        let Some(Kind::Map(objects)) = root.get_mut(kind).map(|node| &mut node.kind) else { continue };
        for (key, entry) in objects {
            let external = entry.value.get("external").is_some();
            let own = entry
                .value
                .get("name")
                .and_then(Node::text)
                .is_some_and(|name| name == format!("{stack}_{key}"));
            if let Kind::Map(object) = &mut entry.value.kind
                && own
                && !external
            {
                object.shift_remove("name");
            }
        }
    }
}

/// Reads and merges the files; `None` if it was reported why not.
pub(super) fn tree(cx: &Cx<'_>) -> Option<Project> {
    if cx.input.files.is_empty() {
        cx.error(Place::file(0), "", "no compose file was given", None);
    }
    let read: Vec<Option<Vec<Node>>> = cx.input.files.iter().map(|name| file(cx, name)).collect();
    variables(cx);
    let mut documents: Vec<Node> =
        read.into_iter().collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
    let name = stack_name(cx, &mut documents);
    if let Some(name) = &name {
        cx.env.borrow_mut().insert(NAME_VARIABLE.to_owned(), name.to_string());
    }
    let trail = cx.input.files.iter().map(|name| plain(name)).collect();
    let base = Base { dir: std::path::PathBuf::new(), env: cx.env.borrow().clone(), trail };
    let mut root = layer::load(cx, documents, &base)?;
    if cx.broken.get() {
        return None;
    }
    unique::enforce(cx, &mut root);
    let all = profiles::all(&root);
    profiles::choose(cx, &mut root);
    label_file::read(cx, &mut root);
    Some(Project { name, root, profiles: all })
}

fn file(cx: &Cx<'_>, name: &std::path::Path) -> Option<Vec<Node>> {
    match cx.read(name, name) {
        Ok((file, text)) => yaml::parse(cx, file, &text),
        Err(Unread::Missing) => {
            cx.error(cx.last(), "", "there is no such file", None);
            None
        }
        Err(Unread::Reported) => None,
    }
}

/// Puts the variables of the environment files under those of the process. A `.env` need not be there, a file that was
/// named must be.
pub(super) fn variables(cx: &Cx<'_>) {
    if cx.input.env_files.is_empty() {
        let (name, path) = cx.beside(".env".as_ref());
        env_file(cx, &name, &path, false);
    }
    for name in cx.input.env_files {
        env_file(cx, name, name, true);
    }
}

fn env_file(cx: &Cx<'_>, name: &std::path::Path, path: &std::path::Path, required: bool) {
    match cx.read(name, path) {
        Ok((file, text)) => {
            let known = |name: &str| cx.var(name);
            let found = dotenv::parse(cx, file, &text, dotenv::Format::Dotenv, &known);
            let mut env = cx.env.borrow_mut();
            env.extend(found.into_iter().filter(|(name, _)| !cx.input.env.contains_key(name)));
        }
        Err(Unread::Missing) if required => cx.error(cx.last(), "", "there is no such file", None),
        Err(Unread::Missing | Unread::Reported) => {}
    }
}

/// The name that was given, else the variable's, else the last file's `name`, else that of the directory.
fn stack_name(cx: &Cx<'_>, documents: &mut [Node]) -> Option<StackName> {
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
    let mut named = documents.iter_mut().rev().filter(|tree| tree.get("name").is_some());
    if let Some(Node { kind: Kind::Map(map), .. }) = named.next() {
        // It is read here, with variables of its own time, and once only.
        return map.shift_remove("name").and_then(|entry| self::named(cx, entry.value));
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
fn named(cx: &Cx<'_>, mut node: Node) -> Option<StackName> {
    let lookup = |name: &str| cx.var(name);
    let before = cx.errors();
    Scope::new(cx, &lookup).tree(&mut node, &mut Path::of(["name"]));
    if cx.errors() > before {
        return None;
    }
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
