//! The leader's end of one node's session.
//!
//! ```text
//! Resume -> Accepted, Part .. -> Update .. / Status | Applied | Info | Alive (answered by Alive) .. -> either side ends
//! ```
//!
//! Owns: the frames of one session, and how often a node may change what it says of itself. Leaves alone: what is in
//! them.
//! Holds: updates fit onto one another; what a node holds already is not sent; a node that asks whether this leader
//! lives is answered.

use std::time::Duration;

use raftup_proto::{
    api::NodeState,
    codec,
    id::NodeId,
    peer::{Down, Hello, NodeInfo, Up},
    refusal::{Code, Refusal},
    view::{Digests, Revision, ViewPart},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    compute,
    net::{Caller, FrameError, Peer, Receiver, Sender, Stream},
    plan::{claims, nodes},
};

use super::{
    reign::Reign,
    views::{Differing, News},
};

/// Bytes of a part of a view: little enough that one is whole soon on a slow link, and much enough that there are few.
const PART_BYTES: u64 = 64 << 10;

/// How long a node may take for its first frame.
const START_LIMIT: Duration = Duration::from_secs(5);

/// What a node is told that asks for a session where there is none; `leader` is the one to ask.
pub fn not_leader(leader: Option<Peer>) -> Down {
    leader.map_or(Down::NotLeader(None), |leader| Down::Leader { node: leader.node, addr: leader.addr })
}

/// Serves a session until it ends, and says so in the log.
pub(super) async fn serve(reign: &Reign, caller: Caller, mut stream: Stream) {
    let node = caller.node;
    let cap = Hello::Session.cap();
    let (info, process, held) = match timeout(START_LIMIT, stream.read_frame(Up::CAP)).await {
        Ok(Ok(Up::Resume { info, process, held })) => (claims::bounded(info), process, held),
        Ok(Ok(Up::Start { info, process })) => (claims::bounded(info), process, Digests::UNKNOWN),
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => return debug!(%node, "a session did not begin as it should"),
    };
    match enter(reign, &caller, &info, process).await {
        Ok((token, later)) => {
            let served = async {
                stream.write_frame(&Down::Accepted, cap).await?;
                converse(reign, node, Claim { info, later }, held, stream).await
            };
            let ended = token.run_until_cancelled(served).await;
            reign.sessions.leave(node, &token);
            match ended {
                Some(Ok(())) | None => debug!(%node, "session ended"),
                Some(Err(FrameError::Codec(error))) if reign.sessions.is_new_fault(node, "frames") => {
                    warn!(%node, %error, "a node sent a frame that cannot be read; its session was ended");
                }
                Some(Err(error)) => debug!(%node, %error, "session ended"),
            }
        }
        Err(answer) => {
            info!(%node, ?answer, "a session was refused");
            if let Err(error) = stream.write_frame(&answer, cap).await {
                debug!(%node, %error, "a session was not answered");
            }
        }
    }
}

/// What a node says of itself.
struct Claim {
    info: NodeInfo,
    /// It is taken over then, for the node changes it too often.
    later: Option<Instant>,
}

/// Makes sure that the node may have a session, and notes that it is here. Answers when what it says of itself is taken
/// over, if that was not done.
async fn enter(
    reign: &Reign,
    caller: &Caller,
    info: &NodeInfo,
    process: u64,
) -> Result<(CancellationToken, Option<Instant>), Down> {
    let cluster = reign.store.snapshot();
    if !cluster.nodes.contains_key(&caller.node) {
        // Nobody was removed before the entry that makes the cluster and its first node.
        let begins = cluster.info.is_none();
        return Err(if begins {
            Down::NotLeader(None)
        } else {
            Down::Refused(nodes::was_removed(caller.node))
        });
    }
    let token = reign.sessions.take(caller, process).await.map_err(Down::Refused)?;
    match hear(reign, caller.node, info).await {
        Ok(later) => Ok((token, later)),
        Err(refusal) => {
            reign.sessions.leave(caller.node, &token);
            // Without a quorum this one is about to lead no longer.
            Err(if refusal.code == Code::Forbidden { Down::Refused(refusal) } else { Down::NotLeader(None) })
        }
    }
}

/// Notes that the node is here, and what it says of itself unless it changes that too often. Answers when it may.
async fn hear(reign: &Reign, node: NodeId, info: &NodeInfo) -> Result<Option<Instant>, Refusal> {
    let cluster = reign.store.snapshot();
    let old = cluster.nodes.get(&node).ok_or_else(|| nodes::was_removed(node))?;
    let (accepted, unaccepted) = claims::update(&cluster, old, info);
    let changes = accepted != old.info || unaccepted != old.unaccepted;
    let later = if changes { reign.sessions.claim(node).err() } else { None };
    let info = Some(info).filter(|_| changes && later.is_none());
    if info.is_some() || old.state != NodeState::Ready {
        let heard = |cluster: &_, now| Ok((nodes::heard(cluster, node, info, now)?, ()));
        reign.store.change(heard).await?;
    }
    Ok(later)
}

async fn converse(
    reign: &Reign,
    node: NodeId,
    claim: Claim,
    held: Digests,
    stream: Stream,
) -> Result<(), FrameError> {
    let (sender, receiver) = stream.split();
    let asked = Notify::new();
    // Each side owns its half; whichever ends first ends the session with the other.
    tokio::select! {
        ended = tell(reign, node, held, sender, &asked) => ended,
        ended = listen(reign, node, claim, receiver, &asked) => ended,
    }
}

