use std::{collections::BTreeMap, fmt::Write};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use raftup_proto::{
    id::{NetworkId, NodeId, ServiceId, TaskId},
    spec::{ContainerSpec, PortSpec, Protocol},
    view::{Endpoint, Goal, Item, NetworkItem, Revision, RouteItem, ServiceAddress, TaskItem, View},
};

use super::*;

pub(in crate::dns) fn network(number: u64, subnet: &str) -> NetworkItem {
    NetworkItem {
        network: NetworkId::from_random(number),
        stack: Some("shop".parse().unwrap()),
        name: format!("net{number}").parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        internal: false,
        attachable: false,
        plain: false,
    }
}

/// `networks`: number, VIP (`-` for none), alias, addresses of the tasks in slots 1, 2, ..; only odd slots are ready.
pub(in crate::dns) fn route(
    name: &str,
    networks: &[(u64, &str, &str, &[&str])],
) -> impl Iterator<Item = Item> + use<> {
    let on = |number| NetworkId::from_random(number);
    let tasks = networks.iter().map(|(.., tasks)| tasks.len()).max().unwrap_or(0);
    let endpoints: Vec<_> = (0..tasks)
        .map(|index| Endpoint {
            task: TaskId::from_random(index as u64),
            slot: index as u64 + 1,
            node: NodeId::new(1),
            addresses: networks
                .iter()
                .map(|(net, .., tasks)| (on(*net), tasks[index].parse().unwrap()))
                .collect(),
            ready: index % 2 == 0,
            host_ports: Vec::new(),
        })
        .collect();
    let item = RouteItem {
        service: ServiceId::from_random(name.len() as u64),
        stack: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
        networks: networks
            .iter()
            .map(|(net, vip, alias, _)| {
                (on(*net), ServiceAddress { vip: vip.parse().ok(), aliases: vec![(*alias).to_owned()] })
            })
            .collect(),
        ports: vec![PortSpec::new(Protocol::Tcp, 80, 8080)],
        routing: Default::default(),
    };
    item.with(endpoints)
}

/// `web` on both networks, `db` on the second one only, `idle` on the first one without tasks, `turns` there without a
/// virtual address.
fn names() -> Names {
    let networks = [Item::Network(network(1, "10.64.32.0/19")), Item::Network(network(2, "10.64.64.0/19"))];
    let web = route(
        "web",
        &[
            (1, "10.64.63.2", "www", &["10.64.32.2", "10.64.32.3", "10.64.32.66"]),
            (2, "10.64.95.2", "www", &["10.64.64.2", "10.64.64.3", "10.64.64.66"]),
        ],
    );
    let items = networks
        .into_iter()
        .chain(web)
        .chain(route("db", &[(2, "10.64.95.3", "data", &["10.64.64.4"])]))
        .chain(route("idle", &[(1, "10.64.63.4", "www", &[])]))
        .chain(route("turns", &[(1, "-", "rr", &["10.64.32.5", "10.64.32.6", "10.64.32.7"])]));
    Names::of(&View::of(Revision(1), items), Default::default())
}

/// A task of this node on both networks.
fn on_both(first: &str, second: &str) -> TaskItem {
    let networks = [(1, first), (2, second)];
    TaskItem {
        task: TaskId::from_random(77),
        service: ServiceId::from_random(77),
        stack: "shop".parse().unwrap(),
        name: "late".parse().unwrap(),
        slot: 1,
        goal: Goal::Run,
        container: ContainerSpec::default(),
        image: String::new(),
        resources: Default::default(),
        networks: networks.map(|(on, address)| (NetworkId::from_random(on), address.parse().unwrap())).into(),
        volumes: BTreeMap::new(),
    }
}

pub(in crate::dns) fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.metadata.recursion_desired = true;
    message.to_vec().unwrap()
}

