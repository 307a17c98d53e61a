//! `raftup service`.

use hyper::Method;
use raftup_proto::{
    api::{Deployed, LogLine, Rollback, ServiceUpdate, ServiceView},
    refusal::{Code, Refusal},
};

use super::{each, task};
use crate::{
    args::{Filter, LogArgs, LongListing, Scale, ServiceCommand, UpdateArgs, Wait},
    client::{Client, Path},
    failure::Failure,
    follow::{Change, Kind, follow},
    show::{self, Log, Look, Text},
};

pub(super) async fn run(client: &Client, command: ServiceCommand) -> Result<(), Failure> {
    match command {
        ServiceCommand::Ls(listing) => list(client, None, listing).await,
        ServiceCommand::Ps { services, filter, listing } => ps(client, services, filter, listing).await,
        ServiceCommand::Inspect { services, json } => inspect(client, &services, json).await,
        ServiceCommand::Scale { scales, wait } => scale(client, &scales, wait).await,
        ServiceCommand::Update(args) => update(client, &args).await,
        ServiceCommand::Rollback { service, to, wait } => roll_back(client, &service, to, wait).await,
        ServiceCommand::Rm { services } => remove(client, &services).await,
        ServiceCommand::Logs(args) => logs(client, args).await,
    }
}

/// Lists the services, of one stack if it is given.
pub(super) async fn list(client: &Client, stack: Option<&str>, listing: LongListing) -> Result<(), Failure> {
    let path = Path::new(["services"]).query_some("stack", stack);
    let services: Vec<ServiceView> = client.get(path).await?;
    if listing.listing.json {
        return Ok(show::json(&services)?);
    }
    if listing.listing.quiet {
        return Ok(show::lines(services.iter().map(|service| service.id))?);
    }
    show::answer(show::services(&services, Look::stdout().full(listing.no_trunc)))?;
    show::updates(&services).iter().chain(&show::waiting(&services)).for_each(show::note);
    show::problems(&services).iter().for_each(show::warning);
    Ok(())
}

async fn ps(
    client: &Client,
    services: Vec<String>,
    filter: Vec<Filter>,
    listing: LongListing,
) -> Result<(), Failure> {
    let (mut tasks, mut views) = (Vec::new(), Vec::new());
    for service in services {
        views.push(client.get::<ServiceView>(Path::new(["services", &service])).await?);
        let mut filter = filter.clone();
        filter.push(Filter::Service(service));
        tasks.extend(task::fetch(client, true, &filter).await?);
    }
    task::print(&tasks, listing)?;
    if !listing.listing.json && !listing.listing.quiet {
        show::updates(&views).iter().for_each(show::note);
        show::problems(&views).iter().for_each(show::warning);
    }
    Ok(())
}

async fn inspect(client: &Client, names: &[String], json: bool) -> Result<(), Failure> {
    let services = each(names, async |name| {
        let service: ServiceView = client.get(Path::new(["services", name])).await?;
        Ok(service)
    })
    .await?;
    if json {
        show::json(&services.done)?;
    } else {
        let look = Look::stdout();
        let texts: Vec<Text> = services.done.iter().map(|service| show::service(service, look)).collect();
        show::answer(Text::below_each_other(&texts))?;
    }
    services.end()
}

async fn scale(client: &Client, scales: &[Scale], wait: Wait) -> Result<(), Failure> {
    let scaled = each(scales, async |Scale { service, replicas }| {
        let update = ServiceUpdate { replicas: Some(*replicas), ..ServiceUpdate::default() };
        let path = Path::new(["services", service]);
        let deployed: Deployed = client.send(Method::PATCH, path, &update).await?;
        show::answer(format!("{service} scaled to {replicas}"))?;
        Ok(Change::of(Kind::Scale, service.clone(), &deployed))
    })
    .await?;
    if !wait.detach {
        follow(client, &scaled.done, wait.timeout).await?;
    }
    scaled.end()
}

async fn update(client: &Client, args: &UpdateArgs) -> Result<(), Failure> {
    let (path, update) = (Path::new(["services", &args.service]), args.to_update());
    if args.rollback {
        if update != ServiceUpdate::default() {
            return Err(Refusal::new(Code::Invalid, "`--rollback` takes no other change beside it")
                .hint("roll back first, then update")
                .into());
        }
        return roll_back(client, &args.service, None, args.wait).await;
    }
    let deployed: Deployed = client.send(Method::PATCH, path, &update).await?;
    told(client, Kind::Update, &args.service, deployed, args.wait).await
}

async fn roll_back(client: &Client, service: &str, to: Option<u64>, wait: Wait) -> Result<(), Failure> {
    let path = Path::new(["services", service, "rollback"]);
    let deployed: Deployed = client.send(Method::POST, path, &Rollback { to }).await?;
    told(client, Kind::Rollback, service, deployed, wait).await
}

/// Says what was done, and watches it.
async fn told(
    client: &Client,
    kind: Kind,
    service: &str,
    deployed: Deployed,
    wait: Wait,
) -> Result<(), Failure> {
    deployed.warnings.iter().for_each(show::warning);
    show::answer(show::changes(&deployed.changes))?;
    if wait.detach {
        return Ok(());
    }
    let change = Change::of(kind, service.to_owned(), &deployed);
    follow(client, &[change], wait.timeout).await
}

async fn remove(client: &Client, names: &[String]) -> Result<(), Failure> {
    each(names, async |name| {
        client.delete::<Deployed>(Path::new(["services", name])).await?;
        Ok(show::answer(name)?)
    })
    .await?
    .end()
}

async fn logs(client: &Client, args: LogArgs) -> Result<(), Failure> {
    let path = Path::new(["services", &args.service, "logs"])
        .query_some("follow", args.follow.then_some("true"))
        .query_some("tail", args.tail.0.map(|lines| lines.to_string()).as_deref())
        .query_some("since", args.since.map(|since| since.0.to_string()).as_deref());
    let mut lines = client.stream::<LogLine>(path).await?;
    let mut log = Log::new(args.raw, args.timestamps);
    while let Some(line) = lines.next().await? {
        if args.json { show::json_line(&line)? } else { log.print(&line)? }
    }
    Ok(())
}
