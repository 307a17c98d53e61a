//! `raftup network`.

use hyper::Method;
use raftup_proto::{
    api::{Deployed, NetworkCreate, NetworkView},
    refusal::{Code, Refusal},
};

use super::each;
use crate::{
    args::{Listing, NetworkCommand, NetworkCreateArgs},
    client::{Client, Path},
    failure::Failure,
    show::{self, Look, Text},
};

pub(super) async fn run(client: &Client, command: NetworkCommand) -> Result<(), Failure> {
    match command {
        NetworkCommand::Create(args) => create(client, args).await,
        NetworkCommand::Ls(listing) => list(client, listing).await,
        NetworkCommand::Inspect { networks, json } => inspect(client, &networks, json).await,
        NetworkCommand::Rm { networks } => remove(client, &networks).await,
        NetworkCommand::Prune { force } => prune(client, force).await,
    }
}

async fn create(client: &Client, args: NetworkCreateArgs) -> Result<(), Failure> {
    let NetworkCreateArgs { name, attachable, internal, label, opt, driver: _ } = args;
    let labels = label.into_iter().collect();
    let body = NetworkCreate { name, labels, encrypted: opt, internal, attachable };
    let _: Deployed = client.send(Method::POST, Path::new(["networks"]), &body).await?;
    Ok(show::answer(body.name.as_str())?)
}

async fn all(client: &Client) -> Result<Vec<NetworkView>, Failure> {
    Ok(client.get(Path::new(["networks"])).await?)
}

async fn list(client: &Client, listing: Listing) -> Result<(), Failure> {
    let networks = all(client).await?;
    if listing.json {
        return Ok(show::json(&networks)?);
    }
    if listing.quiet {
        return Ok(show::lines(networks.iter().map(|network| network.id))?);
    }
    Ok(show::answer(show::networks(&networks, Look::stdout()))?)
}

async fn inspect(client: &Client, names: &[String], json: bool) -> Result<(), Failure> {
    let networks = each(names, async |name| {
        let network: NetworkView = client.get(Path::new(["networks", name])).await?;
        Ok(network)
    })
    .await?;
    if json {
        show::json(&networks.done)?;
    } else {
        let look = Look::stdout();
        let texts: Vec<Text> = networks.done.iter().map(|network| show::network(network, look)).collect();
        show::answer(Text::below_each_other(&texts))?;
    }
    networks.end()
}

async fn remove(client: &Client, names: &[String]) -> Result<(), Failure> {
    each(names, async |name| {
        let _: Deployed = client.delete(Path::new(["networks", name])).await?;
        Ok(show::answer(name)?)
    })
    .await?
    .end()
}

/// Removes what has no service on it now. One that gets a service meanwhile is refused, and told.
async fn prune(client: &Client, force: bool) -> Result<(), Failure> {
    let networks = all(client).await?;
    let unused = networks
        .into_iter()
        .filter(|network| network.stack.is_none() && network.services.is_empty() && !network.removing);
    let names: Vec<String> = unused.map(|network| network.name).collect();
    if names.is_empty() {
        show::note("no network without a stack is unused");
        return Ok(());
    }
    if !force {
        let refusal = Refusal::new(Code::Invalid, format!("this would remove {}", names.join(", ")));
        return Err(refusal.hint("`raftup network prune --force` does so").into());
    }
    remove(client, &names).await
}