/// Sends what differs from what the node holds, then what changes, and a sign of life when `asked` for one.
async fn tell(
    reign: &Reign,
    node: NodeId,
    mut held: Digests,
    mut sender: Sender,
    asked: &Notify,
) -> Result<(), FrameError> {
    let cap = Hello::Session.cap();
    let mut editions = reign.views.watch();
    let mut news = News::Behind;
    let mut looked;
    let mut sent = Revision(0);
    let mut refused = Vec::new();
    loop {
        match news {
            News::Removed => {
                return sender.write_frame(&Down::Refused(nodes::was_removed(node)), cap).await;
            }
            News::Behind => match compute::in_place(|| reign.views.differing(node, &held)) {
                Some(differing) => {
                    (looked, sent) = (differing.generation, differing.generation);
                    held = tell_parts(reign, node, differing, &mut sender).await?;
                }
                None => {
                    news = News::Removed;
                    continue;
                }
            },
            News::Update(update, digests) => {
                (looked, sent) = (update.generation, update.generation);
                digests.into_iter().for_each(|change| held.flip(change));
                // Noted first: the node may have it in force before the write returns.
                reign.sessions.routes(node, |routes| (routes.sent, routes.looked) = (sent, looked));
                sender.write_frame(&Down::Update(update), cap).await?;
            }
            News::Nothing(revision) => {
                looked = revision;
                reign.sessions.routes(node, |routes| routes.looked = looked);
            }
        }
        let now = not_in_force(reign, node);
        if now != refused {
            refused.clone_from(&now);
            sender.write_frame(&Down::NotInForce(now), cap).await?;
        }
        // A watch loses nothing when a wait on it is dropped.
        loop {
            tokio::select! {
                moved = editions.changed() => match moved {
                    Ok(()) => break,
                    Err(_) => return Ok(()),
                },
                () = asked.notified() => sender.write_frame(&Down::Alive, cap).await?,
            }
        }
        news = reign.views.since(node, looked, sent);
    }
}

/// Sends the buckets that differ, a few at a time; answers what the node holds then.
async fn tell_parts(
    reign: &Reign,
    node: NodeId,
    differing: Differing,
    sender: &mut Sender,
) -> Result<Digests, FrameError> {
    let Differing { generation, buckets, digests } = differing;
    let mut rest = buckets.into_iter().peekable();
    loop {
        let mut part = ViewPart { generation, buckets: Vec::new(), last: false };
        let mut bytes = 0;
        while let Some((bucket, items)) = rest.next_if(|(_, items)| {
            bytes += codec::size(items);
            part.buckets.is_empty() || bytes <= PART_BYTES
        }) {
            part.buckets.push((bucket, items));
        }
        part.last = rest.peek().is_none();
        if part.last {
            // Noted first: the node may have it in force before the write returns.
            reign.sessions.routes(node, |routes| (routes.sent, routes.looked) = (generation, generation));
        }
        let last = part.last;
        sender.write_frame(&Down::Part(part), Hello::Session.cap()).await?;
        if last {
            return Ok(digests);
        }
    }
}

/// What the node says of itself and is not in force.
fn not_in_force(reign: &Reign, node: NodeId) -> Vec<String> {
    let world = reign.views.world();
    let node = world.cluster().nodes.get(&node);
    node.map(|node| claims::problems(world.cluster(), node)).unwrap_or_default()
}

/// Takes in what the node says; `claim` is what it last said of itself.
async fn listen(
    reign: &Reign,
    node: NodeId,
    mut claim: Claim,
    mut receiver: Receiver,
    asked: &Notify,
) -> Result<(), FrameError> {
    loop {
        // A half-read frame stays in the receiver when a wait on it is dropped.
        let up = tokio::select! {
            up = receiver.read_frame(Up::CAP) => Some(up?),
            () = sleep_until(claim.later.unwrap_or_else(Instant::now)), if claim.later.is_some() => None,
        };
        if up.is_some() {
            reign.sessions.heard(node);
        }
        let mut news = up.is_none() || is_down(reign, node);
        match up {
            None => {}
            Some(Up::Alive) => asked.notify_one(),
            Some(Up::Status(reports)) => {
                let foreign = reign.reports.add(reign.views.world().cluster(), node, reports);
                if foreign > 0 && reign.sessions.is_new_fault(node, "reports for tasks of other nodes") {
                    warn!(%node, tasks = foreign, "a node reports for tasks of other nodes; that is ignored");
                }
            }
            Some(Up::Applied(revision)) => {
                reign.sessions.routes(node, |routes| routes.applied = routes.applied.max(revision));
            }
            Some(Up::Info(info)) => {
                claim.info = claims::bounded(info);
                // While a change waits for its time, the newest one takes its place.
                news = claim.later.is_none();
            }
            Some(Up::Start { .. } | Up::Resume { .. }) => return Ok(()),
        }
        if news {
            match hear(reign, node, &claim.info).await {
                Ok(later) => claim.later = later,
                Err(reason) => {
                    // It is said again at the next session.
                    debug!(%node, %reason, "what a node says of itself was not noted");
                    return Ok(());
                }
            }
        }
    }
}

/// The node was paused for so long that it was given up, and goes on in the same session.
fn is_down(reign: &Reign, node: NodeId) -> bool {
    let world = reign.views.world();
    world.cluster().nodes.get(&node).is_some_and(|node| node.state == NodeState::Down)
}
