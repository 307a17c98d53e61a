//! Scenarios as text, and random walks, over the real plan and the real apply.

mod bench;
mod random;
mod scenarios;
mod script;
mod sim;

/// Three nodes that are ready.
pub(super) fn three_nodes() -> crate::model::Cluster {
    let memory = raftup_proto::unit::MemBytes(1 << 30);
    let mut sim = sim::Sim::new("ant", memory, "10.64.0.0/11");
    sim.join("bee", memory);
    sim.join("cow", memory);
    sim.cluster().clone()
}

/// A network has 124 blocks for nodes; the task on the next node waits, and says why.
#[test]
fn blocks_run_out() {
    let memory = raftup_proto::unit::MemBytes(1 << 30);
    let mut sim = sim::Sim::new("ant", memory, "10.64.0.0/11");
    (0..124).for_each(|n| _ = sim.join(&format!("node-{n}"), memory));
    let global = sim::service("app", raftup_proto::spec::Mode::Global);
    sim.spec.services.insert("log".parse().unwrap(), global);
    sim.deploy().unwrap();
    sim.settle();
    let service = &sim.cluster().services[&sim.find("log")];
    assert_eq!(
        service.waiting,
        [
            "node n125: no address on network `s_default`: its addresses (10.64.32.0/19) are all given to nodes"
        ]
    );
}
