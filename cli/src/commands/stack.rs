//! `raftup stack`.

use hyper::Method;
use raftup_proto::api::{Action, Deploy, Deployed, StackView};

use super::{each, service, task};
use crate::{
    args::{DeployArgs, Filter, Listing, Ps, StackCommand, Wait},
    client::{Client, Path},
    deploy,
    failure::Failure,
    follow::{Change, Kind, follow},
    show::{self, Look},
};

pub(super) async fn run(client: &Client, command: StackCommand) -> Result<(), Failure> {
    match command {
        StackCommand::Deploy(args) => deploy(client, args).await,
        StackCommand::Ls(listing) => list(client, listing).await,
        StackCommand::Ps { stack, mut filter, listing } => {
            filter.push(Filter::Stack(stack));
            task::ps(client, Ps { all: true, filter, listing }).await
        }
        StackCommand::Services { stack, listing } => service::list(client, Some(&stack), listing).await,
        StackCommand::Rm { stacks, wait } => remove(client, &stacks, wait).await,
    }
}

async fn deploy(client: &Client, args: DeployArgs) -> Result<(), Failure> {
    let loaded = deploy::load(&args)?;
    show::warnings(&loaded.warnings);
    let spec = loaded.spec;
    let credentials = if args.with_registry_auth {
        let (credentials, problems) = deploy::credentials(&spec).await;
        problems.iter().for_each(show::warning);
        credentials
    } else {
        Default::default()
    };
    let name = spec.name.to_string();
    let body = Deploy { spec, credentials };
    let deployed: Deployed = client.send(Method::PUT, Path::new(["stacks", &name]), &body).await?;
    deployed.warnings.iter().for_each(show::warning);
    show::answer(show::changes(&deployed.changes))?;
    if args.wait.detach {
        return Ok(());
    }
    follow(client, &[Change { kind: Kind::Deploy, name, revision: deployed.revision }], args.wait.timeout)
        .await
}

async fn list(client: &Client, listing: Listing) -> Result<(), Failure> {
    let stacks: Vec<StackView> = client.get(Path::new(["stacks"])).await?;
    if listing.json {
        return Ok(show::json(&stacks)?);
    }
    if listing.quiet {
        return Ok(show::lines(stacks.iter().map(|stack| stack.id))?);
    }
    Ok(show::answer(show::stacks(&stacks, Look::stdout()))?)
}

async fn remove(client: &Client, names: &[String], wait: Wait) -> Result<(), Failure> {
    let removed = each(names, async |name| {
        let deployed: Deployed = client.delete(Path::new(["stacks", name])).await?;
        let gone = deployed.changes.into_iter().filter(|change| change.action == Action::Removed);
        show::answer(show::changes(&gone.collect::<Vec<_>>()))?;
        Ok(Change { kind: Kind::Removal, name: name.clone(), revision: deployed.revision })
    })
    .await?;
    if !wait.detach {
        follow(client, &removed.done, wait.timeout).await?;
    }
    removed.end()
}
