//! What a stack asks for beyond itself: ports that the cluster chooses, names of containers, networks of other stacks, and
//! what older releases would pass over.

use expect_test::expect;
use raftup_proto::{
    api::{Action, NetworkCreate},
    peer::Level,
    refusal::Refusal,
    spec::{AnyPort, Mode, NetworkSpec, PortSpec, Protocol, PublishMode, ServiceSpec},
    unit::MemBytes,
};

use super::sim::{Sim, service};
use crate::{
    model::{ChangeSet, Cluster, ClusterInfo},
    plan,
};

fn sim() -> Sim {
    Sim::new("ant", MemBytes(1 << 40), "10.64.0.0/11")
}

fn one() -> ServiceSpec {
    service("app", Mode::Replicated { replicas: 1 })
}

fn any(target: u16) -> AnyPort {
    AnyPort { protocol: Protocol::Tcp, target, host_ip: None, mode: PublishMode::Ingress }
}

fn published(sim: &Sim, name: &str) -> Vec<(u16, u16)> {
    let ports = &sim.cluster().services[&sim.find(name)].current().spec.ports;
    ports.iter().map(|port| (port.published, port.target)).collect()
}

fn told(refusal: &Refusal) -> String {
    format!("{refusal}\nhint: {}\n", refusal.hint.as_deref().unwrap_or_default())
}

fn refused(sim: &mut Sim) -> String {
    told(&sim.deploy().unwrap_err())
}

#[test]
fn a_chosen_port_stays_with_its_service() {
    let mut sim = sim();
    sim.ask("a", &ServiceSpec { any_ports: vec![any(80), any(81)], ..one() });
    sim.ask("b", &ServiceSpec { any_ports: vec![any(80)], ..one() });
    assert_eq!(published(&sim, "a"), [(30_000, 80), (30_001, 81)]);
    assert_eq!(published(&sim, "b"), [(30_002, 80)]);
    let before = sim.revision();
    sim.deploy().unwrap();
    assert_eq!(sim.revision(), before, "the same file changes nothing");
    // Another service of the stack that asks for the first one by number does not take it away from the one that has it.
    let taken = PortSpec::new(Protocol::Tcp, 30_000, 8080);
    sim.ask("a", &ServiceSpec { any_ports: vec![any(81)], ..one() });
    sim.ask("c", &ServiceSpec { ports: vec![taken], any_ports: vec![any(1)], ..one() });
    assert_eq!(published(&sim, "a"), [(30_001, 81)]);
    assert_eq!(published(&sim, "c"), [(30_000, 8080), (30_003, 1)]);
    assert_eq!(published(&sim, "b"), [(30_002, 80)]);
    // One that the file named stays when the file leaves it to the cluster.
    sim.ask("c", &ServiceSpec { any_ports: vec![any(8080)], ..one() });
    assert_eq!(published(&sim, "c"), [(30_000, 8080)]);
}

