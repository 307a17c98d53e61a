//! What is wrong in the cluster and does not pass by itself, one line a matter.
//!
//! Owns: which matters those are. Leaves alone: what a node finds of itself (`node`), and reasons that pass: a task that
//! starts is no problem.

use raftup_proto::api::{Availability, NodeState, UpdateState};

use crate::model::{Cluster, Service};

use super::{claims, ports, quorum, show};

/// Everything that somebody should look at: of the cluster, then of nodes, then of services. Cost: as a list of services.
pub fn problems(cluster: &Cluster) -> Vec<String> {
    let mut lines: Vec<String> = managers(cluster).into_iter().collect();
    for node in cluster.nodes.values() {
        let name = &node.info.hostname;
        if node.state == NodeState::Down && node.availability != Availability::Drain {
            let why = node.state_message.as_deref().unwrap_or("not heard of");
            lines.push(format!("node {} ({name}) is down: {why}", node.id));
        }
        // A port that a node does not answer on is told with the service.
        let own = claims::problems(cluster, node);
        lines.extend(own.into_iter().map(|problem| format!("node {} ({name}): {problem}", node.id)));
    }
    let mut services: Vec<_> = cluster.services.values().filter(|service| !service.removing).collect();
    services.sort_by_key(|service| service.full_name());
    for service in services {
        let name = service.full_name();
        let all = of_service(cluster, service);
        lines.extend(all.into_iter().map(|problem| format!("service {name}: {problem}")));
    }
    lines
}

/// Fewer nodes hold the state than could.
fn managers(cluster: &Cluster) -> Option<String> {
    let have = cluster.nodes.values().filter(|node| node.membership.is_some()).count();
    let all = cluster.nodes.values().filter(|node| node.state == NodeState::Ready).count();
    let wanted = quorum::size_of(cluster, all);
    if have >= wanted {
        return None;
    }
    let demoted: Vec<_> = cluster
        .nodes
        .values()
        .filter(|node| node.pinned == Some(false) && node.state == NodeState::Ready)
        .map(|node| format!("{} ({})", node.id, node.info.hostname))
        .collect();
    let plural = if have == 1 { "manager holds" } else { "managers hold" };
    let why = match demoted.is_empty() {
        true => "add managers with the token of `raftup token`".to_owned(),
        false => format!("`raftup node promote NODE` lets {} be one again", ports::listed(&demoted)),
    };
    Some(format!("{have} {plural} the state, {wanted} would be safer with {all} nodes ready: {why}"))
}

fn of_service(cluster: &Cluster, service: &Service) -> Vec<String> {
    let stands = |state: UpdateState| state.is_paused();
    let update = service.rollout.as_ref().filter(|rollout| stands(rollout.status.state));
    let update = update.map(|rollout| rollout.status.message.clone());
    update
        .into_iter()
        .chain(service.waiting.iter().cloned())
        .chain(show::problems(cluster, service))
        .collect()
}
