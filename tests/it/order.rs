//! `depends_on` on real engines: what starts after what, across hosts.

use raftup_tests::lab::{Host, Lab, wait_for};

use crate::cluster::{SOON, cluster, deploy, refused, well};

/// `app` is on h1, what it needs on h2. `db` is healthy once somebody has made a file in it.
const STACK: &str = "services:
  app:
    image: raftup/helper:1
    healthcheck: {disable: true}
    depends_on:
      db: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
    deploy: {placement: {constraints: [node.hostname == h1]}}
  db: &there
    image: raftup/busybox:1
    command: sleep 1000
    healthcheck: {test: test -e /tmp/ready, interval: 200ms, retries: 1000}
    deploy: {placement: {constraints: [node.hostname == h2]}}
  migrate:
    <<: *there
    command: sh -c 'exit 0'
    restart: 'no'
    healthcheck: {disable: true}
";

/// What the engine says of the newest container of a service, running or not.
fn newest(host: &Host, service: &str, what: &str) -> anyhow::Result<String> {
    let find = format!("docker ps -aq --filter label=dev.raftup.service=shop_{service} | head -n 1");
    let said = host.sh(&format!("id=$({find}); [ -z \"$id\" ] || docker inspect -f '{{{{{what}}}}}' $id"))?;
    Ok(said.trim().to_owned())
}

/// Waits until a service says that it waits for something.
fn waits(lab: &Lab, service: &str, for_what: &str) {
    let service = format!("shop_{service}");
    let said = || {
        let text = well(lab.host("h1").raftup(&["service", "inspect", &service])?);
        Ok(text.contains(for_what).then_some(()))
    };
    wait_for(SOON, &format!("`{for_what}` of {service}"), said).unwrap();
}

#[test]
fn a_service_starts_after_what_it_depends_on() {
    let lab = cluster("itorder", 2);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let make_ready = |host: &Host| {
        let healthy = || {
            let id = newest(host, "db", ".Id")?;
            let made = host.sh(&format!("docker exec {id} touch /tmp/ready"));
            Ok((!id.is_empty() && made.is_ok()).then_some(()))
        };
        wait_for(SOON, "the database's container", healthy).unwrap();
    };
    // The first deploy: nothing of the application is there until the database is healthy.
    let path = crate::cluster::write(&lab, "shop.yaml", STACK);
    let deploy_detached =
        ["stack", "deploy", "-d", "-c", &path.display().to_string(), "shop"].map(str::to_owned);
    well(h1.raftup(&deploy_detached.each_ref().map(String::as_str)).unwrap());
    waits(&lab, "app", "waits for service `db` to be ready");
    assert_eq!(newest(h1, "app", ".Id").unwrap(), "");
    make_ready(h2);
    well(deploy(&lab, h1, "shop", STACK));
    let started = newest(h1, "app", ".State.StartedAt").unwrap();
    let ended = newest(h2, "migrate", ".State.FinishedAt").unwrap();
    assert!(started > ended, "{started} is after {ended}");

    // A migration that fails stops the deploy, and the application stays as it is.
    let app = newest(h1, "app", ".Id").unwrap();
    let bad = STACK.replace("exit 0", "exit 3").replace("helper:1", "helper:2");
    let said = refused(&lab, deploy(&lab, h1, "shop", &bad));
    assert!(said.contains("shop_migrate") && said.contains("exit status 3"), "{said}");
    assert_eq!(newest(h1, "app", ".Id").unwrap(), app);
    waits(&lab, "app", "waits for service `migrate` to complete: exit status 3");

    // One that works lets the new application come.
    let good = STACK.replace("exit 0", "sleep 1; exit 0").replace("helper:1", "helper:2");
    well(deploy(&lab, h1, "shop", &good));
    let (started, ended) =
        (newest(h1, "app", ".State.StartedAt").unwrap(), newest(h2, "migrate", ".State.FinishedAt").unwrap());
    assert!(started > ended, "{started} is after {ended}");
    assert_ne!(newest(h1, "app", ".Id").unwrap(), app);
}
