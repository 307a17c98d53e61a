use proptest::prelude::*;
use raftup_proto::{
    peer::{Deaf, DeafTo, FabricKey},
    spec::{Constraint, NodeAttribute, PortSpec},
};

use super::*;
use crate::{
    model::{Change, Object},
    plan::{nodes, placement},
    store::sample,
};

const NAMES: [&str; 3] = ["ant", "bee", "cow"];

fn info(name: &str, number: u8) -> NodeInfo {
    let mut info = sample::node(1).info;
    info.hostname = name.to_owned();
    info.control = ([192, 0, 2, number], 7238).into();
    info.underlay = [192, 0, 2, number].into();
    info.fabric_keys = vec![FabricKey([number; 32])];
    info.platform.os = "linux".to_owned();
    info.platform.arch = "amd64".to_owned();
    info.platform.kernel = "6.12.0".to_owned();
    info.platform.engine = Some("28.5.2".to_owned());
    info.platform.engine_labels = vec!["disk=hdd".to_owned()];
    info
}

/// Nodes 1 (a manager), 2 and 3 (workers), and a service on UDP port 4433.
fn cluster() -> Cluster {
    let mut cluster = Cluster {
        info: Some(Arc::new(crate::model::ClusterInfo { next_node: 4, ..sample::info() })),
        ..Cluster::default()
    };
    for (number, name) in (1_u8..).zip(NAMES) {
        let role = if number == 1 { Role::Manager } else { Role::Worker };
        let fabric = [10, 64, 0, number].into();
        let node = Node { role, fabric, info: info(name, number), ..sample::node(number.into()) };
        cluster.nodes.insert(node.id, Arc::new(node));
    }
    let mut service = sample::service(1);
    Arc::make_mut(&mut service.versions[0].spec).ports = vec![PortSpec::new(Protocol::Udp, 4433, 4433)];
    cluster.services.insert(service.id, Arc::new(service));
    cluster
}

fn node(cluster: &Cluster, number: u64) -> &Node {
    &cluster.nodes[&NodeId::new(number)]
}

/// The cluster once node `number` has said `claim`.
fn said(cluster: &Cluster, number: u64, claim: &NodeInfo) -> Cluster {
    let mut next = cluster.clone();
    let old = node(cluster, number);
    let (info, unaccepted) = update(cluster, old, claim);
    next.nodes.insert(old.id, Arc::new(Node { info, unaccepted, ..old.clone() }));
    next
}

/// The cluster with one more node, and that.
fn joined(cluster: &Cluster, info: &NodeInfo, role: Role) -> (Cluster, Node) {
    let request = raftup_proto::peer::JoinRequest {
        secret: [0; 16],
        role,
        csr: Vec::new(),
        info: info.clone(),
        attempt: 1000 + cluster.info.as_ref().unwrap().next_node,
    };
    let (set, id) = nodes::admit(cluster, &request, raftup_proto::unit::UnixMillis(1)).unwrap();
    let mut next = cluster.clone();
    for change in &set.changes {
        if let Change::Create(Object::Node(node)) = change {
            next.nodes.insert(node.id, node.clone());
        }
        if let Change::Update(Object::Cluster(info)) = change {
            next.info = Some(info.clone());
        }
    }
    let again = nodes::admit(&next, &request, raftup_proto::unit::UnixMillis(1)).unwrap();
    assert_eq!((again.0.is_empty(), again.1), (true, id), "a repeated attempt is the same node");
    let node = node(&next, id.number()).clone();
    (next, node)
}

type Claim = fn(&mut NodeInfo);

fn control(info: &mut NodeInfo, text: &str) {
    info.control = text.parse().unwrap();
}

fn fabric(info: &mut NodeInfo, text: &str) {
    let place: SocketAddr = text.parse().unwrap();
    (info.underlay, info.fabric_port) = (place.ip(), place.port());
}

