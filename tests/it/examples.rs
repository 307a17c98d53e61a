//! Each stack of `compose-examples/`, deployed as its first lines say, used, and removed without a trace.

use std::collections::BTreeSet;

use raftup_tests::lab::{Host, Lab, Options, wait_for};

use crate::cluster::{Before, SOON, cluster, form, get, join, lab, well};

fn deploy(host: &Host, example: &str) {
    let file = format!("{}/../compose-examples/{example}/compose.yaml", env!("CARGO_MANIFEST_DIR"));
    well(host.raftup(&["stack", "deploy", "-c", &file]).unwrap());
}

/// All examples in one cluster, one after the other; a fourth host joins for the last.
#[test]
fn the_examples_do_what_they_say() {
    let lab = lab(&Options::new("itexamples", 4).unwrap());
    form(&lab, 3);
    let empty = Before::of(&lab);
    hello(&lab);
    guestbook(&lab);
    vote(&lab);
    for stack in ["hello", "guestbook", "vote"] {
        well(lab.host("h2").raftup(&["stack", "rm", stack]).unwrap());
    }
    empty.again();
    deploy(lab.host("h1"), "agent");
    answers_of_agents(&lab, 3);
    join(lab.host("h1"), lab.host("h4"));
    answers_of_agents(&lab, 4);
    // As its first lines say.
    well(lab.host("h1").raftup(&["node", "update", "--label-add", "agent=off", "h4"]).unwrap());
    answers_of_agents(&lab, 3);
    well(lab.host("h2").raftup(&["stack", "rm", "agent"]).unwrap());
    well(lab.host("h4").raftup(&["leave"]).unwrap());
    empty.again();
}

fn members(lab: &Lab) -> impl Iterator<Item = &Host> {
    lab.hosts().take(3)
}

fn hello(lab: &Lab) {
    deploy(lab.host("h1"), "hello");
    for host in members(lab) {
        let mut tasks = BTreeSet::new();
        let all = || {
            tasks.insert(get(lab, host, "8080/")?);
            Ok((tasks.len() == 3).then_some(()))
        };
        wait_for(SOON, "answers of all three tasks", all).unwrap();
    }
}

fn guestbook(lab: &Lab) {
    deploy(lab.host("h2"), "guestbook");
    let client = lab.client().addr().to_string();
    for (host, entry) in members(lab).zip(["first", "second", "third"]) {
        let page = get(lab, host, &format!("8081/?entry={entry}+of+all")).unwrap();
        assert!(page.contains(&format!("to {client}.")), "the client's address: {page}");
    }
    let signed = |page: &str| {
        ["first of all", "second of all", "third of all"].iter().all(|entry| page.contains(entry))
    };
    let page = get(lab, lab.host("h1"), "8081/").unwrap();
    assert!(signed(&page), "{page}");
    assert_eq!(visits(&page), Some(4));

    let killed = lab.hosts().find(|host| {
        let id = host.sh("docker ps -q -f name=guestbook_redis").unwrap();
        !id.is_empty() && host.sh(&format!("docker kill {id}")).is_ok()
    });
    let killed = killed.expect("a host runs the database").name().to_owned();
    let back = || {
        let page = get(lab, lab.host("h3"), "8081/")?;
        Ok(visits(&page).is_some_and(|visits| visits > 4).then_some(page))
    };
    let page = wait_for(SOON, "the database with its data", back).unwrap();
    assert!(signed(&page), "{page}");
    let runs = |host: &Host| !host.sh("docker ps -q -f name=guestbook_redis").unwrap().is_empty();
    let now = members(lab).find(|host| runs(host)).map(Host::name);
    assert_eq!(now, Some(killed.as_str()), "it came back to its volume");
}

fn visits(page: &str) -> Option<u32> {
    page.split_once("Visit ")?.1.split_once(',')?.0.parse().ok()
}

fn vote(lab: &Lab) {
    deploy(lab.host("h3"), "vote");
    for (host, choice) in members(lab).zip(["a", "b", "a"]) {
        get(lab, host, &format!("5000/?vote={choice}")).unwrap();
    }
    for host in members(lab) {
        let counted = || Ok(get(lab, host, "5001/")?.contains("cats: 2, dogs: 1").then_some(()));
        wait_for(SOON, "three votes that are counted", counted).unwrap();
    }
    // Networks keep apart what is not on both, names too.
    let asker = lab.hosts().find_map(|host| {
        let id = host.sh("docker ps -q -f name=vote_vote | head -n 1").unwrap().trim().to_owned();
        (!id.is_empty()).then_some((host, id))
    });
    let (host, id) = asker.expect("a host runs a task of `vote`");
    assert!(host.sh(&format!("docker exec {id} nslookup redis")).is_ok());
    assert!(host.sh(&format!("docker exec {id} nslookup db")).is_err(), "`db` is on another network");
    // Votes wait in the queue for the worker.
    well(host.raftup(&["service", "scale", "vote_worker=0"]).unwrap());
    let gone = || {
        let left = members(lab).map(|host| host.sh("docker ps -q -f name=vote_worker"));
        Ok(left.collect::<Result<String, _>>()?.trim().is_empty().then_some(()))
    };
    wait_for(SOON, "end of the worker", gone).unwrap();
    get(lab, host, "5000/?vote=b").unwrap();
    well(host.raftup(&["service", "scale", "vote_worker=1"]).unwrap());
    let counted = || Ok(get(lab, host, "5001/")?.contains("cats: 2, dogs: 2").then_some(()));
    wait_for(SOON, "the vote that waited", counted).unwrap();
}

