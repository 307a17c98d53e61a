//! The normalised file beside what Docker Compose 2.40 prints for the same files.
//!
//! `tests/compose-goldens.sh` records the other side anew.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Input, Normalise, Problems, canonical, cx::Cx, load, normalise, yaml};

/// What is printed otherwise than by Docker Compose: fixture, place, and why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("differs-command", "/services/web/command", "Compose cuts the text at what a shell would understand"),
    ("differs-command", "/services/web/entrypoint", "Compose cuts the text at what a shell would understand"),
    ("differs-date", "/services/web/x-when", "Compose writes dates with a time"),
    ("differs-numbers", "/services/web/environment/A", "the text of the file is kept"),
    ("differs-numbers", "/services/web/environment/B", "the text of the file is kept"),
    ("differs-numbers", "/services/web/environment/C", "the text of the file is kept"),
    ("differs-numbers", "/services/web/environment/D", "the text of the file is kept"),
    ("differs-numbers", "/services/web/labels/a", "the text of the file is kept"),
    ("differs-one-letter", "/services/web/volumes/0/source", "Compose takes one letter for a drive"),
    ("differs-one-letter", "/services/web/volumes/0/target", "Compose takes one letter for a drive"),
    ("differs-one-letter", "/volumes", "Compose takes one letter for a drive"),
    ("differs-pools", "/networks/n/ipam/config", "Compose drops the pools that the later file does not name"),
    ("differs-reset", "/services/web/environment/A", "Compose does not find the name in a list"),
    ("differs-tmpfs-mode", "/services/web/volumes/0/tmpfs/mode", "the digits are octal, and stay so"),
    (
        "example-agent",
        "/services/agent/volumes/0/bind/create_host_path",
        "Compose leaves out what differs from its default",
    ),
    ("merge-ports", "/services/web/ports", "Compose has port 81 twice, from its short and its long form"),
    (
        "merge-secrets",
        "/services/web/secrets",
        "Compose does not see that a relative target lies in /run/secrets",
    ),
    ("merge-secrets", "/secrets/b", "it is not used here"),
    ("networks-top", "/networks/back/ipam/options", "Compose drops them"),
    ("profiles-optional", "/services/web/depends_on", "the other service is not there"),
    ("ulimits", "/services/web/ulimits/core", "Compose writes the number 0 as both limits"),
    ("volumes-top", "/volumes/vd/driver_opts/device", "a relative path is of no use to an engine"),
];

struct Fixture {
    name: String,
    files: Vec<(String, String)>,
    env: BTreeMap<String, String>,
    profiles: Vec<String>,
}

/// The fixtures of this folder, and the stacks that come with raftup.
fn fixtures() -> Vec<Fixture> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = |dir: &str| {
        let entries = fs::read_dir(top.join(dir)).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let texts = entries("src/compose/tests/config").into_iter();
    let texts = texts.filter(|path| path.extension().is_some_and(|ending| ending == "txt"));
    let mut fixtures: Vec<Fixture> = texts.map(|path| fixture(&path)).collect();
    for example in entries("../compose-examples") {
        let name = format!("example-{}", example.file_name().unwrap().to_str().unwrap());
        fixtures.push(Fixture { name, ..fixture(&example.join("compose.yaml")) });
    }
    fixtures
}

fn fixture(path: &Path) -> Fixture {
    let text = fs::read_to_string(path).unwrap();
    let mut env = BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]);
    let mut profiles = Vec::new();
    let mut rest = text.as_str();
    while let Some((line, below)) = rest.split_once('\n') {
        if let Some(variable) = line.strip_prefix("# env ") {
            let (name, value) = variable.split_once('=').unwrap();
            env.insert(name.to_owned(), value.to_owned());
        } else if let Some(profile) = line.strip_prefix("# profile ") {
            profiles.push(profile.to_owned());
        } else {
            break;
        }
        rest = below;
    }
    let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
    Fixture { name, files: super::split(rest), env, profiles }
}