/// Claims that are refused, whoever makes them, and what the reason says.
const BAD: &[(Claim, &str)] = &[
    (|info| info.hostname = String::new(), "host name is empty"),
    (|info| info.hostname = "x".repeat(254), "longer than 253"),
    (|info| info.hostname = "x".repeat(1 << 20), "longer than 253"),
    (|info| info.hostname = "a b".to_owned(), "other characters"),
    (|info| info.hostname = "a\nb".to_owned(), "other characters"),
    (|info| info.hostname = "\u{1b}[31mred".to_owned(), "other characters"),
    (|info| info.hostname = "a\0b".to_owned(), "other characters"),
    (|info| info.hostname = "wéb".to_owned(), "other characters"),
    (|info| info.hostname = "a\u{202e}b".to_owned(), "other characters"),
    (|info| info.hostname = "a/b".to_owned(), "other characters"),
    (|info| info.hostname = "a;b".to_owned(), "other characters"),
    (|info| info.hostname = "--force".to_owned(), "begin with"),
    (|info| info.hostname = ".a".to_owned(), "begin with"),
    (|info| info.platform.os = "x".repeat(33), "longer than 32"),
    (|info| info.platform.os = "lin\tux".to_owned(), "no word"),
    (|info| info.platform.arch = "amd 64".to_owned(), "no word"),
    (|info| info.platform.arch = "\u{9b}1m".to_owned(), "no word"),
    (|info| control(info, "0.0.0.0:7238"), "no address"),
    (|info| control(info, "0.1.2.3:7238"), "no address of a host"),
    (|info| control(info, "224.0.0.1:7238"), "multicast"),
    (|info| control(info, "239.255.255.255:7238"), "multicast"),
    (|info| control(info, "255.255.255.255:7238"), "broadcast"),
    (|info| control(info, "127.0.0.1:7238"), "its own host only"),
    (|info| control(info, "127.0.0.53:5353"), "its own host only"),
    (|info| control(info, "10.64.0.1:7238"), "pool"),
    (|info| control(info, "10.95.255.255:7238"), "pool"),
    (|info| control(info, "[::]:7238"), "no address"),
    (|info| control(info, "[::1]:7238"), "IPv6"),
    (|info| control(info, "[ff02::1]:7238"), "multicast"),
    (|info| control(info, "[fe80::1]:7238"), "one link only"),
    (|info| control(info, "[::ffff:192.0.2.9]:7238"), "within IPv6"),
    (|info| control(info, "[2001:db8::1]:7238"), "the other nodes have IPv4"),
    (|info| control(info, "192.0.2.9:0"), "no port"),
    (|info| control(info, "192.0.2.9:53"), "port of DNS"),
    (|info| control(info, "192.0.2.9:7240"), "within each host"),
    (|info| control(info, "192.0.2.9:7241"), "within each host"),
    (|info| control(info, "192.0.2.9:4433"), "service `shop_web` publishes"),
    (|info| control(info, "192.0.2.1:7238"), "in use by node n1"),
    (|info| control(info, "192.0.2.1:7239"), "in use by node n1"),
    (|info| fabric(info, "0.0.0.0:7239"), "no address"),
    (|info| fabric(info, "0.0.0.1:7239"), "no address of a host"),
    (|info| fabric(info, "224.0.0.251:7239"), "multicast"),
    (|info| fabric(info, "255.255.255.255:7239"), "broadcast"),
    (|info| fabric(info, "127.0.0.1:7239"), "its own host only"),
    (|info| fabric(info, "10.64.16.1:7239"), "pool"),
    (|info| fabric(info, "10.80.0.1:7239"), "pool"),
    (|info| fabric(info, "[::]:7239"), "no address"),
    (|info| fabric(info, "[::1]:7239"), "IPv6"),
    (|info| fabric(info, "[ff05::2]:7239"), "multicast"),
    (|info| fabric(info, "[fe80::1]:7239"), "one link only"),
    (|info| fabric(info, "[::ffff:10.0.0.1]:7239"), "within IPv6"),
    (|info| fabric(info, "[2001:db8::1]:7239"), "the other nodes have IPv4"),
    (|info| fabric(info, "192.0.2.9:0"), "no port"),
    (|info| fabric(info, "192.0.2.9:53"), "port of DNS"),
    (|info| fabric(info, "192.0.2.9:7240"), "within each host"),
    (|info| fabric(info, "192.0.2.9:7241"), "within each host"),
    (|info| fabric(info, "192.0.2.9:4433"), "service `shop_web` publishes"),
    (|info| fabric(info, "192.0.2.1:7239"), "in use by node n1"),
    (|info| fabric(info, "192.0.2.1:7238"), "in use by node n1"),
    (|info| info.fabric_port = 7238, "are both 192.0.2."),
    (|info| info.fabric_keys = vec![FabricKey([1; 32])], "key is that of node n1"),
    (|info| info.fabric_keys.push(FabricKey([1; 32])), "key is that of node n1"),
    (|info| info.fabric_keys = vec![FabricKey([0; 32])], "key is empty"),
    (|info| info.fabric_keys = vec![FabricKey([7; 32]); 2], "key twice"),
    (|info| info.fabric_keys = (20..25).map(|n| FabricKey([n; 32])).collect(), "more than 4"),
    (|info| info.fabric_keys = vec![FabricKey([7; 32]); 1 << 16], "more than 4"),
    (|info| info.version = "9".repeat(129), "longer than 128"),
    (|info| info.version = "1.0\r".to_owned(), "control character"),
    (|info| info.platform.kernel = "6".repeat(1 << 20), "longer than 128"),
    (|info| info.platform.kernel = "6.1\u{7}".to_owned(), "control character"),
    (|info| info.platform.engine = Some("é".repeat(65)), "longer than 128"),
    (|info| info.platform.engine = Some("28\u{200b}".to_owned()), "control character"),
    (|info| info.platform.memory = MemBytes(u64::MAX), "more than a machine has"),
    (|info| info.platform.cpu = CpuMillis(u64::MAX), "more than a machine has"),
    (|info| info.deaf = vec![deaf(0)], "port 0"),
];

