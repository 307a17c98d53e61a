//! This node and its cluster.

use raftup_proto::{
    api::{Membership, NodeState, NodeView, Status},
    id::NodeId,
    refusal::Refusal,
};

use super::{Text, fields::Fields, node};

/// What the daemon says of itself, and of its cluster if it is in one.
pub(crate) fn status(status: &Status, nodes: Option<Result<&[NodeView], &Refusal>>) -> Text {
    let fields = Fields::default().put("Version", &status.version);
    let fields = match &status.member {
        None => fields.put("Cluster", "none (`raftup init` makes one, `raftup join TOKEN` joins one)"),
        Some(member) => cluster(fields, member, nodes),
    };
    let fields = if status.problems.is_empty() {
        fields.put("Problems", "none")
    } else {
        fields.list("Problems", &status.problems)
    };
    fields.render()
}

fn cluster(fields: Fields, member: &Membership, nodes: Option<Result<&[NodeView], &Refusal>>) -> Fields {
    let known = nodes.and_then(Result::ok).unwrap_or_default();
    let name = |id: NodeId| match known.iter().find(|node| node.id == id) {
        Some(node) => format!("{id} ({})", node.hostname),
        None => id.to_string(),
    };
    let role = if member.manager { "manager" } else { "no manager" };
    let fields = fields
        .put("Cluster", member.cluster)
        .put("This node", format!("{}, {role}", name(member.node)))
        .put("Leader", member.leader.map_or_else(|| "none is known".to_owned(), name));
    match nodes {
        None => fields,
        Some(Err(refusal)) => fields.put("Nodes", format!("unknown: {refusal}")),
        Some(Ok(nodes)) => fields.put("Nodes", count(nodes)).list("Managers", managers(nodes)),
    }
}

fn count(nodes: &[NodeView]) -> String {
    let ready = nodes.iter().filter(|node| node.state == NodeState::Ready).count();
    let others = nodes.iter().filter(|node| node.state != NodeState::Ready);
    let others: Vec<String> = others
        .map(|other| format!("{} {}", other.hostname, node::state(other.state).to_lowercase()))
        .collect();
    if others.is_empty() {
        format!("{ready}, all ready")
    } else {
        format!("{ready} of {} ready ({})", nodes.len(), others.join(", "))
    }
}

fn managers(nodes: &[NodeView]) -> impl Iterator<Item = String> {
    let managers = nodes.iter().filter_map(|node| node.manager.map(|manager| (node, manager)));
    managers.map(|(of, state)| format!("{} ({})", of.hostname, node::manager(state).to_lowercase()))
}