impl Fixture {
    fn with<T>(&self, run: impl Fn(&Input<'_>) -> T) -> T {
        let read = |path: &Path, limit: u64| {
            let name = path.strip_prefix("/srv/shop").unwrap_or(path);
            let found = self.files.iter().find(|(file, _)| Path::new(file) == name);
            let text = &found.ok_or(io::ErrorKind::NotFound)?.1;
            Ok(text.bytes().take(usize::try_from(limit).unwrap()).collect())
        };
        let files: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(name, _)| name.ends_with(".yaml"))
            .map(|(name, _)| name.into())
            .collect();
        run(&Input {
            files: &files,
            project_dir: Path::new("/srv/shop"),
            env_files: &[],
            profiles: &self.profiles,
            name: None,
            env: &self.env,
            read: &read,
        })
    }

    fn golden(&self) -> Value {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/compose/tests/config");
        let text = fs::read_to_string(dir.join(format!("{}.expected.yaml", self.name)));
        value(&text.unwrap_or_else(|error| panic!("{}: {error}; record it", self.name)))
    }
}

/// The value of a YAML text, with the types of YAML.
fn value(text: &str) -> Value {
    let env = BTreeMap::new();
    let read = |_: &Path, _| Err(io::ErrorKind::NotFound.into());
    let (files, project_dir) = (&[][..], Path::new("/"));
    let input =
        Input { files, project_dir, env_files: &[], profiles: &[], name: None, env: &env, read: &read };
    let cx = Cx::new(&input);
    let documents = yaml::parse(&cx, 0, text).unwrap_or_else(|| panic!("not YAML:\n{text}"));
    canonical::any(&documents[0])
}

/// Every place where two values differ.
fn differences(found: &Value, expected: &Value, path: &str, out: &mut Vec<(String, String)>) {
    match (found, expected) {
        (Value::Object(one), Value::Object(two)) => {
            let mut keys: Vec<&String> = one.keys().chain(two.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let absent = json!("(absent)");
                let (one, two) = (one.get(key).unwrap_or(&absent), two.get(key).unwrap_or(&absent));
                differences(one, two, &format!("{path}/{key}"), out);
            }
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            for (index, (one, two)) in one.iter().zip(two).enumerate() {
                differences(one, two, &format!("{path}/{index}"), out);
            }
        }
        (one, two) if one != two => out.push((path.to_owned(), format!("{one} and not {two}"))),
        _ => {}
    }
}