fn deaf(published: u16) -> Deaf {
    Deaf { protocol: Protocol::Tcp, published, host_ip: None, why: DeafTo::Taken }
}

#[test]
fn a_bad_claim_of_a_member_is_refused_and_nothing_else_of_it() {
    let cluster = cluster();
    for (number, (change, expected)) in BAD.iter().enumerate() {
        for member in [2, 3] {
            let old = node(&cluster, member);
            let (mut claim, mut wanted) = (old.info.clone(), old.info.clone());
            claim.version = "9.9.9".to_owned();
            claim.deaf = vec![deaf(80)];
            change(&mut claim);
            if claim.version == "9.9.9" {
                wanted.version.clone_from(&claim.version);
            }
            if claim.deaf == [deaf(80)] {
                wanted.deaf.clone_from(&claim.deaf);
            }
            let (info, unaccepted) = update(&cluster, old, &claim);
            let [reason] = &unaccepted.refused[..] else { panic!("{number} {expected}: {unaccepted:?}") };
            assert!(reason.contains(expected), "{number}: `{reason}` does not say `{expected}`");
            assert!(reason.len() < 300 && clean(reason, 300) == *reason, "{reason}");
            assert_eq!(info, wanted, "{expected}");
            assert_eq!(unaccepted.traits, None, "{expected}");
            let said = said(&cluster, member, &claim);
            assert_eq!(problems(&said, node(&said, member)), std::slice::from_ref(reason));
            assert!(said_again(&said, member, &claim), "the same claim changes nothing more");
        }
    }
    assert!(BAD.len() >= 60);
}

fn said_again(cluster: &Cluster, number: u64, claim: &NodeInfo) -> bool {
    let old = node(cluster, number);
    update(cluster, old, claim) == (old.info.clone(), old.unaccepted.clone())
}

