//! What `raftup doctor` looks at: each node, and each pair of nodes.
//!
//! Owns: the checks, one function each, and what to do where one fails. Leaves alone: mending anything. Holds: nothing on
//! the host is changed by a look (two devices are made and removed at once); nobody has to be in a cluster for the half
//! that is about a node alone.
//!
//! [`examine`] is what a node finds by itself; [`round`] asks all nodes for that.

pub(in crate::node) mod disk;
mod firewall;
mod inside;
mod kernel;
mod local;
mod pairs;
mod programs;
mod resolvers;
mod settings;

use std::{sync::Arc, time::Duration};

use firewall::Proof;
use futures_util::future::join_all;
use raftup_proto::{
    api::{Finding, Health},
    peer::{Reply, Request},
    unit::UnixMillis,
    view::PeerItem,
};

use super::{host, lifecycle::Host};
use crate::{
    api::{Lifecycle, Member},
    net::{Peer, ca},
};

pub(super) use kernel::unfit;

/// How long another node may take to look at itself and at its ways to all others.
const LIMIT: Duration = Duration::from_secs(20);

/// Difference of two clocks from which on logs of two hosts are hard to read together.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// What this node finds of itself and of its ways to the others.
pub(super) async fn examine(host: &Host) -> Vec<Finding> {
    let member = Lifecycle::member(host);
    let (kernel, local, pairs, inside, resolvers) = tokio::join!(
        kernel::look(member.as_deref()),
        local::look(host, member.as_deref()),
        pairs::look(member.as_deref()),
        inside::look(host, member.as_deref()),
        resolvers::look(),
    );
    let ways = || pairs.iter().chain(&inside);
    let firewalls = firewall::look(host.ports(), proof(ways)).await;
    let mut findings: Vec<Finding> = kernel
        .into_iter()
        .chain(local)
        .chain(resolvers)
        .chain(firewalls)
        .chain(pairs)
        .chain(inside)
        .collect();
    let told = Lifecycle::problems(host).into_iter();
    findings.extend(told.map(status));
    let name = host::hostname();
    findings.iter_mut().for_each(|finding| finding.node.clone_from(&name));
    findings
}

/// A problem that `raftup status` shows on this node.
fn status(problem: String) -> Finding {
    let is_copy = problem.contains("identity is in use elsewhere");
    let finding = Finding::problem("status", problem, "docs/troubleshooting.md says more");
    if is_copy {
        return Finding {
            next: Some(
                "if this is the copy: leave, and join anew if it should be a node of its own".to_owned(),
            ),
            ..finding
        }
        .run("raftup leave --force");
    }
    finding
}

/// What was seen to pass, and what was not.
fn proof<'a, I: Iterator<Item = &'a Finding>>(findings: impl Fn() -> I) -> Proof {
    let seen = |check: &str| {
        let mut of_check = findings().filter(|finding| finding.check == check).peekable();
        of_check.peek()?;
        Some(of_check.all(|finding| finding.health == Health::Ok))
    };
    Proof {
        control: seen("control"),
        fabric: seen("fabric"),
        names: seen("names"),
        containers: seen("containers"),
    }
}

/// What all nodes find, by node; this one first.
pub(super) async fn round(host: &Host) -> Vec<Finding> {
    let Some(member) = Lifecycle::member(host) else { return examine(host).await };
    let asked = join_all(others(&member).into_iter().map(|peer| ask(&member, peer)));
    let (mut findings, answers) = tokio::join!(examine(host), asked);
    findings.extend(clocks(&member, &answers));
    findings.extend(answers.into_iter().flat_map(|answer| answer.findings));
    settings::compare_ipv6(&mut findings);
    findings
}

/// The other nodes of the cluster.
fn others(member: &Member) -> Vec<PeerItem> {
    let view = Arc::clone(&member.agent.view().borrow());
    view.peers().filter(|peer| peer.node != member.node).cloned().collect()
}

struct Answered {
    peer: PeerItem,
    /// How far its clock is ahead of ours, in milliseconds; none if it did not answer.
    ahead_ms: Option<i64>,
    findings: Vec<Finding>,
}

async fn ask(member: &Member, peer: PeerItem) -> Answered {
    let to = Peer { node: peer.node, addr: peer.control };
    // One that does not even say that it is there is not waited for.
    let asked = async {
        pairs::probe(member, &peer).await?;
        member.net.call_within(LIMIT, to, Request::Examine).await
    };
    match asked.await {
        Ok(Reply::Examined { now, findings }) => {
            Answered { peer, ahead_ms: Some(ahead(now, ca::now())), findings }
        }
        Ok(
            Reply::Done
            | Reply::Probed { .. }
            | Reply::Certificate { .. }
            | Reply::Credential(_)
            | Reply::Blob(_),
        ) => Answered { peer, ahead_ms: None, findings: Vec::new() },
        Err(error) => {
            let next = "start raftupd there if it does not run (`systemctl status raftupd`); if it runs, run `raftup doctor` on \
                that host as well";
            let finding = Finding::problem("doctor", format!("cannot be asked: {error}"), next);
            let finding = Finding { node: peer.hostname.clone(), ..finding.run("systemctl start raftupd") };
            Answered { peer, ahead_ms: None, findings: vec![finding] }
        }
    }
}

fn ahead(there: UnixMillis, here: UnixMillis) -> i64 {
    i64::try_from(there.0).unwrap_or(i64::MAX).saturating_sub(i64::try_from(here.0).unwrap_or(i64::MAX))
}

/// How each node's clock stands beside the leader's.
fn clocks(member: &Member, answers: &[Answered]) -> Vec<Finding> {
    let others =
        answers.iter().filter_map(|answer| Some((answer.peer.node, &answer.peer.hostname, answer.ahead_ms?)));
    let (own, leader) = (host::hostname(), *member.leader.borrow());
    let all: Vec<_> = std::iter::once((member.node, &own, 0)).chain(others).collect();
    let Some(leading) = all.iter().find(|(node, ..)| leader.is_some_and(|leader| leader.node == *node))
    else {
        return Vec::new();
    };
    let beside = all.iter().filter(|(node, ..)| *node != leading.0);
    beside.map(|(_, name, ahead)| Finding { node: (*name).clone(), ..clock(ahead - leading.2) }).collect()
}

fn clock(ahead_ms: i64) -> Finding {
    let apart = Duration::from_millis(ahead_ms.unsigned_abs());
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    let found = format!("{:.1} s {side} the leader's", apart.as_secs_f64());
    if apart < CLOCKS_DIFFER {
        return Finding::fine("clock", found);
    }
    Finding::warning("clock", found, "keep all clocks by NTP").run("timedatectl set-ntp true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        assert_eq!(clock(-999), Finding::fine("clock", "1.0 s behind the leader's"));
        let far = clock(90_000);
        assert_eq!((far.health, far.found.as_str()), (Health::Warning, "90.0 s ahead of the leader's"));
        assert_eq!(ahead(UnixMillis(5), UnixMillis(7)), -2);
    }
}
