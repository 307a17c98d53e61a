//! What all nodes of the cluster understand, while releases are mixed.
//!
//! A release that adds something which an older one would pass over (a field of a spec, an object, another rule of `apply`)
//! counts [`NEWEST`] up, and writes none of it before the cluster is at that level. The level rises by itself once every node
//! that could be asked to understand it does, and never falls: an older release is then turned away, with what to do.
//!
//! Owns: when the level rises, and who is turned away. Leaves alone: what each level stands for.
//! Holds: a manager counts also while it is down, for it is sent every entry when it is back.

use raftup_proto::{
    api::NodeState,
    peer::{Level, NodeInfo},
    refusal::{Code, Refusal},
    spec::PLACEMENT,
};

use crate::model::{Change, ChangeSet, Cluster, ClusterInfo, Object, ObjectKey};

/// The level that this release understands.
///
/// | level | what came with it |
/// | --- | --- |
/// | 1 | the first |
/// | 2 | options of containers, mounts, networks and volumes, networks of other stacks, ports of the cluster's choice |
/// | 3 | secrets and configs |
/// | 4 | jobs, hooks, slots in order, placement by spread, numbers of tasks, other services and generic resources |
pub const NEWEST: Level = PLACEMENT;

/// The settings with the level that all nodes understand by now, if that is higher than the cluster's.
pub fn raised(cluster: &Cluster) -> Option<ClusterInfo> {
    let info = cluster.info.as_deref()?;
    let counts =
        cluster.nodes.values().filter(|node| node.state != NodeState::Down || node.membership.is_some());
    let level = counts.map(|node| node.info.level).min()?;
    (level > info.level).then(|| ClusterInfo { level, ..info.clone() })
}

/// Adds the level to a set that changes what nodes there are, or what they say of themselves.
pub fn follow(cluster: &Cluster, set: &mut ChangeSet) {
    let mut next = cluster.clone();
    for change in &set.changes {
        match change {
            Change::Update(Object::Node(node)) => drop(next.nodes.insert(node.id, node.clone())),
            Change::Delete(ObjectKey::Node(id), _) => drop(next.nodes.remove(id)),
            Change::Create(_) | Change::Update(_) | Change::Delete(..) => {}
        }
    }
    if let Some(info) = raised(&next) {
        set.update(info);
    }
}

/// Errors: this release does not understand the state, which a newer one wrote.
pub fn check(cluster: &Cluster) -> Result<(), String> {
    match cluster.info.as_deref() {
        Some(info) if info.level > NEWEST => Err(format!(
            "the cluster is at level {}, this raftupd understands up to {NEWEST}: update it to the version of the others",
            info.level
        )),
        Some(_) | None => Ok(()),
    }
}

/// Errors: the node's release does not understand what the cluster has by now.
pub fn admit(cluster: &Cluster, node: &NodeInfo) -> Result<(), Refusal> {
    let level = cluster.info.as_deref().map_or(Level::default(), |info| info.level);
    if node.level >= level {
        return Ok(());
    }
    let what = format!(
        "raftupd {} understands clusters up to level {}, this one is at level {level}",
        node.version, node.level
    );
    Err(Refusal::new(Code::Forbidden, what).hint("update raftupd on this node to the version of the others"))
}

#[cfg(test)]
mod tests {
    use raftup_proto::id::NodeId;

    use super::*;
    use crate::{
        model::{Membership, Node},
        store::{apply, sample},
    };

    fn cluster(nodes: &[(u32, NodeState, bool)]) -> Cluster {
        let mut set = ChangeSet::default();
        set.create(sample::info());
        for (number, (level, state, manager)) in (1..).zip(nodes) {
            let membership = manager.then_some(Membership { member: number });
            let mut node = Node { state: *state, membership, ..sample::node(number) };
            node.info.level = Level(*level);
            set.create(node);
        }
        apply(&Cluster::default(), 1, &set).unwrap()
    }

    fn level(nodes: &[(u32, NodeState, bool)]) -> Option<u32> {
        raised(&cluster(nodes)).map(|info| info.level.0)
    }

    #[test]
    fn the_level_is_that_of_the_oldest_release_that_counts() {
        let (up, down) = (NodeState::Ready, NodeState::Down);
        assert_eq!(level(&[(1, up, true), (1, up, false)]), None);
        assert_eq!(level(&[(3, up, true), (2, up, false)]), Some(2));
        assert_eq!(
            level(&[(3, up, true), (1, down, false)]),
            Some(3),
            "a worker that is down is told when it is back"
        );
        assert_eq!(
            level(&[(3, up, true), (1, down, true)]),
            None,
            "a manager that is down is sent every entry"
        );
    }

    #[test]
    fn an_older_release_is_turned_away_once_the_level_has_risen() {
        let mut cluster = cluster(&[(2, NodeState::Ready, true)]);
        cluster.info = raised(&cluster).map(Into::into);
        assert!(admit(&cluster, &cluster.nodes[&NodeId::new(1)].info).is_ok());
        let old =
            admit(&cluster, &NodeInfo { level: Level(1), ..cluster.nodes[&NodeId::new(1)].info.clone() });
        assert!(old.unwrap_err().hint.unwrap().contains("update raftupd"));
    }
}