fn ask(asker: &str, name: &str, kind: RecordType) -> String {
    match answer(&names(), asker.parse().unwrap(), &question(name, kind), Carrier::Udp) {
        Verdict::Answer(bytes) => {
            let message = Message::from_vec(&bytes).unwrap();
            let mut text = format!("{name} {kind}: {}\n", message.metadata.response_code);
            for record in message.answers.iter().chain(&message.additionals) {
                writeln!(text, "  {record}").unwrap();
            }
            text
        }
        Verdict::Forward(_) => format!("{name} {kind}: forward\n"),
        Verdict::Ignore => format!("{name} {kind}: ignore\n"),
    }
}

fn check(asker: &str, questions: &[(&str, RecordType)], expected: Expect) {
    let text: Vec<String> = questions.iter().map(|(name, kind)| ask(asker, name, *kind)).collect();
    expected.assert_eq(&text.concat());
}

#[test]
fn a_name_without_a_virtual_address_stands_for_the_tasks() {
    use RecordType::{A, PTR, SRV};
    let all = [
        ("turns.", A),
        ("rr.", A),
        ("tasks.turns.", A),
        ("3.turns.", A),
        ("_80._tcp.turns.", SRV),
        ("5.32.64.10.in-addr.arpa.", PTR),
    ];
    check(
        "10.64.32.2",
        &all,
        expect![[r#"
        turns. A: No Error
          turns. 1 IN A 10.64.32.5
          turns. 1 IN A 10.64.32.7
        rr. A: No Error
          rr. 1 IN A 10.64.32.5
          rr. 1 IN A 10.64.32.7
        tasks.turns. A: No Error
          tasks.turns. 1 IN A 10.64.32.5
          tasks.turns. 1 IN A 10.64.32.7
        3.turns. A: No Error
          3.turns. 1 IN A 10.64.32.7
        _80._tcp.turns. SRV: No Error
          _80._tcp.turns. 1 IN SRV 0 1 80 1.turns.shop.internal.
          _80._tcp.turns. 1 IN SRV 0 1 80 3.turns.shop.internal.
          1.turns.shop.internal. 1 IN A 10.64.32.5
          3.turns.shop.internal. 1 IN A 10.64.32.7
        5.32.64.10.in-addr.arpa. PTR: No Error
          5.32.64.10.in-addr.arpa. 1 IN PTR 1.turns.shop.internal.
    "#]],
    );
}

#[test]
fn names_of_services_and_tasks() {
    use RecordType::A;
    let all = [
        "web.",
        "WEB.shop.",
        "shop_web.",
        "web.internal.",
        "web.shop.internal.",
        "idle.",
        "www.",
        "tasks.web.",
        "tasks.idle.",
        "3.web.",
        "2.web.shop.",
        "9.web.",
        "x.web.",
        "web-1.",
        "WEB-2.shop.",
        "web-3.internal.",
        "web-9.",
        "other-1.",
        "example.com.",
        "internal.",
    ];
    check(
        "10.64.32.2",
        &all.map(|name| (name, A)),
        expect![[r#"
            web. A: No Error
              web. 1 IN A 10.64.63.2
            WEB.shop. A: No Error
              WEB.shop. 1 IN A 10.64.63.2
            shop_web. A: No Error
              shop_web. 1 IN A 10.64.63.2
            web.internal. A: No Error
              web.internal. 1 IN A 10.64.63.2
            web.shop.internal. A: No Error
              web.shop.internal. 1 IN A 10.64.63.2
            idle. A: No Error
              idle. 1 IN A 10.64.63.4
            www. A: No Error
              www. 1 IN A 10.64.63.2
              www. 1 IN A 10.64.63.4
            tasks.web. A: No Error
              tasks.web. 1 IN A 10.64.32.2
              tasks.web. 1 IN A 10.64.32.66
            tasks.idle. A: No Error
            3.web. A: No Error
              3.web. 1 IN A 10.64.32.66
            2.web.shop. A: No Error
              2.web.shop. 1 IN A 10.64.32.3
            9.web. A: No Error
            x.web. A: forward
            web-1. A: No Error
              web-1. 1 IN A 10.64.32.2
            WEB-2.shop. A: No Error
              WEB-2.shop. 1 IN A 10.64.32.3
            web-3.internal. A: No Error
              web-3.internal. 1 IN A 10.64.32.66
            web-9. A: forward
            other-1. A: forward
            example.com. A: forward
            internal. A: forward
        "#]],
    );
}

#[test]
fn other_kinds() {
    use RecordType::{AAAA, MX, PTR, SRV};
    let all = [
        ("web.", AAAA),
        ("web.", MX),
        ("web.", SRV),
        ("_53._udp.web.", SRV),
        ("tasks.idle.", SRV),
        ("2.63.64.10.in-addr.arpa.", PTR),
        ("66.32.64.10.in-addr.arpa.", PTR),
        ("77.32.64.10.in-addr.arpa.", PTR),
        ("8.8.8.8.in-addr.arpa.", PTR),
    ];
    check(
        "10.64.32.2",
        &all,
        expect![[r#"
        web. AAAA: No Error
        web. MX: No Error
        web. SRV: No Error
          web. 1 IN SRV 0 1 8080 1.web.shop.internal.
          web. 1 IN SRV 0 1 8080 3.web.shop.internal.
          1.web.shop.internal. 1 IN A 10.64.32.2
          3.web.shop.internal. 1 IN A 10.64.32.66
        _53._udp.web. SRV: No Error
          _53._udp.web. 1 IN SRV 0 1 53 1.web.shop.internal.
          _53._udp.web. 1 IN SRV 0 1 53 3.web.shop.internal.
          1.web.shop.internal. 1 IN A 10.64.32.2
          3.web.shop.internal. 1 IN A 10.64.32.66
        tasks.idle. SRV: No Error
        2.63.64.10.in-addr.arpa. PTR: No Error
          2.63.64.10.in-addr.arpa. 1 IN PTR web.shop.internal.
        66.32.64.10.in-addr.arpa. PTR: No Error
          66.32.64.10.in-addr.arpa. 1 IN PTR 3.web.shop.internal.
        77.32.64.10.in-addr.arpa. PTR: Non-Existent Domain
        8.8.8.8.in-addr.arpa. PTR: forward
    "#]],
    );
}

#[test]
fn a_task_sees_the_networks_that_it_is_on() {
    use RecordType::{A, PTR};
    let all = [("db.", A), ("web.", A), ("data.", A), ("4.64.64.10.in-addr.arpa.", PTR)];
    // A task of `web`, on both; a task that no view names yet, on the first; a task of `db`, on the second; a stranger.
    check(
        "10.64.32.2",
        &all,
        expect![[r#"
        db. A: No Error
          db. 1 IN A 10.64.95.3
        web. A: No Error
          web. 1 IN A 10.64.63.2
        data. A: No Error
          data. 1 IN A 10.64.95.3
        4.64.64.10.in-addr.arpa. PTR: No Error
          4.64.64.10.in-addr.arpa. 1 IN PTR 1.db.shop.internal.
    "#]],
    );
    check(
        "10.64.32.99",
        &all,
        expect![[r#"
        db. A: forward
        web. A: No Error
          web. 1 IN A 10.64.63.2
        data. A: forward
        4.64.64.10.in-addr.arpa. PTR: Non-Existent Domain
    "#]],
    );
    check(
        "10.64.64.4",
        &all,
        expect![[r#"
        db. A: No Error
          db. 1 IN A 10.64.95.3
        web. A: No Error
          web. 1 IN A 10.64.95.2
        data. A: No Error
          data. 1 IN A 10.64.95.3
        4.64.64.10.in-addr.arpa. PTR: No Error
          4.64.64.10.in-addr.arpa. 1 IN PTR 1.db.shop.internal.
    "#]],
    );
    check(
        "192.0.2.1",
        &all,
        expect![[r#"
        db. A: Query Refused
        web. A: Query Refused
        data. A: Query Refused
        4.64.64.10.in-addr.arpa. PTR: Query Refused
    "#]],
    );
}

#[test]
fn a_long_answer_is_cut_over_udp_only() {
    let addresses: Vec<String> =
        (0..800).map(|task| Ipv4Addr::from(0x0a40_2002 + 2 * task).to_string()).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let route = route("web", &[(1, "10.64.63.2", "www", &addresses)]);
    let items = route.chain([Item::Network(network(1, "10.64.32.0/19"))]);
    let names = Names::of(&View::of(Revision(1), items), Default::default());
    let ask = |carrier| {
        let asker = "10.64.32.2".parse().unwrap();
        match answer(&names, asker, &question("tasks.web.", RecordType::A), carrier) {
            Verdict::Answer(bytes) => (bytes.len(), Message::from_vec(&bytes).unwrap()),
            other @ (Verdict::Forward(_) | Verdict::Ignore) => panic!("{other:?}"),
        }
    };
    let (length, message) = ask(Carrier::Udp);
    assert!(length <= 512 && message.metadata.truncation && message.answers.len() > 20, "{length}");
    let (_, message) = ask(Carrier::Tcp);
    assert!(!message.metadata.truncation && message.answers.len() == 400);
}

/// A question under an id of its own, with these counts of questions, answers, authorities and additionals.
fn raw(counts: [u16; 4], body: &[u8]) -> Vec<u8> {
    let counts: Vec<u8> = counts.into_iter().flat_map(u16::to_be_bytes).collect();
    [b"\x12\x34\x01\x00", &counts[..], body].concat()
}

fn code(asker: &str, question: &[u8]) -> String {
    match answer(&names(), asker.parse().unwrap(), question, Carrier::Udp) {
        Verdict::Answer(bytes) => {
            assert!(
                bytes.len() <= question.len().max(HEADER),
                "{} bytes for {}",
                bytes.len(),
                question.len()
            );
            Message::from_vec(&bytes).unwrap().metadata.response_code.to_string()
        }
        Verdict::Forward(_) => "forward".to_owned(),
        Verdict::Ignore => "ignore".to_owned(),
    }
}

#[test]
fn odd_messages_are_refused_without_being_read() {
    let here = "10.64.32.2";
    let name = b"\x07example\x03com\x00\x00\x01\x00\x01";
    assert_eq!(code(here, &raw([1, 0, 0, 0], name)), "forward");
    let two = [&name[..], name].concat();
    for counts in [[2, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 5], [0, 0, 0, 0], [u16::MAX; 4]] {
        assert_eq!(code(here, &raw(counts, &two)), "Form Error", "{counts:?}");
    }
    // Names that point to each other, to themselves, ahead or nowhere; labels that are too long or of unknown kinds.
    for body in [
        &b"\xc0\x0c\x00\x01\x00\x01"[..],
        b"\x01a\xc0\x0c\x00\x01\x00\x01",
        b"\xc0\x0e\xc0\x0c\x00\x01\x00\x01",
        b"\xff\xff\x00\x01\x00\x01",
        b"\x40a\x00\x00\x01\x00\x01",
        b"\x3fa",
        b"",
    ] {
        assert_eq!(code(here, &raw([1, 0, 0, 0], body)), "Form Error", "{body:?}");
    }
    let long = [&[63; 64 * 5][..], b"\x00\x00\x01\x00\x01"].concat();
    assert_eq!(code(here, &raw([1, 0, 0, 0], &long)), "Form Error");
    let mut question = raw([1, 0, 0, 0], name);
    question[2] |= 0x80;
    assert_eq!(
        code(here, &question),
        "ignore",
        "an answer; two resolvers would never end to answer each other"
    );
    question[2] = 0x28;
    assert_eq!(code(here, &question), "Not Implemented", "a change");
    for length in 0..HEADER {
        assert_eq!(code(here, &question[..length]), "ignore");
    }
}

#[test]
fn names_with_odd_bytes_are_no_names_of_ours() {
    let ask = |name: &[u8]| code("10.64.32.2", &raw([1, 0, 0, 0], &[name, b"\x00\x00\x01\x00\x01"].concat()));
    // `web.shop` as one label; a zero byte; a line end; escapes; bytes that are no text.
    for name in [
        &b"\x08web.shop"[..],
        b"\x04web\0",
        b"\x04web\n",
        b"\x05web\\.",
        b"\x04\xff\xfe\x80w",
        b"\x01.\x03web",
    ] {
        assert_eq!(ask(name), "forward", "{name:?}");
    }
    assert_eq!(ask(b""), "forward", "the root");
}

#[test]
fn strangers_are_not_asked_for() {
    let questions = [question("example.com.", RecordType::A), question("web.", RecordType::ANY)];
    for stranger in ["192.0.2.1", "127.0.0.1", "10.64.96.1", "10.63.255.255", "0.0.0.0", "255.255.255.255"] {
        for question in &questions {
            assert_eq!(code(stranger, question), "Query Refused", "{stranger}");
        }
    }
}

/// What everybody may rely on, whatever is asked and from wherever.
fn holds(asker: Ipv4Addr, question: &[u8]) {
    for carrier in [Carrier::Udp, Carrier::Tcp] {
        let verdict = answer(&names(), asker, question, carrier);
        let Verdict::Answer(bytes) = verdict else { continue };
        assert_eq!(bytes[..2], question[..2], "the same id");
        assert!(bytes[2] & 0x80 != 0 && bytes.len() <= usize::from(UDP_MAX), "{}", bytes.len());
        if names().network_of(asker).is_none() {
            assert!(bytes.len() <= question.len(), "more than was sent, to an address that may be forged");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..600), asker: [u8; 4]) {
        holds(Ipv4Addr::new(10, 64, 32, 2), &bytes);
        holds(asker.into(), &bytes);
    }

    #[test]
    fn no_damaged_question_is_too_strange(
        damage in prop::collection::vec((0_usize..60, any::<u8>()), 0..4),
        cut in 0_usize..60,
        more in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = question("3.web.shop.internal.", RecordType::SRV);
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        bytes.extend(more);
        for (at, byte) in damage {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        holds(Ipv4Addr::new(10, 64, 32, 2), &bytes);
        holds(Ipv4Addr::new(192, 0, 2, 1), &bytes);
    }
}

#[test]
fn who_is_shut_in_asks_nobody_outside() {
    let inner = NetworkItem { internal: true, ..network(1, "10.64.32.0/19") };
    let items = [
        Item::Network(inner),
        Item::Network(network(2, "10.64.64.0/19")),
        Item::Task(Box::new(on_both("10.64.32.3", "10.64.64.3"))),
    ];
    let web = route("web", &[(1, "10.64.63.2", "www", &["10.64.32.2"])]);
    let view = View::of(Revision(1), web.chain(items));
    let names = Names::of(&view, view.on_several_networks());
    let ask = |asker: &str, name: &str| match answer(
        &names,
        asker.parse().unwrap(),
        &question(name, RecordType::A),
        Carrier::Udp,
    ) {
        Verdict::Answer(bytes) => Message::from_vec(&bytes).unwrap().metadata.response_code.to_string(),
        Verdict::Forward(_) => "forward".to_owned(),
        Verdict::Ignore => "ignore".to_owned(),
    };
    let both = |asker| [ask(asker, "web."), ask(asker, "example.com.")];
    assert_eq!(both("10.64.32.2"), ["No Error", "Server Failure"], "on the internal network alone");
    assert_eq!(both("10.64.32.9"), ["No Error", "Server Failure"], "of whom nothing is known");
    assert_eq!(both("10.64.32.3"), ["No Error", "forward"], "on both, asking from the internal one");
    assert_eq!(
        both("10.64.64.3"),
        ["No Error", "forward"],
        "on both before it runs, asking from the other one"
    );
}