#[test]
fn a_server_with_a_bad_claim_is_not_admitted() {
    let cluster = cluster();
    let pool = cluster.info.as_ref().unwrap().pool;
    for (change, expected) in BAD {
        let mut claim = info("dog", 4);
        change(&mut claim);
        let refusal = admit(&cluster, pool, NodeId::new(4), &claim).unwrap_err();
        assert!(refusal.message.contains(expected), "`{refusal}` does not say `{expected}`");
        assert!(refusal.message.starts_with("this server cannot join: ") && refusal.hint.is_some());
    }
    assert!(admit(&cluster, pool, NodeId::new(4), &info("dog", 4)).is_ok());
}

/// An upgrade must not break what works: a value that was in force before is not checked.
#[test]
fn what_does_not_change_is_not_checked_again() {
    let mut cluster = cluster();
    let sound = node(&cluster, 2).clone();
    for (change, expected) in BAD {
        let mut bad = sound.clone();
        change(&mut bad.info);
        if bounded(bad.info.clone()) != bad.info {
            continue;
        }
        cluster.nodes.insert(bad.id, Arc::new(bad.clone()));
        assert_eq!(
            update(&cluster, &bad, &bad.info),
            (bad.info.clone(), Unaccepted::default()),
            "{expected}"
        );
    }
}

#[test]
fn bad_labels_and_ports_are_left_out_and_the_others_stay() {
    let cluster = cluster();
    let cases: &[(Vec<String>, usize, &str)] = &[
        ((0..70).map(|n| format!("k{n}=v")).collect(), 64, "more than 64 engine labels"),
        (vec!["a=1".to_owned(), "a=2".to_owned()], 1, "`a` is given twice"),
        (vec!["a=1".to_owned(), format!("{}=1", "k".repeat(64))], 1, "key is longer than 63"),
        (vec!["a=1".to_owned(), format!("b={}", "v".repeat(256))], 1, "value is longer than 255"),
        (vec!["a=1".to_owned(), "k".repeat(1 << 20)], 1, "key is longer than 63"),
        (vec!["a=1".to_owned(), "b=\u{1b}]0;x\u{7}".to_owned()], 1, "control character"),
        (vec!["a=1".to_owned(), "b=x\u{2066}y".to_owned()], 1, "control character"),
        (vec!["a=1".to_owned(), "b c=1".to_owned()], 1, "key has a space"),
        (vec!["a=1".to_owned(), "=1".to_owned()], 1, "no key"),
        (vec!["a=1".to_owned(), String::new()], 1, "no key"),
    ];
    for (labels, kept, expected) in cases {
        let mut claim = node(&cluster, 1).info.clone();
        claim.platform.engine_labels.clone_from(labels);
        let (info, unaccepted) = update(&cluster, node(&cluster, 1), &claim);
        assert_eq!(info.platform.engine_labels.len(), *kept, "{expected}");
        assert!(unaccepted.refused.iter().any(|line| line.contains(expected)), "{unaccepted:?}");
        let admitted = NodeInfo { platform: claim.platform.clone(), ..self::info("dog", 4) };
        let (_, new) = joined(&cluster, &admitted, Role::Worker);
        assert_eq!(new.info.platform.engine_labels.len(), *kept, "{expected}");
        assert_eq!(problems(&cluster, &new), unaccepted.refused);
    }
    let mut claim = node(&cluster, 2).info.clone();
    claim.deaf = (1..=3000_u16).rev().chain(1..=3000).map(deaf).collect();
    let (info, _) = update(&cluster, node(&cluster, 2), &claim);
    assert!(info.deaf.len() <= 1024 && info.deaf.is_sorted());
}

fn constraint(attribute: NodeAttribute, value: &str) -> raftup_proto::spec::ServiceSpec {
    let mut spec = (*sample::service(1).versions[0].spec).clone();
    spec.placement.constraints = vec![Constraint { attribute, equal: true, value: value.to_owned() }];
    spec
}

