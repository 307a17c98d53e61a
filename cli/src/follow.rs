//! Watching a change until it is there, will not get there, or the user has seen enough.
//!
//! Owns: reconnecting, the time limit, Ctrl-C. Leaves alone: how it is shown ([`Board`]) and whether it succeeds,
//! which the daemon decides. Holds: watching changes nothing in the cluster; a stream that breaks (the daemon was
//! restarted, the leader changed) is asked for again until [`LOST_MAX`] has passed without a word.

use std::{cell::RefCell, time::Duration};

use futures_util::future::try_join_all;
use raftup_proto::{
    api::{AskedVersion, Deployed, Outcome, Progress, ServiceProgress},
    refusal::{Code, Refusal},
    view::Revision,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    args::Limit,
    client::{Client, Path},
    failure::Failure,
    show::{self, Board},
};

/// Longest time without a word from the daemon.
const LOST_MAX: Duration = Duration::from_secs(30);
/// Pause before the first new attempt; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A stack was deployed.
    Deploy,
    /// A service was scaled.
    Scale,
    /// A service was changed.
    Update,
    /// A service was rolled back.
    Rollback,
    /// A node is being emptied.
    Drain,
    /// A stack was removed.
    Removal,
}

impl Kind {
    /// What it was done to, as the API's query has it.
    fn noun(self) -> &'static str {
        match self {
            Self::Deploy | Self::Removal => "stack",
            Self::Scale | Self::Update | Self::Rollback => "service",
            Self::Drain => "node",
        }
    }

    fn act(self) -> &'static str {
        match self {
            Self::Deploy => "the deploy",
            Self::Scale => "the scaling",
            Self::Update => "the update",
            Self::Rollback => "the rollback",
            Self::Drain => "the draining",
            Self::Removal => "the removal",
        }
    }
}

/// A change that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// What kind it is.
    pub(crate) kind: Kind,
    /// The name of the stack or service.
    pub(crate) name: String,
    /// The state that holds it.
    pub(crate) revision: Revision,
    /// The versions that it asked for; it fails if others take their place.
    pub(crate) versions: Vec<AskedVersion>,
}

impl Change {
    /// The change that was answered with `deployed`.
    pub(crate) fn of(kind: Kind, name: String, deployed: &Deployed) -> Self {
        let versions = deployed.changes.iter().filter_map(|change| change.version).collect();
        Self { kind, name, revision: deployed.revision, versions }
    }

    fn path(&self) -> Path {
        let versions: Vec<String> = self.versions.iter().map(ToString::to_string).collect();
        Path::new(["progress"])
            .query(self.kind.noun(), &self.name)
            .query("revision", &self.revision.to_string())
            .query_some("versions", Some(versions.join(",").as_str()).filter(|versions| !versions.is_empty()))
    }

    /// The command that shows how it stands.
    fn look(&self) -> String {
        match self.kind {
            Kind::Deploy => format!("`raftup stack ps {}`", self.name),
            Kind::Scale | Kind::Update | Kind::Rollback => format!("`raftup service ps {}`", self.name),
            Kind::Drain => format!("`raftup node ps {}`", self.name),
            Kind::Removal => "`raftup stack ls`".to_owned(),
        }
    }

    fn done(&self, services: &[ServiceProgress]) -> String {
        let complete: u32 = services.iter().map(|service| service.complete).sum();
        let tasks = services.iter().map(|service| service.running).sum::<u32>().saturating_sub(complete);
        let tasks = counted(tasks as usize, "task");
        let complete = match complete {
            0 => String::new(),
            1 => "; 1 task is complete".to_owned(),
            many => format!("; {many} tasks are complete"),
        };
        match self.kind {
            Kind::Deploy => {
                let services = counted(services.len(), "service");
                format!("stack `{}` runs: {tasks} of {services}{complete}", self.name)
            }
            Kind::Scale | Kind::Update | Kind::Rollback => {
                format!("service `{}` runs: {tasks}{complete}", self.name)
            }
            Kind::Drain => format!("node `{}` runs nothing any more", self.name),
            Kind::Removal => format!("stack `{}` is gone", self.name),
        }
    }

