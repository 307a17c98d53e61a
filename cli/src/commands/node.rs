//! `raftup node`.

use hyper::Method;
use raftup_proto::{
    api::{Availability, NodeUpdate, NodeView},
    refusal::{Code, Refusal},
    view::Revision,
};

use super::{each, task};
use crate::{
    args::{Listing, NodeCommand, NodeUpdateArgs},
    client::{Client, Path},
    failure::Failure,
    follow::{Change, Kind, follow},
    show::{self, Look, Text},
};

pub(super) async fn run(client: &Client, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::Ls(listing) => list(client, listing).await,
        NodeCommand::Inspect { nodes, json } => inspect(client, &nodes, json).await,
        NodeCommand::Ps { node, listing } => task::ps(client, NodeCommand::ps(node, listing)).await,
        NodeCommand::Rm { nodes, force } => remove(client, &nodes, force).await,
        NodeCommand::Promote { nodes } => pin(client, &nodes, true).await,
        NodeCommand::Demote { nodes } => pin(client, &nodes, false).await,
        NodeCommand::Update(args) => update(client, args).await,
    }
}

async fn list(client: &Client, listing: Listing) -> Result<(), Failure> {
    let nodes: Vec<NodeView> = client.get(Path::new(["nodes"])).await?;
    if listing.json {
        return Ok(show::json(&nodes)?);
    }
    if listing.quiet {
        return Ok(show::lines(nodes.iter().map(|node| node.id))?);
    }
    show::answer(show::nodes(&nodes, Look::stdout()))?;
    show::node_notes(&nodes).iter().for_each(show::note);
    Ok(())
}

async fn inspect(client: &Client, names: &[String], json: bool) -> Result<(), Failure> {
    let nodes = each(names, async |name| {
        let node: NodeView = client.get(Path::new(["nodes", name])).await?;
        Ok(node)
    })
    .await?;
    if json {
        show::json(&nodes.done)?;
    } else {
        let look = Look::stdout();
        let texts: Vec<Text> = nodes.done.iter().map(|node| show::node(node, look)).collect();
        show::answer(Text::below_each_other(&texts))?;
    }
    nodes.end()
}

async fn remove(client: &Client, names: &[String], force: bool) -> Result<(), Failure> {
    each(names, async |name| {
        let path = Path::new(["nodes", name]);
        let path = if force { path.query("force", "true") } else { path };
        client.delete::<()>(path).await?;
        Ok(show::answer(name)?)
    })
    .await?
    .end()
}

async fn pin(client: &Client, names: &[String], manager: bool) -> Result<(), Failure> {
    let update = NodeUpdate { manager: Some(manager), ..NodeUpdate::default() };
    let what = if manager { "promoted to a manager" } else { "demoted to a worker" };
    each(names, async |name| {
        let node = change(client, name, &update).await?;
        Ok(show::answer(format!("Node {} ({}) {what}.", node.id, node.hostname))?)
    })
    .await?
    .end()
}

async fn update(client: &Client, args: NodeUpdateArgs) -> Result<(), Failure> {
    let NodeUpdateArgs { node, availability, label_add, label_rm, rotate_fabric_key, accept_claims, wait } =
        args;
    let label_add = label_add.into_iter().collect();
    let update =
        NodeUpdate { availability, label_add, label_rm, manager: None, rotate_fabric_key, accept_claims };
    if update == NodeUpdate::default() {
        return Err(Refusal::new(Code::Invalid, "nothing to update was given")
            .hint("`raftup node update --help` shows what can be changed")
            .into());
    }
    change(client, &node, &update).await?;
    show::answer(&node)?;
    if availability != Some(Availability::Drain) || wait.detach {
        return Ok(());
    }
    // The leader answers with what is not older than the change.
    let change = Change { kind: Kind::Drain, name: node, revision: Revision(0), versions: Vec::new() };
    follow(client, &[change], wait.timeout).await
}

async fn change(client: &Client, name: &str, update: &NodeUpdate) -> Result<NodeView, Refusal> {
    client.send(Method::PATCH, Path::new(["nodes", name]), update).await
}
