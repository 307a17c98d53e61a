//! Files that would take more than their share are refused in under a second, within 64 MiB.
//!
//! A program of its own, as it watches the memory of the whole process.

#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use raftup_proto::compose::{Input, Normalise, load, normalise};

/// Most time that a refusal may take.
const TIME_MAX: Duration = Duration::from_secs(1);
/// Most memory that the process may ever take, in KiB.
const MEMORY_MAX: u64 = 64 << 10;

/// The most memory that this process has taken so far, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Loads what `text` gives for each path, and checks what is said, how fast, and at which price.
fn refused(name: &str, says: &str, text: &dyn Fn(&Path) -> Option<String>) {
    let env = BTreeMap::new();
    let read = |path: &Path, limit: u64| {
        let path = path.strip_prefix("/srv").unwrap_or(path);
        let text = text(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.into_bytes().into_iter().take(usize::try_from(limit).unwrap()).collect())
    };
    let files = [PathBuf::from("compose.yaml")];
    let (files, project_dir) = (&files[..], Path::new("/srv"));
    let input =
        Input { files, project_dir, env_files: &[], profiles: &[], name: None, env: &env, read: &read };
    let start = Instant::now();
    let problems = load(&input).expect_err(name);
    let took = start.elapsed();
    let shown = problems.to_string();
    assert!(shown.contains(says), "{name}: {}", shown.chars().take(2000).collect::<String>());
    assert!(took < TIME_MAX, "{name}: took {took:?}");
    drop(normalise(&input, Normalise::default()));
    assert!(peak() < MEMORY_MAX, "{name}: took {} KiB", peak());
}

fn one(name: &str, says: &str, file: &str) {
    refused(name, says, &|path| (path == Path::new("compose.yaml")).then(|| file.to_owned()));
}

#[test]
fn hostile_files_are_refused_fast_and_cheaply() {
    let mut laughs = "x0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..20 {
        laughs += &format!("x{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    one("billion laughs", "blow it up", &laughs);
    let mut merges = "x0: &a0 {k: v}\n".to_owned();
    for level in 1..20_000 {
        merges += &format!("x{level}: &a{level} {{<<: *a{}, k{level}: v}}\n", level - 1);
    }
    one("merge keys", "blow it up", &merges);
    one("200,000 levels of lists", "deep", &"[".repeat(200_000));
    one("200,000 levels of mappings", "deep", &format!("{}1", "{a: ".repeat(200_000)));
    let steps: String = (0..1_000).map(|step| format!("{}a:\n", " ".repeat(step))).collect();
    one("deep blocks", "deep", &steps);
    one("half a million values", "more values", &format!("x: [{}]", "a,".repeat(500_000)));
    one("a huge key", "limit", &format!("{}: 1", "k".repeat(2 << 20)));
    let variables = vec!["${A:-xxxxxxxxxxxxxxxx}"; 40_000].join("");
    one("nested defaults", "not closed", &format!("x: '{}'", "${A:-".repeat(100_000)));
    one("many variables", "there are no services", &format!("x: '{variables}'"));

    let large = "x".repeat(1 << 20);
    refused("100 MB", "larger than the limit", &|_| Some(format!("{large}{large}")));
    refused("endless includes of one file", "circle", &|path| {
        (path == Path::new("compose.yaml"))
            .then(|| "include: [compose.yaml]\nservices: {a: {image: b}}\n".to_owned())
    });
    refused("includes in a circle", "circle", &|path| match path.to_str().unwrap() {
        "compose.yaml" => Some("include: [a.yml]\nservices: {a: {image: b}}\n".to_owned()),
        "a.yml" => Some("include: [sub/b.yml]\n".to_owned()),
        "sub/b.yml" => Some("include: [../a.yml]\n".to_owned()),
        _ => None,
    });
    refused("endless includes through a link", "include one another", &|path| {
        let known = path.file_name().is_some_and(|name| name == "compose.yaml");
        known.then(|| "include: [self/compose.yaml]\nservices: {a: {image: b}}\n".to_owned())
    });
    refused("includes that double", "include one another", &|path| {
        let name = path.file_stem()?.to_str()?;
        let level: u32 = name.strip_prefix('f').map_or(Some(0), |level| level.parse().ok())?;
        Some(format!("include: [f{0}.yml, f{0}.yml]\n", level + 1))
    });
    one(
        "services that extend one another",
        "circle",
        "services: {a: {extends: b}, b: {extends: c}, c: {extends: a}}\n",
    );
    refused("files that extend one another", "circle", &|path| match path.to_str().unwrap() {
        "compose.yaml" => Some("services: {a: {extends: {file: b.yml, service: a}}}\n".to_owned()),
        "b.yml" => Some("services: {a: {extends: {file: c.yml, service: a}}}\n".to_owned()),
        "c.yml" => Some("services: {a: {extends: {file: b.yml, service: a}}}\n".to_owned()),
        _ => None,
    });
    let mut chain = "services:\n  s0: {image: a}\n".to_owned();
    for level in 1..10_000 {
        chain += &format!("  s{level}: {{extends: s{}, labels: {{l{level}: x}}}}\n", level - 1);
    }
    one("a long chain of services", "extend", &chain);
}
