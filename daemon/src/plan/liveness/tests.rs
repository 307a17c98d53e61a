//! Who is suspected, from literals.

use std::sync::Arc;

use raftup_proto::unit::UnixMillis;

use super::*;
use crate::plan::{init, nodes};

/// Three nodes that are ready; the first one leads.
fn three() -> Cluster {
    let sim = crate::plan::tests::three_nodes();
    assert!(sim.nodes.values().all(|node: &Arc<_>| node.state == NodeState::Ready));
    sim
}

fn unheard_for(alive: bool) -> Duration {
    if alive { Duration::ZERO } else { Duration::from_secs(5) }
}

fn evidence(gossip: [bool; 2], quiet_ms: [Option<u64>; 2]) -> Evidence {
    let (second, third) = (NodeId::new(2), NodeId::new(3));
    let quiet = [second, third].into_iter().zip(quiet_ms);
    Evidence {
        here: Some(init::FIRST_NODE),
        led_for: Duration::from_secs(60),
        impaired: false,
        gossip: [second, third].into_iter().zip(gossip.map(unheard_for)).collect(),
        quiet: quiet.filter_map(|(id, ms)| Some((id, Duration::from_millis(ms?)))).collect(),
    }
}

#[test]
fn both_must_be_silent() {
    let cluster = three();
    let calm = Some(SESSION_QUIET + HEARSAY);
    assert_eq!(suspects(&cluster, &evidence([true, true], [Some(0), Some(0)])), (vec![], calm));
    let later = Some(HEARSAY);
    assert_eq!(suspects(&cluster, &evidence([true, true], [Some(2000), Some(0)])), (vec![], later));
    let soon = Some(Duration::from_millis(500));
    assert_eq!(suspects(&cluster, &evidence([true, false], [Some(0), Some(1500)])), (vec![], soon));
    assert_eq!(
        suspects(&cluster, &evidence([true, false], [Some(0), Some(2000)])),
        (vec![NodeId::new(3)], calm)
    );
}

#[test]
fn gossip_cannot_prevent_a_probe() {
    let (cluster, second) = (three(), NodeId::new(2));
    let forged = |quiet| suspects(&cluster, &evidence([true, true], [quiet, Some(0)])).0;
    assert_eq!(forged(Some(4999)), []);
    assert_eq!(forged(Some(5000)), [second]);
    let mut never_here = evidence([true, true], [None, Some(0)]);
    assert_eq!(suspects(&cluster, &never_here).0, [second]);
    never_here.led_for = ELECTION_GRACE;
    assert_eq!(suspects(&cluster, &never_here), (vec![], Some(HEARSAY)));
}

#[test]
fn gossip_cannot_prolong_the_grace_of_a_node_without_its_daemon() {
    let second = NodeId::new(2);
    let mut forged = evidence([true, true], [None, Some(0)]);
    forged.led_for = DAEMON_GRACE - Duration::from_secs(1);
    assert!(!is_without_daemon(&forged, second));
    forged.led_for = DAEMON_GRACE;
    assert!(is_without_daemon(&forged, second));
}

#[test]
fn a_new_leader_takes_gossips_word_after_its_grace() {
    let cluster = three();
    let mut evidence = evidence([true, false], [Some(0), None]);
    evidence.led_for = Duration::from_millis(1000);
    assert_eq!(suspects(&cluster, &evidence), (vec![], Some(Duration::from_millis(500))));
    evidence.led_for = ELECTION_GRACE;
    let calm = Some(SESSION_QUIET + HEARSAY);
    assert_eq!(suspects(&cluster, &evidence), (vec![NodeId::new(3)], calm));
    evidence.impaired = true;
    assert_eq!(suspects(&cluster, &evidence), (vec![], calm));
}

#[test]
fn the_grace_of_a_node_without_its_daemon_goes_on_under_the_next_leader() {
    let third = NodeId::new(3);
    let mut evidence = evidence([true, false], [Some(0), None]);
    evidence.led_for = ELECTION_GRACE;
    assert!(!is_without_daemon(&evidence, third));
    evidence.gossip.insert(third, DAEMON_GRACE);
    assert!(is_without_daemon(&evidence, third));
    evidence.quiet.insert(third, SESSION_QUIET);
    assert!(!is_without_daemon(&evidence, third), "it was heard since, in a session");
}

#[test]
fn only_ready_nodes_are_suspected_and_only_heard_ones_are_asked() {
    let cluster = three();
    let evidence = evidence([true, false], [Some(0), Some(5000)]);
    let third = NodeId::new(3);
    assert_eq!(witnesses(&cluster, &evidence, third, 2), vec![NodeId::new(2)]);
    let set = nodes::down(&cluster, third, "silent", UnixMillis(5));
    let after = crate::store::apply(&cluster, cluster.revision.0 + 1, &set).unwrap();
    assert_eq!(suspects(&after, &evidence), (vec![], Some(SESSION_QUIET + HEARSAY)));
}
