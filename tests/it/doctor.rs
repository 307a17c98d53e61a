//! `raftup doctor`, on hosts that are well and on such as are not, and hosts that cannot be nodes.

use expect_test::expect;
use raftup_tests::lab::{Host, Lab, Options, What, wait_for};
use serde_json::Value;

use crate::cluster::{SOON, deploy, form, join, lab, plain, refused, well};

/// The exit status of `raftup doctor`, and what it found.
pub(crate) fn doctor(host: &Host) -> (i32, Vec<Value>) {
    let output = host.raftup(&["doctor", "--json"]).unwrap();
    let found = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), found)
}

/// What was found that is not well: `node check`, or `node -> node check`.
pub(crate) fn ill(findings: &[Value]) -> Vec<String> {
    let ill = findings.iter().filter(|finding| finding["health"] != "ok");
    ill.map(name).collect()
}

pub(crate) fn name(finding: &Value) -> String {
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let to = finding["to"].as_str().map(|to| format!(" -> {to}")).unwrap_or_default();
    format!("{}{to} {}", text("node"), text("check"))
}

/// What the doctor says of one check, and what to do.
fn told(lab: &Lab, findings: &[Value], of: &str) -> String {
    let one = findings
        .iter()
        .find(|finding| name(finding) == of)
        .unwrap_or_else(|| panic!("no {of}: {findings:#?}"));
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let commands = one["commands"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let commands: String = commands.map(|command| format!("# {command}\n")).collect();
    plain(lab, &format!("{}\n{}\n{commands}", text("found"), text("next")))
}

/// Has `host` drop what comes by its link and meets `rule`, until [`open`].
pub(crate) fn close(lab: &Lab, host: &Host, rule: &str) {
    let hook = "type filter hook ingress device eth0 priority 0; policy accept;";
    let rules = format!("table netdev sick {{\n chain in {{\n {hook}\n {rule} drop\n }}\n}}\n");
    let file = crate::cluster::write(lab, "sick.nft", &rules);
    host.sh(&format!("nft -f {}", file.display())).unwrap();
}

pub(crate) fn open(host: &Host) {
    host.sh("nft delete table netdev sick").unwrap();
}

#[test]
fn what_is_wrong_with_hosts_and_ways_is_found() {
    let lab = lab(&Options::new("itdoctor", 2).unwrap());
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    form(&lab, 1);

    // The port of the encrypted links is closed from the start: h2 asks, and never hears the answer.
    close(&lab, h2, "udp dport 7239");
    join(h1, h2);
    let expected = format!("no encrypted link to `h1`: is UDP {}:7239 open from here, and back?", h1.addr());
    let told_by_status = || Ok(well(h2.raftup(&["status"])?).contains(&expected).then_some(()));
    wait_for(SOON, "word of a link that does not come about", told_by_status).unwrap();
    let (status, findings) = doctor(h1);
    assert_eq!(status, 1);
    let found = ill(&findings);
    assert!(
        found.contains(&"h1 -> h2 fabric".to_owned()) && found.contains(&"h2 -> h1 fabric".to_owned()),
        "{found:?}"
    );
    assert!(found.contains(&"h2 status".to_owned()), "{found:?}");
    expect![[r#"
        no packet of containers gets there and back
        is UDP 7239 of 10.99.0.12 open from here, and the same port of this host from there?
    "#]]
    .assert_eq(&told(&lab, &findings, "h1 -> h2 fabric"));
    open(h2);

    wait_for(SOON, "a cluster that is well", || Ok((doctor(h1).0 == 0).then_some(()))).unwrap();
    let (_, findings) = doctor(h1);
    assert_eq!(ill(&findings), [""; 0], "{findings:#?}");
    let mut looked_at: Vec<String> = findings.iter().map(name).collect();
    looked_at.sort();
    looked_at.dedup();
    expect![[r#"
        h1 -> h2 control
        h1 -> h2 fabric
        h1 -> h2 packet size
        h1 addresses
        h1 bridges
        h1 certificate
        h1 connection table
        h1 connections
        h1 disk
        h1 disk speed
        h1 engine
        h1 firewall
        h1 forwarding
        h1 ipv6
        h1 link
        h1 nftables
        h1 open files
        h1 port
        h1 resolvers
        h1 vxlan
        h1 wireguard
        h2 -> h1 control
        h2 -> h1 fabric
        h2 -> h1 packet size
        h2 addresses
        h2 bridges
        h2 certificate
        h2 clock
        h2 connection table
        h2 connections
        h2 disk
        h2 disk speed
        h2 engine
        h2 firewall
        h2 forwarding
        h2 ipv6
        h2 link
        h2 nftables
        h2 open files
        h2 port
        h2 resolvers
        h2 vxlan
        h2 wireguard"#]]
    .assert_eq(&looked_at.join("\n"));

    h2.sh("sysctl -qw net.ipv4.ip_forward=0").unwrap();
    let (status, findings) = doctor(h1);
    assert_eq!((status, ill(&findings)), (1, vec!["h2 forwarding".to_owned()]));
    expect![[r#"
        net.ipv4.ip_forward is 0: packets between containers and other hosts go nowhere
        turn it on, and look in /etc/sysctl.d for what turns it off
        # sysctl -w net.ipv4.ip_forward=1
    "#]]
    .assert_eq(&told(&lab, &findings, "h2 forwarding"));
    h2.sh("sysctl -qw net.ipv4.ip_forward=1").unwrap();

    h1.sh("ip route add 10.70.0.0/16 dev eth0").unwrap();
    let (status, findings) = doctor(h1);
    assert_eq!((status, ill(&findings)), (1, vec!["h1 addresses".to_owned()]));
    expect![[r#"
        10.70.0.0/16, which this host reaches through `eth0`, is part of the cluster's pool 10.64.0.0/11
        remove that network if nobody needs it, or give it another range; or make the cluster with another `--pool`
        # ip route del 10.70.0.0/16 dev eth0
    "#]]
    .assert_eq(&told(&lab, &findings, "h1 addresses"));
    h1.sh("ip route del 10.70.0.0/16 dev eth0").unwrap();

    // As firewalld makes it: what no zone accepts is refused.
    let firewalld = "table inet firewalld {\n chain filter_INPUT {\n type filter hook input priority 10; policy accept;\n \
        ct state { established, related } accept\n ct status dnat accept\n iifname lo accept\n udp dport 7238 accept\n \
        reject with icmpx admin-prohibited\n }\n}\n";
    let file = crate::cluster::write(&lab, "firewalld.nft", firewalld);
    h2.sh(&format!("nft -f {}", file.display())).unwrap();
    let named = || {
        let (_, findings) = doctor(h1);
        Ok(ill(&findings).contains(&"h2 firewall".to_owned()).then_some(findings))
    };
    let findings = wait_for(SOON, "word of the firewall", named).unwrap();
    expect![[r#"
        firewalld is active: no rule opens UDP 7239; raftup's devices are in no zone that it trusts
        open the ports, and let raftup's devices be trusted
        # firewall-cmd --permanent --add-port=7239/udp
        # firewall-cmd --permanent --zone=trusted --add-interface=ru-+
        # firewall-cmd --reload
    "#]]
    .assert_eq(&told(&lab, &findings, "h2 firewall"));
    h2.sh("nft delete table inet firewalld").unwrap();
    wait_for(SOON, "a cluster that is well", || Ok((doctor(h1).0 == 0).then_some(()))).unwrap();

    // Something on the way takes small packets alone.
    close(&lab, h2, "udp dport 7239 meta length > 1300");
    let (status, findings) = doctor(h1);
    assert_eq!(status, 1);
    assert_eq!(ill(&findings), ["h1 -> h2 packet size", "h2 -> h1 packet size"]);
    let narrow = told(&lab, &findings, "h1 -> h2 packet size");
    assert!(narrow.starts_with("packets of 1370 bytes are lost, those of 1"), "{narrow}");
    open(h2);

    h2.stop(What::Engine).unwrap();
    let (status, findings) = doctor(h1);
    assert_eq!(status, 1);
    assert!(told(&lab, &findings, "h2 engine").starts_with("Docker Engine does not answer"), "{findings:#?}");
    h2.start_engine().unwrap();

    close(&lab, h2, "udp dport 7238");
    let (status, findings) = doctor(h1);
    assert_eq!(status, 1);
    let found = ill(&findings);
    assert!(
        found.contains(&"h1 -> h2 control".to_owned()) && found.contains(&"h2 doctor".to_owned()),
        "{found:?}"
    );
    let closed = told(&lab, &findings, "h1 -> h2 control");
    assert!(closed.starts_with("UDP 10.99.0.12:7238 does not answer: "), "{closed}");
    let shown = h1.raftup(&["doctor"]).unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("\nWhat to do:\nh1 -> h2, control: is raftupd running on `h2`"), "{shown}");
    open(h2);
}

/// The same without what `nft` says, to which newer versions add.
fn in_our_words(said: &str) -> String {
    let (before, after) = said.split_once("`nft` says: ").unwrap_or_else(|| panic!("no word of nft: {said}"));
    let (words, after) = after.split_once('\n').unwrap_or((after, ""));
    let all_say = "netlink: Error: cache initialization failed: Operation not permitted";
    assert!(words.starts_with(all_say), "{words}");
    format!("{before}`nft` says: ...\n{after}")
}

#[test]
fn a_host_that_cannot_be_a_node_is_refused() {
    let lab = lab(&Options::new("itunfit", 1).unwrap());
    let host = lab.host("h1");
    // The kernel's own refusal: a daemon that may not set up networks asks it for rules and devices.
    let socket = "unix:///run/weak/raftup.sock";
    host.sh("setpriv --bounding-set=-net_admin --inh-caps=-net_admin setsid raftupd --data-dir /tmp/weak \
         --run-dir /run/weak >/tmp/weak.log 2>&1 & echo $! >/tmp/weak.pid")
        .unwrap();
    let there = || Ok(host.raftup(&["-H", socket, "status"])?.status.success().then_some(()));
    wait_for(SOON, "the daemon without rights", there).unwrap();
    let weak = |args: &[&str]| host.raftup(&[&["-H", socket], args].concat()).unwrap();
    expect![[r#"
        exit 7
        error: this host cannot be a node: the kernel refuses packet rules: `nft` says: ...
        hint: raftupd needs nf_tables with NAT in the kernel (`modprobe -a nf_tables nft_chain_nat nft_fib_ipv4 nft_masq`), and CAP_NET_ADMIN
    "#]].assert_eq(&in_our_words(&refused(&lab, weak(&["init"]))));
    let found = weak(&["doctor", "--json"]);
    assert_eq!(found.status.code(), Some(1));
    let findings: Vec<Value> = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(
        ill(&findings),
        ["h1 nftables", "h1 vxlan", "h1 firewall"],
        "what cannot be looked at is said"
    );
    expect![[r#"
        the kernel makes no VXLAN device: making a device (VXLAN): Received a netlink error message Operation not permitted (os error 1)
        raftupd needs VXLAN in the kernel (`modprobe vxlan`; some cloud kernels have it in a package of extra modules), and CAP_NET_ADMIN
    "#]].assert_eq(&told(&lab, &findings, "h1 vxlan"));
    host.sh("kill $(cat /tmp/weak.pid)").unwrap();

    let (status, findings) = doctor(host);
    assert_eq!((status, ill(&findings)), (0, Vec::new()), "well, and in no cluster");

    host.sh("ip link set eth0 mtu 1200").unwrap();
    expect![[r#"
        exit 7
        error: this host cannot be a node: the link with 10.99.0.11 carries packets of 1200 bytes at most, and nodes need 1280
        hint: raise its MTU: `ip link set DEVICE mtu 1500` (`ip addr show to 10.99.0.11` names the device)
    "#]].assert_eq(&refused(&lab, host.raftup(&["init"]).unwrap()));
    host.sh("ip link set eth0 mtu 1500").unwrap();

    // The smallest pool has room for seven networks; a network for 254 services.
    well(host.raftup(&["init", "--pool", "10.128.0.0/16"]).unwrap());
    let many = |count: usize, line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let service = |n: usize, on: usize| {
        format!("  web{n}: {{image: 'raftup/helper:1', networks: [net{on}], deploy: {{replicas: 0}}}}\n")
    };
    let networks = |count| format!("networks:\n{}", many(count, &|n| format!("  net{n}: {{}}\n")));
    let file = format!("services:\n{}{}", many(8, &|n| service(n, n)), networks(8));
    expect![[r#"
        exit 4
        error: no addresses for network `wide_net7`: the address pool 10.128.0.0/16 has no free subnet left
        hint: remove a stack or network that is not needed; each network takes a /19 of the pool
    "#]]
    .assert_eq(&refused(&lab, deploy(&lab, host, "wide", &file)));
    let file = format!("services:\n{}{}", many(255, &|n| service(n, 0)), networks(1));
    expect![[r#"
        exit 4
        error: too many services on network `deep_net0`: its virtual addresses (10.128.63.0/24) are all in use
        hint: put some of them on another network of the stack
    "#]]
    .assert_eq(&refused(&lab, deploy(&lab, host, "deep", &file)));
}
