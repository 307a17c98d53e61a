//! Who the members of Raft are, and how that is changed. One change at a time: only `control::quorum` calls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use openraft::{ChangeMembers, ServerState, async_runtime::WatchReceiver};
use raftup_proto::id::NodeId;
use tokio::time::timeout;
use tracing::info;

use super::{raft::Store, types::Site};

/// A learner is a voter's equal once it is no more than this many entries behind.
const CAUGHT_UP: u64 = 64;

/// Longest wait for a change of members. Two entries on disks whose syncs take seconds are within it; one that hangs must
/// not keep others from being decided, such as that a node may leave.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

/// Longest wait for another manager to take over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// A member that answered within this time can take over.
const LIVELY: Duration = Duration::from_secs(1);

/// One member of Raft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub site: Site,
    /// It has a vote; else it only learns.
    pub voter: bool,
    /// It has (nearly) all entries. Known on the leader alone.
    pub caught_up: bool,
    /// Why it was turned away, if it was.
    pub declined: Option<String>,
}

/// All members of Raft, by their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Them.
    pub members: BTreeMap<u64, Member>,
    /// This process's own number.
    pub me: u64,
    /// A change has begun and is not finished.
    pub changing: bool,
    /// Numbers whose storage was lost, restored from a copy, or went backwards.
    pub lost: BTreeSet<u64>,
}

impl Store {
    /// Who the members are.
    pub fn members(&self) -> Members {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        let stored = metrics.membership_config;
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let declined = inner.office.peers.declined();
        let me = inner.office.me.member;
        let has_all = |member: u64| {
            let replication = metrics.replication.as_ref();
            let matched = replication.and_then(|all| all.get(&member)).and_then(|matched| matched.as_ref());
            let behind = metrics.last_log_index.unwrap_or(0).saturating_sub(matched.map_or(0, |id| id.index));
            member == me || (matched.is_some() && behind <= CAUGHT_UP)
        };
        let member = |(id, site): (&u64, &Site)| {
            let declined = declined.get(id).map(ToString::to_string);
            let member =
                Member { site: *site, voter: voters.contains(id), caught_up: has_all(*id), declined };
            (*id, member)
        };
        Members {
            members: stored.nodes().map(member).collect(),
            me,
            lost: declined.iter().filter(|(_, why)| why.is_lost()).map(|(member, _)| *member).collect(),
            changing: stored.get_joint_config().len() > 1 || *metrics.committed_membership_config != *stored,
        }
    }

    /// Lets a member learn: it is sent the state and all entries, and has no vote. Leader only.
    pub async fn add_learner(&self, member: u64, site: Site) -> anyhow::Result<()> {
        info!(node = %site.node, member, "a manager begins to learn");
        self.reconfigure(ChangeMembers::AddNodes(BTreeMap::from([(member, site)])), true).await
    }

    /// Says where a member is reached from now on. Leader only.
    pub async fn move_member(&self, member: u64, node: NodeId, addr: SocketAddr) -> anyhow::Result<()> {
        let site = Site { node, addr };
        self.reconfigure(ChangeMembers::SetNodes(BTreeMap::from([(member, site)])), true).await
    }

    /// Gives the vote to these members alone; voters that are not among them are no members any more. Leader only, and
    /// only with itself among them.
    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> anyhow::Result<()> {
        if !voters.contains(&self.inner.office.me.member) {
            bail!("a leader hands over before it is removed");
        }
        info!(?voters, "the voters change");
        self.reconfigure(ChangeMembers::ReplaceAllVoters(voters), false).await
    }

    /// Removes a member that has no vote. Leader only.
    pub async fn remove_learner(&self, member: u64) -> anyhow::Result<()> {
        self.reconfigure(ChangeMembers::RemoveNodes(BTreeSet::from([member])), false).await
    }

    /// Finishes a change that an earlier leader began. Leader only.
    pub async fn finish_change(&self) -> anyhow::Result<()> {
        self.reconfigure(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await
    }

    async fn reconfigure(&self, change: ChangeMembers<u64, Site>, retain: bool) -> anyhow::Result<()> {
        let change = self.inner.raft.change_membership(change, retain);
        timeout(CHANGE_LIMIT, self.patiently(change)).await.context("the change of members hangs")???;
        Ok(())
    }

    /// Hands leadership to `to`, or to the voter that has most, and waits until it leads. Does nothing on others than the
    /// leader, and where there is no other voter.
    pub async fn hand_over(&self, to: Option<u64>) -> anyhow::Result<()> {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return Ok(());
        }
        let replication = metrics.replication.unwrap_or_default();
        let now = Instant::now();
        let able = |member: &u64| {
            let silence = inner.office.peers.silence(*member, now);
            *member != inner.office.me.member && silence.is_some_and(|silence| silence < LIVELY)
        };
        let voters = metrics.membership_config.voter_ids().filter(|member| able(member));
        let most = voters.max_by_key(|member| replication.get(member).copied().flatten());
        let Some(to) = to.or(most) else {
            return Ok(());
        };
        info!(member = to, "leadership is handed over");
        inner.raft.trigger().transfer_leader(to).await?;
        let mut servers = inner.raft.server_metrics();
        let taken = async {
            while servers.borrow_watched().current_leader != Some(to) {
                servers.changed().await?;
            }
            anyhow::Ok(())
        };
        timeout(HAND_OVER_LIMIT, taken).await.with_context(|| format!("member {to} did not take over"))?
    }
}
