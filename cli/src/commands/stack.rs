//! `raftup stack`.

use hyper::Method;
use raftup_proto::{
    api::{Action, Deploy, Deployed, StackView},
    compose::Normalise,
    refusal::{Code, Refusal},
    view::Revision,
};

use super::{each, service, task};
use crate::{
    args::{ConfigArgs, DeployArgs, Filter, Format, Listing, Ps, StackCommand, Wait},
    client::{Client, Path},
    deploy,
    failure::Failure,
    follow::{Change, Kind, follow},
    show::{self, Look},
};

pub(super) async fn run(client: &Client, command: StackCommand) -> Result<(), Failure> {
    match command {
        StackCommand::Deploy(args) => deploy(client, args).await,
        StackCommand::Config(args) => config(&args),
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
    let loaded = deploy::load(&args.project, args.name.as_deref())?;
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
    let body = Deploy { spec, credentials, keep: args.no_prune };
    let path = || Path::new(["stacks", &name]);
    let deployed: Deployed = match client.send(Method::PUT, path(), &body).await {
        Err(refusal)
            if refusal.code == Code::Conflict && is_going(client, &name).await && !args.wait.detach =>
        {
            show::note(format!("stack `{name}` is being removed; it is deployed once it is gone"));
            let removal = Change {
                kind: Kind::Removal,
                name: name.clone(),
                revision: Revision(0),
                versions: Vec::new(),
            };
            follow(client, &[removal], args.wait.timeout).await?;
            client.send(Method::PUT, path(), &body).await?
        }
        answer => answer?,
    };
    deployed.warnings.iter().for_each(show::warning);
    show::answer(show::changes(&deployed.changes))?;
    if args.wait.detach {
        return Ok(());
    }
    follow(client, &[Change::of(Kind::Deploy, name, &deployed)], args.wait.timeout).await
}

/// The stack is being removed. An answer that does not come says no more than that.
async fn is_going(client: &Client, name: &str) -> bool {
    let stacks = client.get::<Vec<StackView>>(Path::new(["stacks"])).await.unwrap_or_default();
    stacks.iter().any(|stack| stack.name.as_str() == name && stack.removing)
}

/// Prints the normalised file, or a part of it. A file that the cluster would refuse is refused here too.
fn config(args: &ConfigArgs) -> Result<(), Failure> {
    let (project, name) = (&args.project, args.name.as_deref());
    let how = Normalise { keep_variables: args.no_interpolate };
    let (mut config, warnings) = deploy::normalise(project, name, how)?;
    show::warnings(&warnings);
    let unknown = |name: &str| {
        Refusal::new(Code::Invalid, format!("the files have no service `{name}` in an active profile"))
            .hint("`raftup stack config --services` lists them")
    };
    if !args.services.is_empty() {
        config.select(&args.services).map_err(|name| unknown(&name))?;
    }
    if args.quiet {
        return Ok(());
    }
    let kind = [(args.list_services, "services"), (args.volumes, "volumes"), (args.networks, "networks")];
    if let Some((_, kind)) = kind.iter().find(|(asked, _)| *asked) {
        return Ok(show::lines(config.names(kind))?);
    }
    if args.images {
        return Ok(show::lines(config.images())?);
    }
    if args.profiles {
        return Ok(show::lines(config.profiles())?);
    }
    if !args.hash.is_empty() {
        let hashes = config.hashes();
        if let Some(name) = args.hash.iter().find(|name| *name != "*" && !hashes.contains_key(name.as_str()))
        {
            return Err(unknown(name).into());
        }
        let asked = |name: &str| args.hash.iter().any(|asked| asked == "*" || asked == name);
        let lines = hashes.iter().filter(|(name, _)| asked(name));
        return Ok(show::lines(lines.map(|(name, hash)| format!("{name} {hash}")))?);
    }
    match args.format {
        Format::Yaml => Ok(show::yaml(&config.yaml())?),
        Format::Json => Ok(show::json(config.json())?),
    }
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
        let removal = Change::of(Kind::Removal, name.clone(), &deployed);
        let gone = deployed.changes.into_iter().filter(|change| change.action == Action::Removed);
        show::answer(show::changes(&gone.collect::<Vec<_>>()))?;
        Ok(removal)
    })
    .await?;
    if !wait.detach {
        follow(client, &removed.done, wait.timeout).await?;
    }
    removed.end()
}
