//! What is wrong in the cluster and does not pass by itself, one line a matter.
//!
//! Owns: which matters those are. Leaves alone: what a node finds of itself (`node`), and reasons that pass: a task that
//! starts is no problem.

use std::time::Duration;

use raftup_proto::{
    api::{Availability, NodeState, UpdateState},
    unit::UnixMillis,
};

use crate::model::{Cluster, Service};

use super::{claims, ports, quorum, show, start_order};

/// Everything that somebody should look at: of the cluster, then of nodes, then of services. Cost: as a list of services.
///
/// `now` is the cluster's clock.
pub fn problems(cluster: &Cluster, now: UnixMillis) -> Vec<String> {
    let mut lines: Vec<String> = managers(cluster).into_iter().collect();
    for node in cluster.nodes.values() {
        let name = &node.info.hostname;
        if node.state == NodeState::Down && node.availability != Availability::Drain {
            let why = node.state_message.as_deref().unwrap_or("not heard of");
            lines.push(format!("node {} ({name}) is down: {why}", node.id));
        }
        if node.state == NodeState::Ready {
            let engine =
                node.info.platform.engine.is_none().then(|| "Docker Engine does not answer".to_owned());
            let troubles = engine.into_iter().chain(node.info.troubles.iter().cloned());
            lines.extend(troubles.map(|trouble| format!("node {} ({name}): {trouble}", node.id)));
        }
        // A port that a node does not answer on is told with the service.
        let own = claims::problems(cluster, node);
        lines.extend(own.into_iter().map(|problem| format!("node {} ({name}): {problem}", node.id)));
    }
    let mut services: Vec<_> = cluster.services.values().filter(|service| !service.removing).collect();
    services.sort_by_key(|service| service.full_name());
    for service in services {
        let name = service.full_name();
        let all = of_service(cluster, service, now);
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

fn of_service(cluster: &Cluster, service: &Service, now: UnixMillis) -> Vec<String> {
    let stands = |state: UpdateState| state.is_paused();
    let update = service.rollout.as_ref().filter(|rollout| stands(rollout.status.state));
    let update = update.map(|rollout| rollout.status.message.clone());
    update
        .into_iter()
        .chain(
            service
                .waiting
                .iter()
                .filter(|reason| !start_order::passes(reason) || is_overdue(cluster, service, now))
                .cloned(),
        )
        .chain(show::problems(cluster, service))
        .collect()
}

/// How long a service may wait for others of its stack before someone should look: longer than most images take to be pulled
/// and most services to get ready.
const PATIENCE: Duration = Duration::from_secs(300);

/// The current version, or the oldest of its tasks that waits, has waited for that long.
fn is_overdue(cluster: &Cluster, service: &Service, now: UnixMillis) -> bool {
    let waiting = cluster.tasks_of(service.id).filter(|task| task.is_live() && task.node.is_none());
    let since = waiting
        .map(|task| task.meta.created)
        .min()
        .map_or(service.current().at, |oldest| oldest.max(service.current().at));
    now.since(since) >= PATIENCE
}
