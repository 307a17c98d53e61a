//! Faults that are planted on hosts: `raftup doctor` finds each, and the commands that it prints mend it.
//!
//! A row of a table is a fault: how it is planted, what doctor must say and of which host, and how it is mended. Commands come
//! from doctor's own output and are run on the host that it names, as they are printed. After each row, doctor must be
//! content again. Where no command can mend it, the row says why, and the fault is undone by hand.
//!
//! | group | faults |
//! | --- | --- |
//! | `settings` | kernel settings, limits, devices, routes, resolvers, rights |
//! | `walls` | firewalls |
//! | `parts` | engine, daemon, disk, ports, packet size |
//! | `clocks` | clocks, certificates, names and identities |

mod clocks;
mod parts;
mod settings;
mod walls;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use raftup_tests::lab::{Host, Lab, Options, What, wait_for};
use serde_json::Value;

use crate::{
    cluster::{SOON, ask_by_name, deploy, form, get, lab, well},
    doctor::{doctor, ill, name},
    firewalls::STACK,
};

/// Longest wait until doctor finds a fault, and until it is content again.
const LIMIT: Duration = Duration::from_secs(40);

/// Something that is done to the lab.
enum Act {
    /// A shell's script on a host.
    Sh(&'static str, &'static str),
    /// Anything else.
    Do(fn(&Lab)),
}

/// How a fault is mended.
enum Mend {
    /// By the commands that doctor prints with the findings, on the hosts that they name.
    Printed,
    /// Nobody has to do anything: raftup does.
    Itself,
    /// No command that doctor could print mends it, and why; it is undone by this.
    ByHand(&'static str, &'static [Act]),
}

struct Fault {
    name: &'static str,
    plant: &'static [Act],
    /// The host that doctor is asked on.
    asked: &'static str,
    /// Of each finding that has to be there: `node check` or `node -> node check`, and words of what was found.
    found: &'static [(&'static str, &'static str)],
    mend: Mend,
    /// Takes away what was planted and is harmless now.
    clear: &'static [Act],
}

/// A fault on `h2`.
const FAULT: Fault = Fault { name: "", plant: &[], asked: "h1", found: &[], mend: Mend::Printed, clear: &[] };

/// Two hosts in a cluster that serves, and a third one in none.
fn served(id: &str) -> Lab {
    let lab = lab(&Options::new(id, 3).unwrap());
    form(&lab, 2);
    well(deploy(&lab, lab.host("h1"), "shop", STACK));
    let works = || {
        let said = ask_by_name(lab.host("h1"), "web")?;
        anyhow::ensure!(said.contains("200"), "{said}");
        ["h1", "h2"].iter().try_for_each(|host| get(&lab, lab.host(host), "8080/").map(drop))?;
        Ok(Some(()))
    };
    wait_for(SOON, "a name, a connection and published ports", works).unwrap();
    content(&lab, "h1");
    lab
}

fn act(lab: &Lab, acts: &[Act]) {
    for act in acts {
        match act {
            Act::Sh(host, script) => {
                drop(lab.host(host).sh(script).unwrap_or_else(|error| panic!("{error:#}")))
            }
            Act::Do(what) => what(lab),
        }
    }
}

/// Waits until doctor, asked on that host, finds nothing.
fn content(lab: &Lab, asked: &str) {
    let is_content = || {
        let (status, findings) = doctor(lab.host(asked));
        let ill: Vec<&Value> = findings.iter().filter(|one| one["health"] != "ok").collect();
        anyhow::ensure!(status == 0 && ill.is_empty(), "{ill:#?}");
        Ok(Some(()))
    };
    wait_for(LIMIT, "a doctor who is content", is_content).unwrap_or_else(|error| panic!("{error:#}"));
}

/// Waits until each of these was found, and answers them.
fn find(lab: &Lab, fault: &Fault) -> Vec<Value> {
    let find = || {
        let (_, findings) = doctor(lab.host(fault.asked));
        let found: Option<Vec<Value>> = fault
            .found
            .iter()
            .map(|(of, words)| {
                let is_it = |one: &&Value| {
                    let text = one["found"].as_str().unwrap_or_default();
                    name(one) == *of && one["health"] != "ok" && text.contains(words)
                };
                findings.iter().find(is_it).cloned()
            })
            .collect();
        anyhow::ensure!(found.is_some(), "only {:?} in {findings:#?}", ill(&findings));
        Ok(found)
    };
    wait_for(LIMIT, "what was planted", find).unwrap_or_else(|error| panic!("{}: {error:#}", fault.name))
}

fn commands(finding: &Value) -> impl Iterator<Item = &str> {
    finding["commands"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Runs a command of doctor's. Hosts of the lab have no systemd: what it would do to the two daemons is done here.
fn type_in(host: &Host, command: &str) {
    eprintln!("    {}# {command}", host.name());
    let what = |unit: &str| match unit {
        "docker" => What::Engine,
        "raftupd" => What::Daemon,
        other => panic!("no unit `{other}`"),
    };
    let words: Vec<&str> = command.split_whitespace().collect();
    let done = match words[..] {
        ["systemctl", "start", unit] => match host.pid(what(unit)) {
            Some(_) => Ok(()),
            None => host.start(what(unit)),
        },
        ["systemctl", "restart", unit] => host.stop(what(unit)).and_then(|()| host.start(what(unit))),
        _ => host.sh(command).map(drop),
    };
    done.unwrap_or_else(|error| panic!("{error:#}"));
}

/// Plants each fault in turn, and checks that it is found and mended. One that is not does not keep the others from being
/// tried.
fn check(lab: &Lab, faults: &[Fault]) {
    let mut failed = Vec::new();
    for fault in faults {
        let begun = Instant::now();
        eprintln!("{}", fault.name);
        let tried = catch_unwind(AssertUnwindSafe(|| check_one(lab, fault)));
        if tried.is_err() {
            failed.push(fault.name);
            // What follows shows whether that left anything.
            let _ = catch_unwind(AssertUnwindSafe(|| act(lab, fault.clear)));
        }
        eprintln!("    {:.1} s", begun.elapsed().as_secs_f64());
    }
    assert!(failed.is_empty(), "{} of {} faults: {failed:#?}", failed.len(), faults.len());
}

fn check_one(lab: &Lab, fault: &Fault) {
    act(lab, fault.plant);
    if !matches!(fault.mend, Mend::Itself) {
        let found = find(lab, fault);
        match &fault.mend {
            Mend::ByHand(why, undo) => {
                eprintln!("    by hand: {why}");
                act(lab, undo);
            }
            Mend::Printed | Mend::Itself => {
                assert!(found.iter().any(|one| commands(one).count() > 0), "no command: {found:#?}");
                for finding in &found {
                    let host = lab.host(finding["node"].as_str().unwrap());
                    commands(finding).for_each(|command| type_in(host, command));
                }
            }
        }
    }
    content(lab, fault.asked);
    act(lab, fault.clear);
    content(lab, fault.asked);
}

/// Doctor answers soon, also where something does not.
const PROMPT: Duration = Duration::from_secs(12);

fn is_prompt(lab: &Lab) {
    let begun = Instant::now();
    doctor(lab.host("h1"));
    assert!(begun.elapsed() < PROMPT, "{:?}", begun.elapsed());
}