#[test]
fn chosen_ports_run_out() {
    let mut sim = sim();
    let all = AnyPort::FIRST..=AnyPort::LAST;
    let ports = all.map(|port| PortSpec::new(Protocol::Tcp, port, port)).collect();
    sim.ask("a", &ServiceSpec { ports, ..one() });
    sim.spec.services.insert("b".parse().unwrap(), ServiceSpec { any_ports: vec![any(80)], ..one() });
    expect![[r#"
        service `b` asks for a port of the cluster's choice, and all of 30000 to 32767 are taken
        hint: name a port in `ports`
    "#]]
    .assert_eq(&refused(&mut sim));
}

#[test]
fn an_older_node_keeps_new_options_out() {
    let mut spec = one();
    spec.container.privileges.privileged = true;
    let level = |sim: &Sim| sim.cluster().info.as_ref().unwrap().level;
    let mut mixed = sim();
    let node = mixed.node_here();
    let info = ClusterInfo { level: Level(1), ..ClusterInfo::clone(mixed.cluster().info.as_ref().unwrap()) };
    let mut set = ChangeSet::new(mixed.now);
    set.update(info);
    mixed.apply(set);
    mixed.say(node, |info| info.level = Level(1));
    mixed.spec.services.insert("web".parse().unwrap(), spec.clone());
    expect![[r#"
        service `web` uses options that came with a newer version of raftup than all nodes have
        hint: update raftupd on ant
    "#]]
    .assert_eq(&refused(&mut mixed));
    mixed.say(node, |info| info.level = plan::level::NEWEST);
    assert_eq!(level(&mixed), plan::level::NEWEST);
    mixed.deploy().unwrap();
}

#[test]
fn a_name_of_a_container_is_had_once() {
    let mut sim = sim();
    let named = |name: &str| {
        let mut spec = one();
        spec.container.container_name = Some(name.to_owned());
        spec
    };
    sim.ask("web", &named("shop-web"));
    sim.spec.services.insert("db".parse().unwrap(), named("shop-web"));
    expect![[r#"
        service `web` names its container `shop-web`, and so does service `s_db`
        hint: give it another `container_name`, or `raftup service rm s_db`
    "#]]
    .assert_eq(&refused(&mut sim));
    sim.spec.services.remove("db");
    let own = std::mem::replace(&mut sim.spec.name, "other".parse().unwrap());
    expect![[r#"
        service `web` names its container `shop-web`, and so does service `s_web`
        hint: give it another `container_name`, or `raftup service rm s_web`
    "#]]
    .assert_eq(&refused(&mut sim));
    sim.spec.name = own;
    let scale = raftup_proto::api::ServiceUpdate { replicas: Some(2), ..Default::default() };
    let id = sim.find("web");
    let scaled = plan::services::update(sim.cluster(), id, &scale, &Default::default(), sim.now).unwrap_err();
    expect![[r#"
        service `s_web` has one `container_name`, `shop-web`, for several containers
        hint: deploy it without `container_name`, then ask for more replicas
    "#]]
    .assert_eq(&told(&scaled));
}

fn stack_of(cluster: &Cluster, name: &str) -> raftup_proto::id::StackId {
    cluster.stacks.values().find(|stack| stack.name.as_str() == name).unwrap().id
}

#[test]
fn a_network_is_shared_by_its_name() {
    let mut sim = sim();
    // The second stack, before there is anything to join.
    let mut joining = sim.spec.clone();
    joining.name = "wiki".parse().unwrap();
    let outer = NetworkSpec { external: true, name: Some("proxy".to_owned()), ..NetworkSpec::default() };
    joining.networks = [("default".parse().unwrap(), outer)].into();
    let mut app = one();
    app.networks[0].external = Some("proxy".to_owned());
    joining.services.insert("app".parse().unwrap(), app);
    let own = std::mem::replace(&mut sim.spec, joining.clone());
    expect![[r#"
        there is no network `proxy` in the cluster, which is `external`
        hint: `raftup network create proxy` first, or remove `external` where no other stack needs it
    "#]]
    .assert_eq(&refused(&mut sim));

    sim.spec = own.clone();
    sim.spec.networks.values_mut().for_each(|network| network.name = Some("proxy".to_owned()));
    sim.ask("edge", &one());
    sim.settle();
    sim.spec = joining;
    sim.deploy().unwrap();
    sim.settle();
    assert_eq!(sim.cluster().networks.len(), 1);
    let on = |sim: &Sim, name: &str| sim.cluster().services[&sim.find(name)].networks.clone();
    assert_eq!(on(&sim, "s_edge"), on(&sim, "wiki_app"));
    let vips = |sim: &Sim, name: &str| sim.cluster().services[&sim.find(name)].vips.clone();
    assert_ne!(vips(&sim, "s_edge"), vips(&sim, "wiki_app"));
    let before = sim.revision();
    sim.deploy().unwrap();
    assert_eq!(sim.revision(), before, "the same file changes nothing");

    // Nobody else may have the name, and the network stays as long as someone is on it.
    let mut third = own.clone();
    third.name = "third".parse().unwrap();
    third.networks.values_mut().for_each(|network| network.name = Some("proxy".to_owned()));
    third.services.insert("x".parse().unwrap(), one());
    sim.spec = third;
    expect![[r#"
        network `default` has the name `proxy`, which a network of stack `s` has
        hint: give it another `name`, or join the other one with `external: true`
    "#]]
    .assert_eq(&refused(&mut sim));
    let removed = plan::stacks::remove(sim.cluster(), stack_of(sim.cluster(), "s"), sim.now).unwrap_err();
    expect![[r#"
        network `proxy` cannot be removed: service `wiki_app` is on it
        hint: `raftup service rm wiki_app` first
    "#]]
    .assert_eq(&told(&removed));

    // A way back finds it again.
    let id = sim.find("wiki_app");
    let force = raftup_proto::api::ServiceUpdate { force: true, ..Default::default() };
    let (set, _) = plan::services::update(sim.cluster(), id, &force, &Default::default(), sim.now).unwrap();
    sim.apply(set);
    sim.settle();
    let (set, _) = plan::services::rollback(sim.cluster(), id, None, sim.now).unwrap();
    sim.apply(set);
    sim.settle();
    assert_eq!(on(&sim, "wiki_app"), on(&sim, "s_edge"));

    // Once it is left, it goes with its stack.
    for name in ["wiki", "s"] {
        let (set, _) = plan::stacks::remove(sim.cluster(), stack_of(sim.cluster(), name), sim.now).unwrap();
        sim.apply(set);
        sim.settle();
    }
    assert!(sim.cluster().networks.is_empty() && sim.cluster().stacks.is_empty());
}

#[test]
fn a_network_of_no_stack_is_there_for_all() {
    let mut sim = sim();
    let asked = |name: &str| NetworkCreate {
        name: name.parse().unwrap(),
        labels: [("for".to_owned(), "all".to_owned())].into(),
        encrypted: None,
        internal: false,
        attachable: true,
    };
    let create = |sim: &mut Sim, name: &str| {
        let mut ids = plan::Ids::seeded(7);
        let created = plan::networks::create(sim.cluster(), &asked(name), sim.now, &mut ids);
        created.map(|(set, views)| {
            sim.apply(set);
            views
        })
    };
    assert_eq!(create(&mut sim, "proxy").unwrap()[0].action, Action::Created);
    let network = plan::find::network(sim.cluster(), "proxy").unwrap().clone();
    assert!(sim.cluster().nodes.values().all(|node| node.attached.contains_key(&network.id)));
    expect![[r#"
        there is a network `proxy` already, of no stack
        hint: choose another name, or use that one: `raftup network inspect` shows it
    "#]]
    .assert_eq(&told(&create(&mut sim, "proxy").unwrap_err()));

    // Two stacks are on it, and it has addresses for both.
    let mut app = one();
    app.networks[0].external = Some("proxy".to_owned());
    let outer = NetworkSpec { external: true, name: Some("proxy".to_owned()), ..NetworkSpec::default() };
    sim.spec.networks = [("default".parse().unwrap(), outer)].into();
    for stack in ["blog", "wiki"] {
        sim.spec.name = stack.parse().unwrap();
        sim.spec.services = [("app".parse().unwrap(), app.clone())].into();
        sim.deploy().unwrap();
        sim.settle();
    }
    let view = plan::networks::view(sim.cluster(), plan::find::network(sim.cluster(), "proxy").unwrap());
    assert_eq!((view.services.join(" "), view.stack), ("blog_app wiki_app".to_owned(), None));
    expect![[r#"
        network `proxy` cannot be removed: service `blog_app` is on it
        hint: `raftup service rm blog_app` first
    "#]]
    .assert_eq(&told(&plan::networks::remove(sim.cluster(), &network, sim.now).unwrap_err()));

    // Nobody takes its name meanwhile.
    let mut third = sim.spec.clone();
    third.name = "third".parse().unwrap();
    third.networks =
        [("x".parse().unwrap(), NetworkSpec { name: Some("proxy".to_owned()), ..NetworkSpec::default() })]
            .into();
    third.services.clear();
    let kept = std::mem::replace(&mut sim.spec, third);
    expect![[r#"
        network `x` has the name `proxy`, which a network of no stack has
        hint: give it another `name`, or join the other one with `external: true`
    "#]]
    .assert_eq(&refused(&mut sim));
    sim.spec = kept;

    // It outlives its users, and goes when it is told to, with what the nodes had of it.
    for stack in ["blog", "wiki"] {
        let (set, _) = plan::stacks::remove(sim.cluster(), stack_of(sim.cluster(), stack), sim.now).unwrap();
        sim.apply(set);
        sim.settle();
    }
    assert_eq!(sim.cluster().networks.len(), 1);
    let network = plan::find::network(sim.cluster(), "proxy").unwrap().clone();
    let (set, _) = plan::networks::remove(sim.cluster(), &network, sim.now).unwrap();
    sim.apply(set);
    sim.settle();
    assert!(sim.cluster().networks.is_empty());
    assert!(sim.cluster().nodes.values().all(|node| node.attached.is_empty() && node.blocks.is_empty()));
    create(&mut sim, "proxy").unwrap();
}

#[test]
fn a_network_of_a_stack_goes_with_its_stack_alone() {
    let mut sim = sim();
    sim.ask("web", &one());
    sim.settle();
    let network = plan::find::network(sim.cluster(), "s_default").unwrap().clone();
    expect![[r#"
        network `s_default` belongs to stack `s`
        hint: remove it from the stack's file and deploy that, or `raftup stack rm s`
    "#]]
    .assert_eq(&told(&plan::networks::remove(sim.cluster(), &network, sim.now).unwrap_err()));
}
