//! Files that would take more than their share are refused, and fast.

use std::time::{Duration, Instant};

use super::run;

/// The one error of a file, which must come before a debug build would get far with expanding it.
fn refused(text: &str) -> String {
    let start = Instant::now();
    let problems = run(text, &[("LONG", &"x".repeat(1 << 16))]).expect_err("it is too large");
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
    problems.errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ")
}

#[test]
fn large_files() {
    assert_eq!(refused(&format!("x-a: {}", "x".repeat(1 << 20))), "is larger than the limit of 1 MiB");
}

#[test]
fn aliases() {
    let mut bomb = "x0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..20 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("x{level}: &a{level} [{below}]\n");
    }
    assert!(refused(&bomb).contains("blow it up"));
    let mut merges = "x0: &a0 {k: v}\n".to_owned();
    for level in 1..100_000 / 4 {
        merges += &format!("x{level}: &a{level} {{<<: *a{}, k{level}: v}}\n", level - 1);
    }
    assert!(refused(&merges).contains("blow it up"));
}

#[test]
fn nesting() {
    assert!(refused(&"[".repeat(100_000)).contains("deep"));
    assert!(refused(&format!("x: {}1", "{a: ".repeat(1000))).contains("deep"));
    let steps: String = (0..200).map(|step| format!("{}a:\n", " ".repeat(step))).collect();
    assert!(refused(&steps).contains("deep"));
    let mut chain = "x0: &a0 [1]\n".to_owned();
    for level in 1..1000 {
        chain += &format!("x{level}: &a{level} [*a{}]\n", level - 1);
    }
    assert!(refused(&chain).contains("deep"));
}

#[test]
fn variables() {
    let many = vec!["$LONG"; 1000].join("");
    assert!(refused(&format!("services: {{web: {{image: a, command: '{many}'}}}}")).contains("blow"));
    let mut doubling = "## compose.yaml\nservices: {web: {image: a}}\n## .env\nA0=xxxxxxxx\n".to_owned();
    for level in 1..200 {
        doubling += &format!("A{level}=$A{0}$A{0}\n", level - 1);
    }
    assert!(refused(&doubling).contains("blow"));
    assert!(
        refused(&format!("services: {{web: {{image: '{}'}}}}", "${A:-".repeat(1000))).contains("not closed")
    );
}

/// Each service names the one before twice, so there are as many ways as 2 to the number of services.
#[test]
fn chains_of_volumes() {
    let chain = |count: usize, mounts: &str| {
        let mut text = format!("services:\n  s0: {{image: a, volumes: [{mounts}]}}\n");
        for number in 1..count {
            let before = number - 1;
            text += &format!("  s{number}: {{image: a, volumes_from: [s{before}, 's{before}:ro']}}\n");
        }
        text
    };
    let loaded = run(&chain(90, "/srv:/data"), &[]).unwrap();
    assert_eq!(loaded.spec.services["s89"].container.mounts.len(), 1);
    assert!(refused(&chain(10_000, "/srv:/data")).contains("a chain of more than 100"));
}

#[test]
fn long_lists() {
    let list = |element: &dyn Fn(u32) -> String| (0..40_000).map(element).collect::<Vec<_>>().join(", ");
    let web = |key: &str, list: String| format!("services: {{web: {{image: a, {key}: [{list}]}}}}");
    refused(&web("volumes", list(&|n| format!("/a:/b{n}")) + ", x"));
    refused(&web("networks", list(&|n| format!("n{n}"))));
    refused(&web("ports", list(&|n| format!("{}-65535:{}-65535", n + 1, n + 1))));
    refused(&web("environment", list(&|n| format!("\"A{n}=$X{n}\"")) + ", []"));
}
