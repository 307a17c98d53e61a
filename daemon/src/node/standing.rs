//! Whether a caller with a valid certificate is a member, as far as this node can tell.
//!
//! Ids of nodes count upwards and are never used twice. So an id that is missing, although a later one was given out, is
//! that of a removed node for ever, however old the state or view is. An id above all known ones may belong to a node
//! that joined since.

use raftup_proto::{
    id::NodeId,
    peer::Role,
    view::{Key, View},
};

use crate::model::Cluster;

/// What a state or a view says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    Removed,
    /// It joined later, or nothing is known of any node.
    Newer,
}

impl Standing {
    pub(super) fn in_state(cluster: &Cluster, node: NodeId) -> Self {
        let next = cluster.info.as_ref().map_or(0, |info| info.next_node);
        match cluster.nodes.contains_key(&node) {
            true => Self::Member,
            false if node.number() < next => Self::Removed,
            false => Self::Newer,
        }
    }

    pub(super) fn in_view(view: &View, node: NodeId) -> Self {
        match view.items.get_prev(&Key::Peer(NodeId::new(u64::MAX))) {
            _ if view.items.contains_key(&Key::Peer(node)) => Self::Member,
            Some((Key::Peer(last), _)) if node < *last => Self::Removed,
            Some(_) | None => Self::Newer,
        }
    }
}

/// What this node knows when it is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// By the replicated state, on a manager.
    pub(super) state: Option<Standing>,
    /// By the view.
    pub(super) view: Standing,
    /// The view names no node at all.
    pub(super) blank: bool,
    /// A session with the leader stands: the view is as new as can be.
    pub(super) in_session: bool,
}

impl Known {
    /// Whether a caller of that role is served. One that is not known is a member by its certificate; without the state,
    /// the newest node of all could also have been removed, which a view that is up to date rules out.
    pub(super) fn may(self, role: Role) -> bool {
        match (self.state, self.view) {
            (Some(Standing::Removed), _) | (_, Standing::Removed) => false,
            (Some(Standing::Member), _) | (_, Standing::Member) => true,
            (_, Standing::Newer) if self.blank => true,
            (Some(Standing::Newer), Standing::Newer) => role == Role::Manager,
            (None, Standing::Newer) => role == Role::Manager && !self.in_session,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::ClusterInfo,
        plan::{World, view},
        store::sample,
    };

    /// Nodes 1, 2 and 4; node 3 was removed, and the next one is node `next`.
    fn cluster(next: u64) -> Cluster {
        let mut cluster = Cluster {
            info: Some(Arc::new(ClusterInfo { next_node: next, ..sample::info() })),
            ..Cluster::default()
        };
        for number in [1, 2, 4] {
            cluster.nodes.insert(NodeId::new(number), Arc::new(sample::node(number)));
        }
        cluster
    }

    #[test]
    fn removed_nodes_are_known_by_their_ids() {
        let of = |next, number| Standing::in_state(&cluster(next), NodeId::new(number));
        assert_eq!((of(5, 2), of(5, 3), of(5, 5)), (Standing::Member, Standing::Removed, Standing::Newer));
        assert_eq!(of(6, 5), Standing::Removed, "the newest node was removed");
        assert_eq!(Standing::in_state(&Cluster::default(), NodeId::new(1)), Standing::Newer);
        let mut held = View::default();
        assert_eq!(Standing::in_view(&held, NodeId::new(1)), Standing::Newer);
        held.update(view::full(&World::new(cluster(6)), NodeId::new(1))).unwrap();
        let of = |number| Standing::in_view(&held, NodeId::new(number));
        assert_eq!((of(4), of(3), of(5)), (Standing::Member, Standing::Removed, Standing::Newer));
    }

    /// A voter that was away does not know the manager that leads now, and must let it in to catch up.
    #[test]
    fn a_manager_that_joined_meanwhile_is_let_in() {
        let away =
            Known { state: Some(Standing::Newer), view: Standing::Newer, blank: false, in_session: false };
        assert!(away.may(Role::Manager) && !away.may(Role::Worker));
        let worker = Known { state: None, ..away };
        assert!(worker.may(Role::Manager));
        assert!(!Known { in_session: true, ..worker }.may(Role::Manager), "its view would name the node");
        assert!(Known { blank: true, state: None, ..away }.may(Role::Worker), "just admitted");
    }

    #[test]
    fn a_removal_that_is_known_counts_whatever_the_rest_says() {
        for (state, view) in [
            (Some(Standing::Removed), Standing::Member),
            (Some(Standing::Member), Standing::Removed),
            (Some(Standing::Removed), Standing::Newer),
            (None, Standing::Removed),
        ] {
            let known = Known { state, view, blank: false, in_session: false };
            assert!(!known.may(Role::Manager) && !known.may(Role::Worker), "{known:?}");
        }
        let newer_view =
            Known { state: Some(Standing::Newer), view: Standing::Member, blank: false, in_session: false };
        assert!(newer_view.may(Role::Worker));
    }
}