/// What a worker says of itself later brings it no task that it could not have had before.
#[test]
fn a_worker_cannot_claim_its_way_into_a_constraint() {
    let cluster = cluster();
    let mut free = node(&cluster, 2).info.clone();
    free.hostname = "vault".to_owned();
    let mut taken = free.clone();
    taken.hostname = "ANT".to_owned();
    let mut labels = node(&cluster, 2).info.clone();
    labels.platform.engine_labels.push("zone=secret".to_owned());
    labels.platform.arch = "riscv64".to_owned();
    let specs = [
        constraint(NodeAttribute::Hostname, "vault"),
        constraint(NodeAttribute::Hostname, "ant"),
        constraint(NodeAttribute::EngineLabel("zone".to_owned()), "secret"),
        constraint(NodeAttribute::Arch, "riscv64"),
    ];
    let claims = [&free, &taken, &labels];
    for claim in claims {
        let after = said(&cluster, 2, claim);
        for spec in &specs {
            let before = placement::may_stay(node(&cluster, 2), spec);
            assert_eq!(placement::may_stay(node(&after, 2), spec), before);
        }
        assert!(said_again(&after, 2, claim));
    }
    let lines = |claim| {
        let after = said(&cluster, 2, claim);
        problems(&after, node(&after, 2)).join("\n")
    };
    expect_test::expect![[r#"
        host name changed to `vault`: this node is known as `bee`; `raftup node update --accept-claims n2` accepts that
        host name `ANT` belongs to node n1: this node stays known as `bee`
        platform changed to `linux/riscv64`: placement uses `linux/amd64`; `raftup node update --accept-claims n2` accepts that
        engine labels changed to `disk=hdd`, `zone=secret`: placement uses `disk=hdd`; `raftup node update --accept-claims n2` accepts that"#]]
    .assert_eq(&claims.map(lines).join("\n"));
}

#[test]
fn an_operator_accepts_what_waits() {
    let cluster = cluster();
    let update = raftup_proto::api::NodeUpdate { accept_claims: true, ..Default::default() };
    let now = raftup_proto::unit::UnixMillis(1);
    let refused = nodes::update(&cluster, NodeId::new(2), &update, now).unwrap_err();
    assert!(refused.message.contains("waits to be accepted"), "{refused}");
    let mut claim = node(&cluster, 2).info.clone();
    claim.hostname = "vault".to_owned();
    claim.platform.engine_labels = vec!["zone=secret".to_owned()];
    let after = said(&cluster, 2, &claim);
    assert_eq!(node(&after, 2).info.hostname, "bee");
    assert_eq!(accept(&after, node(&after, 2)).unwrap(), claim);
    let set = nodes::update(&after, NodeId::new(2), &update, now).unwrap();
    let [Change::Update(Object::Node(accepted))] = &set.changes[..] else { panic!("{set:?}") };
    assert_eq!((&accepted.info, &accepted.unaccepted), (&claim, &Unaccepted::default()));
    // Another node has the name by now.
    let mut late = after.clone();
    let other = Node { info: info("Vault", 3), ..node(&after, 3).clone() };
    late.nodes.insert(other.id, Arc::new(other));
    let refused = nodes::update(&late, NodeId::new(2), &update, now).unwrap_err();
    assert!(refused.message.contains("also that of node n3"), "{refused}");
}

/// A manager may hold all of the state, secrets included: its own word adds nothing to that. Names stay unique.
#[test]
fn a_managers_changes_are_taken_over_except_for_a_name_that_is_taken() {
    let cluster = cluster();
    let mut claim = node(&cluster, 1).info.clone();
    claim.hostname = "eel".to_owned();
    claim.platform.engine_labels = vec!["disk=ssd".to_owned()];
    let after = said(&cluster, 1, &claim);
    assert_eq!((&node(&after, 1).info, problems(&after, node(&after, 1))), (&claim, Vec::new()));
    claim.hostname = "Bee".to_owned();
    claim.platform.arch = "arm64".to_owned();
    let after = said(&after, 1, &claim);
    let known = &node(&after, 1).info;
    assert_eq!((known.hostname.as_str(), known.platform.arch.as_str()), ("eel", "arm64"));
    assert_eq!(
        problems(&after, node(&after, 1)),
        ["host name `Bee` belongs to node n2: this node stays known as `eel`"]
    );
}

#[test]
fn servers_with_equal_host_names_are_told_apart_by_their_ids() {
    let mut cluster = cluster();
    let mut names = Vec::new();
    for number in 4..7 {
        let claim = info("localhost", number);
        let (after, node) = joined(&cluster, &claim, Role::Worker);
        names.push(node.info.hostname.clone());
        assert!(said_again(&after, number.into(), &claim), "its sessions change nothing");
        assert_eq!(problems(&after, &node), Vec::<String>::new(), "and nobody has to do anything");
        cluster = after;
    }
    assert_eq!(names, ["localhost", "localhost-n5", "localhost-n6"]);
    // The name that the next one would get was taken on purpose.
    let (cluster, _) = joined(&cluster, &info("localhost-n8", 7), Role::Worker);
    let claim = info("LOCALHOST", 8);
    let (mut cluster, late) = joined(&cluster, &claim, Role::Worker);
    assert_eq!(late.info.hostname, "LOCALHOST-n8-2");
    assert!(said_again(&cluster, 8, &claim));
    let (after, long) = joined(&cluster, &info(&"x".repeat(253), 9), Role::Worker);
    let (_, longer) = joined(&after, &info(&"x".repeat(253), 10), Role::Worker);
    assert!(longer.info.hostname.ends_with("x-n10") && longer.info.hostname.len() <= 253);
    assert_ne!(long.info.hostname, longer.info.hostname);
    // Once the first is removed its name is free, for an operator to give.
    cluster.nodes.remove(&NodeId::new(4));
    let after = said(&cluster, 5, &info("localhost", 5));
    assert_eq!(node(&after, 5).info.hostname, "localhost-n5");
    assert_eq!(accept(&after, node(&after, 5)).unwrap().hostname, "localhost");
}

/// A server that was installed anew joins again while its former node is still listed as down.
#[test]
fn an_address_of_a_node_that_is_down_may_be_used_again() {
    let mut cluster = cluster();
    let down = Node { state: NodeState::Down, ..node(&cluster, 3).clone() };
    cluster.nodes.insert(down.id, Arc::new(down));
    let mut claim = info("cow", 3);
    claim.fabric_keys = vec![FabricKey([9; 32])];
    let (_, again) = joined(&cluster, &claim, Role::Worker);
    assert_eq!((again.info.control, again.info.hostname.as_str()), (claim.control, "cow-n4"));
}

#[test]
fn a_node_without_its_engine_keeps_its_platform_and_labels() {
    let cluster = cluster();
    for number in [1, 2] {
        let mut claim = node(&cluster, number).info.clone();
        claim.platform.engine = None;
        claim.platform.engine_labels = Vec::new();
        claim.platform.arch = "x86_64".to_owned();
        let after = said(&cluster, number, &claim);
        let platform = &node(&after, number).info.platform;
        assert_eq!((platform.engine.as_deref(), platform.arch.as_str()), (None, "amd64"));
        assert_eq!(
            (&platform.engine_labels[..], problems(&after, node(&after, number)).len()),
            (&["disk=hdd".to_owned()][..], 0)
        );
    }
}

#[test]
fn a_cluster_on_the_loopback_address_takes_nodes_there() {
    let local = |name: &str, number| {
        let mut info = info(name, number);
        info.control.set_ip([127, 0, 0, number].into());
        info.underlay = [127, 0, 0, number].into();
        info
    };
    let pool = sample::info().pool;
    let mut cluster = cluster();
    cluster.nodes = Default::default();
    assert!(admit(&Cluster::default(), pool, NodeId::new(1), &local("ant", 1)).is_ok());
    let (cluster, _) = joined(&cluster, &local("ant", 1), Role::Manager);
    assert!(admit(&cluster, pool, NodeId::new(9), &local("bee", 2)).is_ok());
}

#[test]
fn a_host_name_is_made_usable() {
    let long = "a".repeat(300);
    for (text, expected) in [
        ("web-1.example.com", "web-1.example.com"),
        ("(none)", "none"),
        ("büro", "b-ro"),
        ("", "localhost"),
        ("--", "localhost"),
        (long.as_str(), &long[..253]),
    ] {
        assert_eq!(usable_hostname(text), expected);
        assert!(hostname(&usable_hostname(text)).is_ok());
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{1,2}",
        any::<String>(),
        "\\PC{0,400}",
        Just("ant".to_owned()),
        (0..300_usize).prop_map(|length| "x".repeat(length)),
    ]
}

prop_compose! {
    fn claim()(
        (hostname, version, os, kernel) in (text(), text(), text(), text()),
        engine in proptest::option::of(text()),
        engine_labels in proptest::collection::vec(prop_oneof![text(), "[ab]{1,2}=[xy]{1,2}"], 0..80),
        control in (any::<std::net::IpAddr>(), any::<u16>()),
        (underlay, fabric_port) in (any::<std::net::IpAddr>(), any::<u16>()),
        near in any::<bool>(),
        keys in proptest::collection::vec(0..6_u8, 0..6),
        (cpu, memory) in (any::<u64>(), any::<u64>()),
        deaf in proptest::collection::vec(any::<u16>(), 0..40),
    ) -> NodeInfo {
        let mut info = info("dog", 1 + keys.len() as u8);
        if !near {
            (info.control, info.underlay, info.fabric_port) = (control.into(), underlay, fabric_port);
        }
        info.fabric_keys = keys.into_iter().map(|byte| FabricKey([byte; 32])).collect();
        info.deaf = deaf.into_iter().map(self::deaf).collect();
        info.platform = raftup_proto::peer::Platform {
            os, kernel, engine, engine_labels, cpu: CpuMillis(cpu), memory: MemBytes(memory),
            ..info.platform
        };
        NodeInfo { hostname, version, ..info }
    }
}

/// Everything that may reach a terminal or another node.
fn sound(info: &NodeInfo) {
    let platform = &info.platform;
    let texts = [&info.hostname, &info.version, &platform.os, &platform.arch, &platform.kernel];
    for text in texts.into_iter().chain(&platform.engine).chain(&platform.engine_labels) {
        assert_eq!(*text, clean(text, 1 << 20));
    }
    let size = raftup_proto::codec::frame(info, 1 << 20).unwrap().len();
    assert!(size < 48 << 10, "{size} bytes");
}

proptest! {
    #[test]
    fn whatever_nodes_claim_the_state_stays_sound(
        claims in proptest::collection::vec((1..=5_u64, any::<bool>(), claim()), 1..12),
    ) {
        let mut cluster = cluster();
        cluster.services = Default::default();
        for (number, join, claim) in claims {
            let id = NodeId::new(number);
            if join {
                let (info, pool) = (cluster.info.clone().unwrap(), sample::info().pool);
                if admit(&cluster, pool, NodeId::new(info.next_node), &claim).is_ok() {
                    cluster = joined(&cluster, &claim, Role::Worker).0;
                }
            } else if let Some(old) = cluster.nodes.get(&id).cloned() {
                let (info, unaccepted) = update(&cluster, &old, &claim);
                prop_assert_eq!(&update(&cluster, &old, &bounded(claim.clone())), &(info.clone(), unaccepted.clone()));
                if old.role == Role::Worker {
                    prop_assert_eq!(Traits::of(&info), Traits::of(&old.info));
                }
                let new = Node { info, unaccepted, ..Node::clone(&old) };
                let problems = problems(&cluster, &new);
                prop_assert!(problems.len() <= 24 && problems.iter().all(|line| *line == clean(line, 2048)));
                cluster.nodes.insert(id, Arc::new(new));
                prop_assert!(said_again(&cluster, number, &claim));
            }
            cluster.nodes.values().for_each(|node| sound(&node.info));
            let wrong = crate::plan::check::state(&cluster);
            let of_nodes: Vec<_> = wrong.iter().filter(|line| !line.starts_with("block")).collect();
            prop_assert!(of_nodes.is_empty(), "{:?}", of_nodes);
        }
    }
}