#[test]
fn fixtures_are_as_docker_compose_has_them() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 200, "only {} fixtures", fixtures.len());
    let mut wrong = String::new();
    for fixture in &fixtures {
        let config = match fixture.with(|input| normalise(input, Normalise::default())) {
            Ok(config) => config,
            Err(problems) => {
                wrong += &format!("{}: refused: {problems}\n", fixture.name);
                continue;
            }
        };
        let mut found = Vec::new();
        differences(config.json(), &fixture.golden(), "", &mut found);
        let mut listed: Vec<_> = DIFFERENCES.iter().filter(|(name, ..)| *name == fixture.name).collect();
        for (path, what) in found {
            match listed.iter().position(|(_, place, _)| *place == path) {
                Some(known) => drop(listed.remove(known)),
                None => wrong += &format!("{}: {path}: {what}\n", fixture.name),
            }
        }
        for (name, place, ..) in listed {
            wrong += &format!("{name}: {place}: is listed as a difference and is none\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn what_is_printed_is_read_as_the_same() {
    for fixture in fixtures() {
        let config = fixture.with(|input| normalise(input, Normalise::default())).unwrap();
        let yaml = config.yaml();
        let mut wrong = Vec::new();
        differences(&value(&yaml), config.json(), "", &mut wrong);
        assert!(wrong.is_empty(), "{}: {wrong:?}\n{yaml}", fixture.name);
        let again = Fixture { files: vec![("compose.yaml".to_owned(), yaml.clone())], ..fixture };
        let twice = again.with(|input| normalise(input, Normalise::default())).unwrap();
        differences(twice.json(), config.json(), "", &mut wrong);
        assert!(wrong.is_empty(), "{}: {wrong:?}\n{yaml}", again.name);
    }
}

#[test]
fn what_is_printed_makes_the_same_stack() {
    let mut stacks = 0;
    for fixture in fixtures() {
        let Ok(loaded) = fixture.with(load) else { continue };
        stacks += 1;
        let yaml = fixture.with(|input| normalise(input, Normalise::default())).unwrap().yaml();
        let again = Fixture { files: vec![("compose.yaml".to_owned(), yaml.clone())], ..fixture };
        let twice = again.with(load).unwrap_or_else(|problems| panic!("{}: {problems}\n{yaml}", again.name));
        assert_eq!(super::as_printed(twice.spec), super::as_printed(loaded.spec), "{}:\n{yaml}", again.name);
    }
    assert!(stacks > 60, "only {stacks} of the fixtures can be deployed");
}

#[test]
fn variables_can_stay() {
    let files = vec![(
        "compose.yaml".to_owned(),
        "services: {web: {image: 'nginx:${TAG:-1}', command: ['$A', '$$B'], ports: ['${P}:80']}}\n"
            .to_owned(),
    )];
    let fixture = Fixture { name: String::new(), files, env: BTreeMap::new(), profiles: Vec::new() };
    let config = fixture.with(|input| normalise(input, Normalise { keep_variables: true })).unwrap();
    let web = &config.json()["services"]["web"];
    assert_eq!(web["image"], "nginx:${TAG:-1}");
    assert_eq!(web["command"], json!(["$A", "$$B"]));
    assert_eq!(web["ports"], json!(["${P}:80"]));
}

#[test]
fn parts_of_it_can_be_asked_for() {
    let files = vec![(
        "compose.yaml".to_owned(),
        "services:\n  web: {image: nginx, depends_on: [db], networks: [n]}\n  db: {build: ., volumes: ['d:/d']}\n  \
         x: {image: nginx, profiles: [p]}\nnetworks: {n: {}}\nvolumes: {d: {}}\n"
            .to_owned(),
    )];
    let fixture = Fixture { name: String::new(), files, env: BTreeMap::new(), profiles: Vec::new() };
    let mut config = fixture.with(|input| normalise(input, Normalise::default())).unwrap();
    assert_eq!(config.names("services"), ["db", "web"]);
    assert_eq!(config.names("volumes"), ["d"]);
    assert_eq!(config.images().into_iter().collect::<Vec<_>>(), ["nginx", "shop-db"]);
    assert_eq!(config.profiles().iter().collect::<Vec<_>>(), ["p"]);
    let hashes = config.hashes();
    assert!(hashes["web"] != hashes["db"] && hashes["web"].len() == 64);
    assert_eq!(config.select(&["nobody".to_owned()]), Err("nobody".to_owned()));
    config.select(&["db".to_owned()]).unwrap();
    assert_eq!((config.names("services"), config.names("networks")), (vec!["db"], vec!["default"]));
    assert_eq!(config.names("volumes"), ["d"]);
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        ".{0,12}",
        "[ \t\n:#'\"\\\\{}&*!|>%@`,?=~<.-]{0,8}",
        "[a-z \n]{0,24}",
        "[0-9_.:xobeE+-]{1,8}",
        prop::sample::select(
            &["yes", "Null", "~", "---", "...", "- a", "a: b", "a #b", "\u{feff}", "\u{2028}", "=", "<<"][..]
        )
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (-1000..1000_i32).prop_map(|number| json!(f64::from(number) / 8.0 + 0.0625)),
        text.clone().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::btree_map(text.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().filter(|(key, _)| key != "<<").collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_is_read_as_it_was_written(inner in any_value()) {
        let whole = json!({"a": inner});
        let yaml = canonical::document(&whole);
        prop_assert_eq!(value(&yaml), whole, "{}", yaml);
    }
}

/// Why a file is refused, as one text.
fn refusal(problems: &Problems) -> String {
    problems.errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_cannot_be_merged_is_refused_here_too() {
    let files = super::split(
        "## a.yaml\nservices: {web: {image: a, ports: ['80:80']}}\n## b.yaml\nservices: {web: {ports: {a: b}}}\n",
    );
    let fixture = Fixture { name: String::new(), files, env: BTreeMap::new(), profiles: Vec::new() };
    let problems = fixture.with(|input| normalise(input, Normalise::default())).unwrap_err();
    assert!(refusal(&problems).contains("of different kinds"));
}
