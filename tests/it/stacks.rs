//! Stacks on whole clusters: served everywhere, changed under load, removed without a trace.

use raftup_tests::{
    lab::{EngineKind, Lab, Options, wait_for},
    load::Mode,
};

use crate::cluster::{
    Before, SOON, WEB, ask_by_name, cluster, containers, deploy, form, lab, load, load_in, lossless, well,
};

#[test]
fn a_stack_is_served_on_every_host_and_leaves_nothing() {
    life_of_a_stack(&cluster("itstack", 3));
}

/// The oldest engine that raftup runs on and a new one, in one cluster.
#[test]
fn two_kinds_of_engine_serve_one_stack() {
    let lab = lab(&Options { engine: EngineKind::Mixed, ..Options::new("itmixed", 3).unwrap() });
    form(&lab, 3);
    let engine = |host: &str| lab.host(host).sh("docker version -f '{{.Server.Version}}'").unwrap();
    assert_ne!(engine("h1"), engine("h2"), "two kinds of engine");
    life_of_a_stack(&lab);
    names_lead_across(&lab);
}

fn life_of_a_stack(lab: &Lab) {
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let empty = Before::of(lab);
    well(deploy(lab, h2, "shop", WEB));
    let all = ["h1", "h2", "h3"];
    let (fresh, kept) = (load(lab, &all), load_in(Mode::Keepalive, lab, &all));
    let before = containers(lab);
    assert_eq!(before.len(), 3);
    well(deploy(lab, h1, "shop", WEB));
    assert_eq!(containers(lab), before, "the same file changes nothing");
    well(h1.raftup(&["service", "scale", "shop_web=6"]).unwrap());
    assert_eq!(containers(lab).len(), 6);
    well(h1.raftup(&["service", "scale", "shop_web=2"]).unwrap());
    let changed = WEB.replace("helper:1", "helper:2").replace("replicas: 3", "replicas: 2");
    well(deploy(lab, h1, "shop", &changed));
    for running in [fresh, kept] {
        let report = running.stop().unwrap();
        lossless(&report, 100);
        assert!(report.versions.len() == 2, "both versions answered: {:?}", report.versions);
        assert_eq!(report.targets.len(), 3, "all hosts answered");
        let client = lab.client().addr().to_string();
        assert_eq!(report.clients.keys().collect::<Vec<_>>(), [&client], "the container sees who asks");
    }
    well(h2.raftup(&["stack", "rm", "shop"]).unwrap());
    empty.again();
}

#[test]
fn names_lead_to_services_across_hosts() {
    names_lead_across(&cluster("itnames", 3));
}

fn names_lead_across(lab: &Lab) {
    let file = format!(
        "{WEB}  asker:\n    image: raftup/busybox:1\n    command: sleep 1000\n    deploy: {{mode: global}}\n"
    );
    well(deploy(lab, lab.host("h1"), "shop", &file));
    for host in lab.hosts() {
        let answer = || Ok(ask_by_name(host, "web")?.contains("version").then_some(()));
        wait_for(SOON, "an answer by name", answer).unwrap();
    }
}
