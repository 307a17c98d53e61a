//! The table of keys: in the documentation as it is in the code, and true of the loader.

use std::{fmt::Write, fs, path::Path};

use super::run;
use crate::compose::keys::{ALL, Effect, SERVICE, Table};

const BEGIN: &str = "<!-- keys: generated from proto/src/compose/keys.rs, `UPDATE_EXPECT=1 cargo test -p raftup-proto keys` -->\n";
const END: &str = "<!-- end of keys -->\n";

/// One table of Markdown for each mapping: what is applied without a word more in one line, the rest one by one.
fn document() -> String {
    let mut out = String::new();
    for table in ALL {
        let title = if table.path.is_empty() { "the file" } else { table.path };
        writeln!(out, "\n#### `{title}`\n").unwrap();
        let plain = table.keys.iter().filter(|key| key.effect == Effect::Applied(""));
        let plain: Vec<_> = plain.map(|key| format!("`{}`", key.name)).collect();
        if !plain.is_empty() {
            writeln!(out, "Applied: {}\n", plain.join(", ")).unwrap();
        }
        let rest: Vec<_> = table.keys.iter().filter(|key| key.effect != Effect::Applied("")).collect();
        if rest.is_empty() {
            continue;
        }
        writeln!(out, "| key | | |\n| --- | --- | --- |").unwrap();
        for key in rest {
            let (what, why) = match key.effect {
                Effect::Applied(note) => ("applied", note.to_owned()),
                Effect::Idle(why) => ("no effect here", why.to_owned()),
                Effect::Refused(why, "") => ("refused", why.to_owned()),
                Effect::Refused(why, instead) => ("refused", format!("{why}. Instead: {instead}")),
            };
            writeln!(out, "| `{}` | {what} | {why} |", key.name).unwrap();
        }
    }
    out.push('\n');
    out.replace("`the file`", "the file")
}

#[test]
fn keys_are_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compose.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("docs/compose.md has the place for the keys");
    let (now, tail) = rest.split_once(END).expect("docs/compose.md has the end of the keys");
    let wanted = document();
    if std::env::var_os("UPDATE_EXPECT").is_some() && now != wanted {
        fs::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
        return;
    }
    assert!(now == wanted, "docs/compose.md is behind: run this test with UPDATE_EXPECT=1");
}

#[test]
fn tables_are_in_order_and_name_no_key_twice() {
    for Table { path, keys } in ALL {
        let names: Vec<_> = keys.iter().map(|key| key.name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted, "{path}");
    }
}

/// Each key of a service is read, has no effect with a word, or is refused with the table's words.
#[test]
fn keys_of_a_service_become_what_the_table_says() {
    for key in SERVICE.keys {
        let text = format!("services: {{web: {{image: nginx, {}: {{}}}}}}", key.name);
        let text = if key.name == "image" { "services: {web: {image: nginx}}".to_owned() } else { text };
        let (errors, warnings) = match run(&text, &[]) {
            Ok(loaded) => (Vec::new(), loaded.warnings),
            Err(problems) => (problems.errors, problems.warnings),
        };
        let said =
            |list: &[crate::compose::Diagnostic], words: &str| list.iter().any(|one| one.message == words);
        match key.effect {
            Effect::Applied(_) => {
                let unread = errors.iter().find(|error| {
                    error.message.starts_with("unknown key") || error.message == "is not supported here"
                });
                assert!(unread.is_none(), "{}: {unread:?}", key.name);
            }
            Effect::Idle(why) => {
                assert!(errors.is_empty(), "{}: {errors:?}", key.name);
                assert!(said(&warnings, &format!("has no effect: {why}")), "{}: {warnings:?}", key.name);
            }
            Effect::Refused(why, _) => assert!(said(&errors, why), "{}: {errors:?}", key.name),
        }
    }
}