    fn failed(&self, reason: &str, services: &[ServiceProgress]) -> Refusal {
        let is_named =
            |service: &&ServiceProgress| reason.starts_with(&format!("service `{}`", service.name));
        let named = services.iter().find(is_named);
        let behind = named.or_else(|| services.iter().find(|service| service.running < service.desired));
        let what = format!("{} of {} `{}` failed: {reason}", self.kind.act(), self.kind.noun(), self.name);
        Refusal::new(Code::Failed, what).hint(match (self.kind, behind) {
            (Kind::Deploy | Kind::Scale | Kind::Update | Kind::Rollback, Some(service)) => {
                let name = &service.name;
                format!(
                    "`raftup service ps {name}` shows the last attempts and why they ended; `raftup service update \
                     --force {name}` tries again"
                )
            }
            (Kind::Drain, _) => {
                format!("{} shows what stays; it stays as it is until a node can take it", self.look())
            }
            (Kind::Deploy | Kind::Scale | Kind::Update | Kind::Rollback, None) | (Kind::Removal, _) => {
                format!("{} shows how it stands", self.look())
            }
        })
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Watches `changes`, all of the same kind, until each is done.
///
/// Errors: one of them failed, the time is over, the daemon cannot be reached any more, or Ctrl-C.
pub(crate) async fn follow(client: &Client, changes: &[Change], limit: Limit) -> Result<(), Failure> {
    let Some(first) = changes.first() else { return Ok(()) };
    let board = RefCell::new(Board::stderr(matches!(first.kind, Kind::Removal | Kind::Drain)));
    let all =
        try_join_all(changes.iter().enumerate().map(|(index, change)| watch(client, index, change, &board)));
    // Cancel-safe: whatever is dropped here only looked on.
    let ended = tokio::select! {
        ended = all => ended.map_err(Failure::from),
        () = over(limit) => Err(late(first, limit).into()),
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::Interrupted(goes_on(first))),
    };
    board.into_inner().close();
    for End { text, problems } in ended? {
        show::note(text);
        problems.iter().for_each(show::warning);
    }
    Ok(())
}

/// What there is to say of a change that is done.
struct End {
    text: String,
    /// What does not work all the same, one line a matter.
    problems: Vec<String>,
}

impl End {
    fn of(change: &Change, services: &[ServiceProgress]) -> Self {
        let of = |service: &ServiceProgress| {
            let name = service.name.clone();
            service.problems.clone().into_iter().map(move |problem| format!("{name}: {problem}"))
        };
        Self { text: change.done(services), problems: services.iter().flat_map(of).collect() }
    }
}

async fn over(limit: Limit) {
    match limit.0 {
        Some(limit) => sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn late(change: &Change, limit: Limit) -> Refusal {
    let after = limit.0.unwrap_or_default();
    let what = format!("{} of {} `{}`", change.kind.act(), change.kind.noun(), change.name);
    Refusal::new(Code::Failed, format!("{what} is not done after {after:?}; it goes on in the background"))
        .hint(format!("{} shows how it stands, `--timeout` waits longer", change.look()))
}

fn goes_on(change: &Change) -> String {
    format!("not watched any more; {} goes on, and {} shows how it stands", change.kind.act(), change.look())
}

/// Watches one change to its end.
async fn watch(
    client: &Client,
    index: usize,
    change: &Change,
    board: &RefCell<Board>,
) -> Result<End, Refusal> {
    let mut contact = Contact::default();
    loop {
        let refusal = match attempt(client, index, change, board, &mut contact).await {
            Ok(end) => return end,
            Err(refusal) => refusal,
        };
        match refusal.code {
            Code::NotFound if change.kind == Kind::Removal => return Ok(End::of(change, &[])),
            Code::NotFound if change.kind != Kind::Drain => {
                return Err(change.failed("it was removed meanwhile", &[]));
            }
            Code::Unavailable => {
                contact.lost(refusal, board).await.map_err(|refusal| refusal.hint(goes_on(change)))?;
            }
            Code::Invalid
            | Code::NotFound
            | Code::Conflict
            | Code::Forbidden
            | Code::Failed
            | Code::Internal => return Err(refusal),
        }
    }
}

/// Follows one stream. The inner result is how the change ended; the outer error, how the stream did without that.
async fn attempt(
    client: &Client,
    index: usize,
    change: &Change,
    board: &RefCell<Board>,
    contact: &mut Contact,
) -> Result<Result<End, Refusal>, Refusal> {
    let mut lines = client.stream::<Progress>(change.path()).await?;
    while let Some(Progress { services, outcome }) = lines.next().await? {
        contact.made();
        board.borrow_mut().update(index, &services);
        match outcome {
            Outcome::Running => {}
            Outcome::Done => return Ok(Ok(End::of(change, &services))),
            Outcome::Failed { reason } => return Ok(Err(change.failed(&reason, &services))),
        }
    }
    Err(Refusal::new(Code::Unavailable, "raftupd stopped telling how it stands"))
}

/// Whether the daemon was heard of.
#[derive(Default)]
struct Contact {
    /// When to give up, and the next pause; none while it is heard of.
    lost: Option<(Instant, Duration)>,
}

impl Contact {
    fn made(&mut self) {
        self.lost = None;
    }

    /// Waits before the next attempt. There is no event to wait for: the socket may not even exist.
    ///
    /// Errors: it is too long since the daemon was heard of.
    async fn lost(&mut self, refusal: Refusal, board: &RefCell<Board>) -> Result<(), Refusal> {
        let (deadline, pause) = match self.lost {
            Some(lost) => lost,
            None => {
                let seconds = LOST_MAX.as_secs();
                board.borrow_mut().note(&format!("trying again for {seconds} s: {refusal}"));
                (Instant::now() + LOST_MAX, PAUSE_MIN)
            }
        };
        if Instant::now() >= deadline {
            return Err(refusal);
        }
        sleep_until(deadline.min(Instant::now() + pause)).await;
        self.lost = Some((deadline, PAUSE_MAX.min(pause * 2)));
        Ok(())
    }
}
