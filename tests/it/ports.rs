//! That two UDP ports between hosts are enough.

use raftup_tests::lab::{Lab, Options};

use crate::cluster::{WEB, ask_by_name, deploy, form, get, lab, nodes, well};

/// Drops everything that comes from another host but the two ports, before any other rule sees it.
fn close_all_but_two(lab: &Lab) {
    let hosts: Vec<String> = lab.hosts().map(|host| host.addr().to_string()).collect();
    let rules = format!(
        "table netdev wall {{
           counter refused {{}}
           chain in {{
             type filter hook ingress device eth0 priority 0; policy accept;
             ip saddr {{ {hosts} }} udp dport {{ 7238, 7239 }} accept
             ip saddr {{ {hosts} }} counter name refused drop
           }}
         }}",
        hosts = hosts.join(", ")
    );
    let file = crate::cluster::write(lab, "wall.nft", &rules);
    for host in lab.hosts() {
        host.sh(&format!("nft -f {}", file.display())).unwrap();
    }
}

#[test]
fn two_udp_ports_between_hosts_are_enough() {
    let lab = lab(&Options::new("itports", 3).unwrap());
    let (h1, h2, h3) = (lab.host("h1"), lab.host("h2"), lab.host("h3"));
    close_all_but_two(&lab);
    let asked = h1.exec(&["curl", "-s", "-m", "1", &format!("http://{}/", h2.addr())]).unwrap();
    assert_eq!(asked.status.code(), Some(28), "nobody listens, and not even that is answered: a time-out");
    let refused = |counter: String| counter.contains("packets") && !counter.contains("packets 0");
    assert!(refused(h2.sh("nft list counter netdev wall refused").unwrap()));

    form(&lab, 3);
    nodes(h1, "Reachable", 2);
    let file = format!(
        "{}  asker:\n    image: raftup/busybox:1\n    command: sleep 1000\n    deploy: {{mode: global}}\n",
        WEB.replace("replicas: 3", "replicas: 1, placement: {constraints: [node.hostname == h3]}")
    );
    well(deploy(&lab, h2, "shop", &file));
    for host in lab.hosts() {
        let answer = get(&lab, host, "8080/").unwrap();
        assert!(answer.contains(&lab.client().addr().to_string()), "through the mesh to h3: {answer}");
        let asker = "docker exec $(docker ps -q -f name=shop_asker)";
        let by_name = ask_by_name(host, "web").unwrap();
        assert!(by_name.contains("web-1"), "{by_name}");
        let tasks = host.sh(&format!("{asker} nslookup tasks.asker | grep -c '^Address.*: 10.64'")).unwrap();
        assert_eq!(tasks.trim(), "3", "one address for each task");
        let logs = well(host.raftup(&["service", "logs", "shop_web"]).unwrap());
        assert!(logs.contains("web.1@h3") && logs.contains("serving on 8080"), "{logs}");
    }
    // A change that is asked of one node, decided by another and carried out on the third.
    well(h3.raftup(&["service", "scale", "shop_web=2"]).unwrap());
    well(h2.raftup(&["stack", "rm", "shop"]).unwrap());
    well(h3.raftup(&["leave"]).unwrap());
}
