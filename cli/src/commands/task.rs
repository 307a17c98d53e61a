//! `raftup ps`, and the `ps` of stacks, services and nodes.

use raftup_proto::{
    api::TaskView,
    refusal::{Code, Refusal},
};

use crate::{
    args::{Desired, Filter, LongListing, Ps},
    client::{Client, Path},
    failure::Failure,
    show::{self, Look},
};

/// Lists tasks.
pub(super) async fn ps(client: &Client, args: Ps) -> Result<(), Failure> {
    let tasks = fetch(client, args.all, &args.filter).await?;
    print(&tasks, args.listing)
}

/// The tasks that fit, in the daemon's order; `all` has those that ended, too.
pub(super) async fn fetch(client: &Client, all: bool, filter: &[Filter]) -> Result<Vec<TaskView>, Refusal> {
    let wanted = Wanted::new(filter)?;
    let path = Path::new(["tasks"])
        .query_some("stack", wanted.stack)
        .query_some("service", wanted.service)
        .query_some("node", wanted.node);
    let mut tasks: Vec<TaskView> = client.get(path).await?;
    tasks.retain(|task| match wanted.desired {
        Some(Desired::Running) => task.desired,
        Some(Desired::Shutdown) => !task.desired,
        None => all || task.desired || !task.state.is_over(),
    });
    Ok(tasks)
}

/// Prints tasks.
pub(super) fn print(tasks: &[TaskView], listing: LongListing) -> Result<(), Failure> {
    if listing.listing.json {
        return Ok(show::json(&tasks)?);
    }
    if listing.listing.quiet {
        return Ok(show::lines(tasks.iter().map(|task| task.id))?);
    }
    Ok(show::answer(show::tasks(tasks, Look::stdout().full(listing.no_trunc)))?)
}

/// Filters by what they look at, at most one each.
#[derive(Default)]
struct Wanted<'a> {
    stack: Option<&'a str>,
    service: Option<&'a str>,
    node: Option<&'a str>,
    desired: Option<Desired>,
}

impl<'a> Wanted<'a> {
    fn new(filters: &'a [Filter]) -> Result<Self, Refusal> {
        let mut wanted = Self::default();
        for filter in filters {
            let twice = match filter {
                Filter::Stack(name) => wanted.stack.replace(name).is_some(),
                Filter::Service(name) => wanted.service.replace(name).is_some(),
                Filter::Node(name) => wanted.node.replace(name).is_some(),
                Filter::Desired(desired) => wanted.desired.replace(*desired).is_some(),
            };
            if twice {
                return Err(Refusal::new(Code::Invalid, "two filters look at the same thing")
                    .hint("give one of node=, service=, stack= and desired-state= each"));
            }
        }
        Ok(wanted)
    }
}
