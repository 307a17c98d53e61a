//! Jobs and placement on real engines.

use raftup_tests::lab::{Host, wait_for};

use crate::cluster::{SOON, cluster, deploy, join, refused, well};

/// How many tasks of a service each host runs.
fn running<const N: usize>(hosts: [&Host; N], service: &str) -> [usize; N] {
    let count = format!("docker ps -q --filter label=dev.raftup.service={service} | wc -l");
    hosts.map(|host| host.sh(&count).unwrap().trim().parse().unwrap())
}

/// The column REPLICAS of `service ls`.
fn replicas(host: &Host, service: &str) -> String {
    let text = well(host.raftup(&["service", "ls"]).unwrap());
    let line = text.lines().find(|line| line.contains(service)).unwrap_or_default();
    let columns: Vec<&str> = line.split("  ").map(str::trim).filter(|text| !text.is_empty()).collect();
    columns.get(3).copied().unwrap_or_default().to_owned()
}

const PLACED: &str = "services:
  web:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy:
      replicas: 4
      placement: {preferences: [{spread: node.labels.zone}]}
  few:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {replicas: 3, placement: {max_replicas_per_node: 1}}
  db:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {placement: {constraints: [node.labels.zone == b]}}
  beside:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {replicas: 2}
    x-raftup: {with: db}
  apart:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {replicas: 2}
    x-raftup: {apart_from: [db]}
";

#[test]
fn tasks_are_where_labels_numbers_and_other_services_say() {
    let lab = cluster("itplace", 3);
    let hosts = ["h1", "h2", "h3"].map(|name| lab.host(name));
    for (host, zone) in [("h1", "zone=a"), ("h2", "zone=a"), ("h3", "zone=b")] {
        well(hosts[0].raftup(&["node", "update", "--label-add", zone, host]).unwrap());
    }
    well(deploy(&lab, hosts[0], "shop", PLACED));
    assert_eq!(running(hosts, "shop_web"), [1, 1, 2], "each zone has an equal share");
    assert_eq!(running(hosts, "shop_few"), [1, 1, 1]);
    assert_eq!(running(hosts, "shop_beside"), [0, 0, 2]);
    assert_eq!(running(hosts, "shop_apart"), [1, 1, 0]);
    assert_eq!(replicas(hosts[0], "shop_few"), "3/3 (max 1 per node)");

    let more = PLACED.replace("replicas: 3", "replicas: 4");
    let said = refused(&lab, deploy(&lab, hosts[0], "shop", &more));
    assert!(said.contains("slot 4: no node fits: 3 have max_replicas_per_node reached"), "{said}");

    // A label that no longer fits moves the task that stood on it, once nothing is in its way.
    let without = PLACED.split("  apart:").next().unwrap_or_default();
    let path = crate::cluster::write(&lab, "without.yaml", without).display().to_string();
    well(hosts[0].raftup(&["stack", "deploy", "-d", "-c", &path, "shop"]).unwrap());
    well(hosts[0].raftup(&["node", "update", "--label-add", "zone=b", "h2"]).unwrap());
    well(hosts[0].raftup(&["node", "update", "--label-rm", "zone", "h3"]).unwrap());
    let moved = || Ok((running(hosts, "shop_db") == [0, 1, 0]).then_some(()));
    wait_for(SOON, "the database on h2", moved).unwrap();

    // A constraint on the address of a node.
    let address = hosts[1].addr();
    let near = format!(
        "services:\n  near:\n    image: raftup/helper:1\n    healthcheck: {{disable: true}}\n    deploy: {{replicas: 2, placement: \
         {{constraints: [node.ip == {address}/32]}}}}\n"
    );
    well(deploy(&lab, hosts[0], "ip", &near));
    assert_eq!(running(hosts, "ip_near"), [0, 2, 0]);
}

const JOBS: &str = "services:
  app:
    image: raftup/helper:1
    healthcheck: {disable: true}
    depends_on:
      migrate: {condition: service_completed_successfully}
  migrate:
    image: raftup/busybox:1
    command: sh -c 'exit 0'
    deploy: {mode: replicated-job, replicas: 3, restart_policy: {condition: none}}
    x-raftup: {max_concurrent: 2}
  scan:
    image: raftup/busybox:1
    command: sh -c 'exit 0'
    deploy: {mode: global-job}
";

/// When each container of a service was started, on all hosts.
fn starts<const N: usize>(hosts: [&Host; N], service: &str) -> Vec<String> {
    let find = format!("docker ps -aq --filter label=dev.raftup.service={service}");
    let look = format!("ids=$({find}); [ -z \"$ids\" ] || docker inspect -f '{{{{.State.StartedAt}}}}' $ids");
    let text = hosts.map(|host| host.sh(&look).unwrap()).concat();
    let mut starts: Vec<String> = text.lines().map(str::to_owned).collect();
    starts.sort();
    starts
}

#[test]
fn jobs_run_once_for_each_change_and_on_each_node() {
    let lab = crate::cluster::lab(&raftup_tests::lab::Options::new("itjobs", 3).unwrap());
    let [h1, h2, h3] = ["h1", "h2", "h3"].map(|name| lab.host(name));
    crate::cluster::form(&lab, 2);
    well(deploy(&lab, h1, "shop", JOBS));
    assert_eq!(replicas(h1, "shop_migrate"), "0/2 (3/3 completed)");
    assert_eq!(replicas(h1, "shop_scan"), "0/0 (2/2 completed)");
    let first = starts([h1, h2], "shop_migrate");
    let app = starts([h1, h2], "shop_app");
    assert!(first.len() == 3 && first[2] < app[0], "{first:?} before {app:?}");

    // An unchanged deploy runs nothing again, a new node runs the global job.
    well(deploy(&lab, h1, "shop", JOBS));
    join(h1, h3);
    let scanned = || Ok((replicas(h1, "shop_scan") == "0/0 (3/3 completed)").then_some(()));
    wait_for(SOON, "the global job on the new node", scanned).unwrap();
    assert_eq!(starts([h3], "shop_scan").len(), 1);
    assert_eq!(starts([h1, h2, h3], "shop_migrate"), first);

    // `--force` runs it again, a change that fails is told as such.
    well(h1.raftup(&["service", "update", "--force", "shop_migrate"]).unwrap());
    let again = starts([h1, h2, h3], "shop_migrate");
    assert_eq!(again.iter().filter(|start| *start > &first[2]).count(), 3, "{first:?} {again:?}");
    let said = refused(&lab, deploy(&lab, h1, "shop", &JOBS.replacen("exit 0", "exit 3", 1)));
    assert!(said.contains("service `shop_migrate`") && said.contains("exit status 3"), "{said}");
    well(deploy(&lab, h1, "shop", JOBS));
    assert_eq!(replicas(h1, "shop_migrate"), "0/2 (3/3 completed)");
}
