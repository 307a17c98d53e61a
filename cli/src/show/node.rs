//! Nodes.

use raftup_proto::{
    api::{Availability, ManagerState, NodeState, NodeView},
    peer::Role,
};

use super::{
    Look, Text,
    fields::Fields,
    table::{Table, Tone, cell},
    time,
};

/// The table of nodes.
pub(crate) fn list(nodes: &[NodeView], look: Look) -> Text {
    let mut table = Table::new([
        "ID",
        "HOSTNAME",
        "STATUS",
        "AVAILABILITY",
        "MANAGER STATUS",
        "ADDRESS",
        "TASKS",
        "ENGINE",
        "VERSION",
    ]);
    for node in nodes {
        let mark = if node.this { " *" } else { "" };
        table.row([
            cell(format!("{}{mark}", node.id), Tone::Plain),
            cell(&node.hostname, Tone::Plain),
            state_cell(node.state),
            availability_cell(node.availability),
            manager_cell(node.manager),
            cell(node.addr.ip(), Tone::Plain),
            cell(node.tasks, Tone::Plain),
            engine_cell(node),
            cell(&node.version, Tone::Plain),
        ]);
    }
    table.render(look)
}

/// What a person should know beside the table: why nodes are not ready, and what two nodes cannot do.
pub(crate) fn notes(nodes: &[NodeView]) -> Vec<String> {
    let away = nodes.iter().filter(|node| node.state != NodeState::Ready);
    let reasons = away.filter_map(|node| Some(format!("{}: {}", node.hostname, node.message.as_ref()?)));
    let problems = |node: &NodeView| {
        let name = node.hostname.clone();
        node.problems.clone().into_iter().map(move |problem| format!("{name}: {problem}"))
    };
    reasons.chain(nodes.iter().flat_map(problems)).chain(two_nodes(nodes)).collect()
}

fn two_nodes(nodes: &[NodeView]) -> Option<String> {
    let mut managers = nodes.iter().filter(|node| node.manager.is_some());
    match (nodes.len(), managers.next(), managers.next()) {
        (2, Some(one), None) => Some(format!(
            "of two nodes one holds the cluster's state: while {} is away nothing can be changed; \
             a third node ends that",
            one.hostname
        )),
        _ => None,
    }
}

/// All there is to know about a node.
pub(crate) fn inspect(node: &NodeView, look: Look) -> Text {
    let platform = &node.platform;
    Fields::default()
        .put("ID", node.id)
        .put("Hostname", &node.hostname)
        .put("Status", state(node.state))
        .some("Reason", node.message.as_ref())
        .list("Problems", &node.problems)
        .put("Availability", availability(node.availability))
        .put("Role", role(node))
        .some("Manager status", node.manager.map(manager))
        .put("Address", node.addr)
        .list("Labels", node.labels.iter().map(|(key, value)| format!("{key}={value}")))
        .put("Tasks", node.tasks)
        .put("Version", &node.version)
        .put("Engine", platform.engine.as_deref().unwrap_or("does not answer"))
        .list("Engine labels", &platform.engine_labels)
        .put("Platform", format!("{}/{}, kernel {}", platform.os, platform.arch, platform.kernel))
        .put("CPUs", platform.cpu)
        .put("Memory", platform.memory)
        .list("Generic resources", platform.generic.iter().map(|(kind, count)| format!("{kind}={count}")))
        .put("Joined", time::exact(look.now, node.created))
        .render()
}

fn role(node: &NodeView) -> &'static str {
    match (node.role, node.pinned) {
        (Role::Worker, _) => "worker",
        (Role::Manager, None) => "manager when the cluster wants it",
        (Role::Manager, Some(true)) => "manager, promoted by hand",
        (Role::Manager, Some(false)) => "no manager, demoted by hand",
    }
}

/// The word for a state.
pub(super) fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::New => "New",
        NodeState::Ready => "Ready",
        NodeState::Down => "Down",
    }
}

fn state_cell(of: NodeState) -> comfy_table::Cell {
    let tone = match of {
        NodeState::New => Tone::Waiting,
        NodeState::Ready => Tone::Plain,
        NodeState::Down => Tone::Bad,
    };
    cell(state(of), tone)
}

fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "Active",
        Availability::Pause => "Pause",
        Availability::Drain => "Drain",
    }
}

fn availability_cell(of: Availability) -> comfy_table::Cell {
    let tone = match of {
        Availability::Active => Tone::Plain,
        Availability::Pause | Availability::Drain => Tone::Waiting,
    };
    cell(availability(of), tone)
}

/// The word for what a node does with the cluster's state.
pub(super) fn manager(manager: ManagerState) -> &'static str {
    match manager {
        ManagerState::Leader => "Leader",
        ManagerState::Reachable => "Reachable",
        ManagerState::Unreachable => "Unreachable",
        ManagerState::Learner => "Learner",
    }
}

fn manager_cell(of: Option<ManagerState>) -> comfy_table::Cell {
    match of {
        None => cell("", Tone::Plain),
        Some(state @ (ManagerState::Leader | ManagerState::Reachable)) => cell(manager(state), Tone::Plain),
        Some(state @ ManagerState::Learner) => cell(manager(state), Tone::Waiting),
        Some(state @ ManagerState::Unreachable) => cell(manager(state), Tone::Bad),
    }
}

fn engine_cell(node: &NodeView) -> comfy_table::Cell {
    match &node.platform.engine {
        Some(version) => cell(version, Tone::Plain),
        None => cell("no answer", Tone::Bad),
    }
}
