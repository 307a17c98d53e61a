//! How tasks start and end on real engines: hooks, and slots in their order.

use raftup_tests::lab::{Host, wait_for};

use crate::cluster::{SOON, cluster, deploy, refused, well};

const HOOKS: &str = "services:
  web:
    image: raftup/busybox:1
    command: sleep 1000
    stop_signal: SIGKILL
    volumes: [data:/data]
    post_start:
      - command: sh -c 'sleep 1; echo $$WORD >> /data/log'
        environment: {WORD: started}
    pre_stop:
      - {command: [sh, -c, echo stopping as $$(pwd) >> log], working_dir: /data, user: '0'}
    deploy: {placement: {constraints: [node.hostname == h1]}}
volumes:
  data:
";

#[test]
fn hooks_run_in_the_container_after_its_start_and_before_its_stop() {
    let lab = cluster("ithooks", 1);
    let h1 = lab.host("h1");
    let log = || h1.sh("cat /var/lib/docker/volumes/shop_data/_data/log").map(|text| text.replace('\n', ","));
    well(deploy(&lab, h1, "shop", HOOKS));
    assert_eq!(log().unwrap(), "started,", "the task is ready once its hook has ended");
    well(h1.raftup(&["service", "update", "--force", "shop_web"]).unwrap());
    assert_eq!(log().unwrap(), "started,stopping as /data,started,");

    // A hook that fails is a task that fails.
    let bad = HOOKS.replace("echo $$WORD >> /data/log", "echo no disk; exit 3");
    let said = refused(&lab, deploy(&lab, h1, "shop", &bad));
    assert!(said.contains("post_start hook") && said.contains("exit status 3: no disk"), "{said}");
    well(deploy(&lab, h1, "shop", HOOKS));
    well(h1.raftup(&["stack", "rm", "shop"]).unwrap());
    let gone =
        || Ok(h1.sh("docker ps -aq --filter label=dev.raftup.service=shop_web")?.is_empty().then_some(()));
    wait_for(SOON, "the containers removed", gone).unwrap();
    let log = log().unwrap();
    assert!(log.ends_with("started,stopping as /data,"), "{log}");
}

const SLOTS: &str = "services:
  db:
    image: raftup/busybox:1
    command: sh -c 'sleep 1; touch /tmp/ready; sleep 1000'
    stop_signal: SIGKILL
    healthcheck: {test: test -e /tmp/ready, interval: 200ms, retries: 1000}
    volumes: [data:/data]
    deploy: {replicas: 3}
    x-raftup: {order: slots}
volumes:
  data: {name: 'data-{{.Task.Slot}}'}
";

/// Slots and times of start of the service's containers on both hosts, by slot.
fn started(hosts: [&Host; 2]) -> Vec<(u32, String)> {
    let find = "docker ps -q --filter label=dev.raftup.service=shop_db";
    let look = format!(
        "ids=$({find}); [ -z \"$ids\" ] || docker inspect -f '{{{{.Name}}}} {{{{.State.StartedAt}}}}' $ids 2>/dev/null || true"
    );
    let text = hosts.map(|host| host.sh(&look).unwrap()).concat();
    let line = |line: &str| {
        let (name, at) = line.split_once(' ').unwrap();
        (name.split('.').nth(1).unwrap().parse().unwrap(), at.to_owned())
    };
    let mut all: Vec<(u32, String)> = text.lines().map(line).collect();
    all.sort();
    all
}

#[test]
fn slots_start_and_are_replaced_in_their_order_each_with_its_volume() {
    let lab = cluster("itslots", 2);
    let hosts = ["h1", "h2"].map(|name| lab.host(name));
    well(deploy(&lab, hosts[0], "shop", SLOTS));
    let first = started(hosts);
    assert_eq!(first.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(first.is_sorted_by_key(|(_, at)| at), "{first:?}");
    let volumes = || {
        let text = hosts.map(|host| host.sh("docker volume ls -q --filter name=data-").unwrap());
        let mut all: Vec<Vec<String>> = text.map(|text| text.lines().map(str::to_owned).collect()).into();
        all.iter_mut().for_each(|names| names.sort());
        all
    };
    let before = volumes();
    let mut names = before.concat();
    names.sort();
    assert_eq!(names, ["data-1", "data-2", "data-3"]);

    // From the last slot on, and each back to its volume.
    well(deploy(&lab, hosts[0], "shop", &SLOTS.replace("sleep 1000", "sleep 2000")));
    let mut second = started(hosts);
    assert_eq!(second.len(), 3);
    second.reverse();
    assert!(second.is_sorted_by_key(|(_, at)| at), "{second:?}");
    assert_eq!(volumes(), before);
    well(hosts[0].raftup(&["service", "scale", "shop_db=1"]).unwrap());
    let left = || Ok((started(hosts).iter().map(|(slot, _)| *slot).eq([1])).then_some(()));
    wait_for(SOON, "slot 1 alone", left).unwrap();
}