/// Waits until so many hosts, and no others, have answered for themselves on every member.
fn answers_of_agents(lab: &Lab, count: usize) {
    let wanted: BTreeSet<String> = lab.hosts().take(count).map(|host| host.name().to_owned()).collect();
    for host in lab.hosts().take(count) {
        let all = || {
            let mut seen = BTreeSet::new();
            for _ in 0..8 * count {
                let page = get(lab, host, "9100/")?;
                let server = page.split_once("server=\"").and_then(|(_, rest)| rest.split_once('"'));
                seen.insert(server.map(|(name, _)| name.to_owned()).unwrap_or_default());
            }
            Ok((seen == wanted).then_some(()))
        };
        wait_for(SOON, &format!("answers of {count} agents"), all).unwrap();
    }
}

/// The further examples, each with what it is about: one kind of program that people run.
#[test]
fn kinds_of_programs_run_as_their_examples_say() {
    let lab = cluster("itkinds", 3);
    let kinds = [
        ("migrate", migrate as fn(&Lab)),
        ("replicated", replicated),
        ("queue", queue),
        ("cron", cron),
        ("gateway", gateway),
        ("wiki", wiki),
        ("sticky", sticky),
        ("hardened", hardened),
    ];
    for (example, shows) in kinds {
        deploy_with(lab.host("h1"), example, if example == "cron" { "CRON_EVERY=1" } else { "" });
        shows(&lab);
        well(lab.host("h2").raftup(&["stack", "rm", example]).unwrap());
    }
}

/// Deploys with variables such as `A=b`.
fn deploy_with(host: &Host, example: &str, variables: &str) {
    let file = format!("{}/../compose-examples/{example}/compose.yaml", env!("CARGO_MANIFEST_DIR"));
    host.sh(&format!("{variables} raftup stack deploy -c {file}"))
        .unwrap_or_else(|error| panic!("{error:#}"));
}

/// Waits until every host answers with something that `is` true of.
fn answered(lab: &Lab, port_and_path: &str, what: &str, is: impl Fn(&str) -> bool) {
    for host in lab.hosts() {
        let answer = || Ok(get(lab, host, port_and_path).ok().filter(|text| is(text)).map(drop));
        wait_for(SOON, what, answer).unwrap_or_else(|error| {
            panic!("{error:#}; {} says {:?}", host.name(), get(lab, host, port_and_path))
        });
    }
}

fn migrate(lab: &Lab) {
    answered(lab, "8082/", "the first schema", |text| text == "schema 2\n");
    deploy_with(lab.host("h2"), "migrate", "SCHEMA=3");
    answered(lab, "8082/", "the next schema", |text| text == "schema 3\n");
    let tasks = well(lab.host("h3").raftup(&["service", "ps", "migrate_migrate"]).unwrap());
    assert_eq!(tasks.matches("Complete").count(), 2, "one run for each schema: {tasks}");
}

fn replicated(lab: &Lab) {
    get(lab, lab.host("h1"), "8083/?set=word").unwrap();
    for _ in 0..4 {
        answered(lab, "8083/", "the word from a copy", |text| text == "word\n");
    }
}

/// Workers are told to stop and started while jobs come in.
fn queue(lab: &Lab) {
    let hosts: Vec<&Host> = lab.hosts().collect();
    for job in 0..30 {
        get(lab, hosts[job % 3], &format!("8084/?job=job{job}")).unwrap();
        if job % 10 == 5 {
            let replicas = if job == 15 { 1 } else { 3 };
            well(hosts[0].raftup(&["service", "scale", "-d", &format!("queue_worker={replicas}")]).unwrap());
        }
    }
    let all = |text: &str| {
        let done: BTreeSet<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
        text.lines().count() == 30 && done.len() == 30
    };
    answered(lab, "8084/", "each job done once", all);
}

fn cron(lab: &Lab) {
    let runs = |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<u32>().ok());
    answered(lab, "8085/", "several runs", |text| runs(text).is_some_and(|runs| runs >= 3));
}

fn gateway(lab: &Lab) {
    answered(lab, "8086/", "the site", |text| text.starts_with("site "));
    answered(lab, "8086/api/", "the other program", |text| text.starts_with("api "));
}

fn wiki(lab: &Lab) {
    get(lab, lab.host("h1"), "8087/?page=home&text=Hello,+%3Creader%3E").unwrap();
    let page =
        |title: &'static str| move |text: &str| text.contains(title) && text.contains("Hello, &lt;reader>");
    answered(lab, "8087/?page=home", "the page", page("<h1>Wiki: home"));
    deploy_with(lab.host("h3"), "wiki", "TITLE=Ours");
    answered(lab, "8087/?page=home", "the page under its new title", page("<h1>Ours: home"));
}

fn sticky(lab: &Lab) {
    let visits: Vec<String> = (0..2)
        .flat_map(|_| lab.hosts())
        .map(|host| get(lab, host, "8088/").unwrap().trim().to_owned())
        .collect();
    let tasks: BTreeSet<&str> = visits.iter().filter_map(|visit| visit.split(" at ").nth(1)).collect();
    assert_eq!(tasks.len(), 1, "{visits:?}");
    assert!(visits[5].starts_with("visit 6 "), "{visits:?}");
}

fn hardened(lab: &Lab) {
    let bare = |text: &str| {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.next() == Some(vec!["Uid:", "65534", "65534", "65534", "65534"])
            && lines.next() == Some(vec!["CapBnd:", "0000000000000000"])
            && lines.next() == Some(vec!["NoNewPrivs:", "1"])
    };
    answered(lab, "8090/", "a process without rights", bare);
}
