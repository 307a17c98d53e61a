//! The daemon's layers, its pure files, and the few places that name a foreign library.
//!
//! Reads the sources as text: what stands in comments, and below `#[cfg(test)]`, does not count.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each layer may import those before it, and itself only within one folder.
const LAYERS: [&[&str]; 8] = [
    &["disk", "netlink", "config", "pace", "compute", "privileges", "unix_socket", "log_lines"],
    &["apart"],
    &["model"],
    &["plan"],
    &["engine", "net", "gossip", "fabric", "mesh", "dns", "secret"],
    &["store", "control", "agent"],
    &["api"],
    &["node"],
];
/// The one module that its neighbours may import: loops share the handle on the state.
const SHARED: &str = "store";
/// Files outside of `model` and `plan` that are pure. Others say it in the first line of their doc: "..; pure".
const PURE: [&str; 5] =
    ["store/apply.rs", "store/format.rs", "mesh/table.rs", "mesh/render.rs", "gossip/watcher.rs"];
/// What no pure file names: time, chance, tasks and the outside are arguments there.
const IMPURE: [&str; 10] = [
    "tokio",
    "bollard",
    "quinn",
    "openraft",
    "rand::",
    "::now()",
    "std::fs",
    "std::env",
    "std::process",
    "redb",
];
/// Libraries that one folder or file keeps to itself.
const KEPT: [(&str, &[&str]); 4] = [
    ("bollard", &["daemon/src/engine/"]),
    ("quinn", &["daemon/src/net/"]),
    ("openraft", &["daemon/src/store/"]),
    ("bincode", &["proto/src/codec.rs", "daemon/src/store/format.rs"]),
];

struct Source {
    /// From the workspace's top.
    path: String,
    code: String,
    doc: String,
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for source in sources("daemon/src") {
        let inside = source.path.trim_start_matches("daemon/src/");
        let own = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if ["main", "lib"].contains(&own) {
            continue;
        }
        let Some(rank) = rank(own) else {
            wrong.push(format!("{}: module `{own}` is in no layer; add it to LAYERS", source.path));
            continue;
        };
        for name in imports(&source.code, depth(inside)) {
            let fits = match self::rank(&name) {
                // Not a module: a macro or a function of the crate's root.
                None => true,
                Some(other) => name == own || other < rank || (other == rank && name == SHARED),
            };
            if !fits {
                wrong.push(format!("{}: `{own}` imports `{name}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that do not point down:\n{}", wrong.join("\n"));
}

#[test]
fn pure_files_are_pure() {
    let mut wrong = Vec::new();
    for source in sources("daemon/src") {
        let inside = source.path.trim_start_matches("daemon/src/");
        let by_place = inside.starts_with("model/") || inside.starts_with("plan/") || PURE.contains(&inside);
        let says_so = source.doc.lines().next().is_some_and(|line| line.contains("; pure"));
        if by_place || says_so {
            // A type that only holds a time is no clock.
            let code = source.code.replace("tokio::time::Instant", "Instant");
            let named = IMPURE.iter().filter(|word| names(&code, word));
            wrong.extend(named.map(|word| format!("{}: names `{word}`", source.path)));
        }
    }
    assert!(wrong.is_empty(), "pure files that are not:\n{}", wrong.join("\n"));
}

#[test]
fn foreign_libraries_stay_in_their_place() {
    let mut wrong = Vec::new();
    for source in ["daemon/src", "proto/src", "cli/src"].into_iter().flat_map(sources) {
        for (library, places) in KEPT {
            let at_home = places.iter().any(|place| source.path.starts_with(place));
            if !at_home && names(&source.code, &format!("{library}::")) {
                wrong.push(format!("{}: names `{library}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "libraries out of their place:\n{}", wrong.join("\n"));
}

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// How many `super::` lead from a file to the crate's root.
fn depth(inside: &str) -> usize {
    let parts = inside.trim_end_matches(".rs").split('/').count();
    if inside.ends_with("mod.rs") { parts - 1 } else { parts }
}

/// Whether `word` stands in `code` and not as the end of a longer name.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        word.starts_with(':') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// The modules of the crate's root that a file names, by `crate::` or by enough `super::`.
fn imports(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&root) {
            let rest = &code[at + root.len()..];
            // A longer chain of `super::` leads further up than the root, which cannot be.
            let chained = code[..at].ends_with("super::");
            if !chained {
                found.extend(first_names(rest));
            }
        }
    }
    found
}

/// The first name of a path, or the first names of a group `{a::b, c}`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut level, mut found, mut start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => start = true,
            c if start && !c.is_whitespace() => {
                found.push(name(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    found
}

fn sources(dir: &str) -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let mut files = Vec::new();
    collect(&top.join(dir), &mut files);
    assert!(!files.is_empty(), "no sources in {dir}");
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let path = file.strip_prefix(&top).unwrap().display().to_string();
            let doc = text.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n");
            Source { path, code: code(&text), doc }
        })
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            collect(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
}

/// The text without comments, up to the tests at its end.
fn code(text: &str) -> String {
    let own = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    own.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reader_of_imports_sees_groups_and_parents() {
    let code = "use crate::{net::{Link, tls}, model};\nlet x = super::super::plan::decide();\nmycrate::no();";
    let found: Vec<String> = imports(code, 2).into_iter().collect();
    assert_eq!(found, ["model", "net", "no", "plan"]);
}
