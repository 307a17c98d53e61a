//! No input makes the loader panic.

use proptest::prelude::*;

use super::{
    super::{Normalise, normalise},
    as_printed, run, with_input,
};

const FIXTURE: &str = include_str!("fixture.txt");

/// Pieces that mean something to one of the steps.
const PIECES: &[&str] = &[
    "\n",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "<<: *a",
    "${",
    "$",
    "$$",
    "${A:-",
    "'",
    "\"",
    "#",
    "|\n",
    ">\n",
    "!!str ",
    "!reset ",
    "? ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "\t",
    "\0",
    "\u{feff}",
    "é",
    "🚢",
    "null",
    "~",
    "-1",
    "1e9",
    "99999999999999999999",
    "0x",
    ":",
    "/",
    "..",
    "\\",
    "=",
    "==",
    "## .env\n",
    "## b.yaml\n",
    "services",
    "web",
    "ports",
    "80:80",
    "1-65535:1-65535",
    "{{",
    "\r\n",
    "\r",
    "\u{2028}",
];

fn mutated() -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0_usize..12, prop::sample::select(PIECES));
    prop::collection::vec(edit, 1..8).prop_map(|edits| {
        let mut chars: Vec<char> = FIXTURE.chars().collect();
        for (at, cut, piece) in edits {
            let at = at.index(chars.len());
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        chars.into_iter().collect()
    })
}

/// Loads, and renders what is said about it. What can be loaded is the same stack when it is printed and loaded again.
fn survive(text: &str) {
    let env = [("A", "a"), ("HOME", "/root")];
    match run(text, &env) {
        Ok(loaded) => {
            let printed = with_input(text, &env, |input| normalise(input, Normalise::default()));
            let printed = printed.unwrap_or_else(|problems| panic!("{problems}")).yaml();
            let again = run(&printed, &env).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
            assert_eq!(as_printed(again.spec), as_printed(loaded.spec.clone()), "{printed}");
            let json = serde_json::to_string(&loaded.spec).unwrap();
            assert_eq!(serde_json::from_str::<crate::spec::StackSpec>(&json).unwrap(), loaded.spec);
            loaded.warnings.iter().for_each(|warning| drop(warning.to_string()));
        }
        Err(problems) => assert!(!problems.errors.is_empty() && !problems.to_string().is_empty()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files(text in mutated()) {
        survive(&text);
    }

    #[test]
    fn soups(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        survive(&pieces.concat());
    }

    #[test]
    fn any_value(value in ".{0,40}", key in prop::sample::select(&[
        "image", "command", "ports", "volumes", "tmpfs", "networks", "environment", "env_file", "stop_signal",
        "hostname", "working_dir", "cpus", "mem_limit", "restart", "stop_grace_period", "labels", "healthcheck",
    ][..])) {
        let value = value.replace('\'', "''");
        survive(&format!("services: {{web: {{image: a, {key}: '{value}'}}}}\n"));
        survive(&format!("services:\n  web:\n    image: a\n    {key}:\n    - '{value}'\n"));
    }
}

#[test]
fn the_fixture_is_sound() {
    run(FIXTURE, &[("A", "a"), ("HOME", "/root")]).expect("mutations start from a good file");
}
