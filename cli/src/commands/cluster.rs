//! `raftup init`, `join`, `leave`, `token` and `status`.

use std::time::Instant;

use hyper::Method;
use raftup_proto::{
    api::{self, Finding, Health, NodeView, Tokens},
    refusal::{Code, Refusal},
};

use crate::{
    args::{Doctor, Init, Join, Leave, Status, Token},
    client::{Client, Path},
    failure::Failure,
    show::{self, Look, Text},
};

pub(super) async fn init(client: &Client, args: Init) -> Result<(), Failure> {
    let Init { advertise_addr, pool, managers, fabric } = args;
    let body = api::Init { advertise: advertise_addr, pool, managers, fabric };
    let status: api::Status = client.send(Method::POST, Path::new(["init"]), &body).await?;
    let member = member(status)?;
    let tokens: Tokens = client.get(Path::new(["tokens"])).await?;
    show::answer(Text::lines(format!(
        "Cluster {} is made, and this server is its node {}.\n\n\
         To add a server, run there:\n\n    raftup join {}\n\n\
         `raftup token` shows this command again.",
        member.cluster,
        member.node,
        tokens.manager.expose()
    )))?;
    Ok(())
}

pub(super) async fn join(client: &Client, args: Join) -> Result<(), Failure> {
    let Join { token, advertise_addr, via } = args;
    let body = api::Join { token, advertise: advertise_addr, via };
    let status: api::Status = client.send(Method::POST, Path::new(["join"]), &body).await?;
    let member = member(status)?;
    show::answer(format!("This server joined cluster {} as node {}.", member.cluster, member.node))?;
    Ok(())
}

fn member(status: api::Status) -> Result<api::Membership, Refusal> {
    status.member.ok_or_else(|| Refusal::new(Code::Internal, "raftupd agreed, but is in no cluster"))
}

pub(super) async fn leave(client: &Client, args: Leave) -> Result<(), Failure> {
    let body = api::Leave { force: args.force };
    client.send::<()>(Method::POST, Path::new(["leave"]), &body).await?;
    show::answer("This server left its cluster.")?;
    Ok(())
}

pub(super) async fn token(client: &Client, args: Token) -> Result<(), Failure> {
    let role = if args.worker { "worker" } else { "manager" };
    let tokens: Tokens = if args.rotate {
        client.send(Method::POST, Path::new(["tokens", role, "rotate"]), &()).await?
    } else {
        client.get(Path::new(["tokens"])).await?
    };
    let token = if args.worker { tokens.worker } else { tokens.manager };
    if args.quiet {
        show::answer(token.expose().as_str())?
    } else {
        show::answer(format!("raftup join {}", token.expose()))?
    }
    if args.rotate {
        show::note(format!("the old {role} token is refused from now on"));
    }
    Ok(())
}

pub(super) async fn status(client: &Client, args: Status) -> Result<(), Failure> {
    let mut status: api::Status = client.get(Path::new(["status"])).await?;
    if status.member.is_some() {
        status.problems.extend(problems(client).await);
    }
    if args.json {
        return Ok(show::json(&status)?);
    }
    let nodes = match &status.member {
        Some(_) => Some(client.get::<Vec<NodeView>>(Path::new(["nodes"])).await),
        None => None,
    };
    let nodes = nodes.as_ref().map(|nodes| nodes.as_deref());
    Ok(show::answer(show::status(&status, nodes))?)
}

/// What is wrong in the whole cluster. Nothing is known where no leader answers, which `status` says by itself, or where an
/// older one does.
async fn problems(client: &Client) -> Vec<String> {
    client.get(Path::new(["problems"])).await.unwrap_or_default()
}

pub(super) async fn doctor(client: &Client, args: Doctor) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut findings: Vec<Finding> = client.get(Path::new(["doctor"])).await?;
    let problems = problems(client).await.into_iter();
    findings
        .extend(problems.map(|problem| Finding::warning("cluster", problem, "see docs/troubleshooting.md")));
    if args.json {
        show::json(&show::advised(&findings))?;
    } else {
        show::answer(show::findings(&findings, begun.elapsed(), Look::stdout()))?;
    }
    if findings.iter().any(|finding| finding.health == Health::Problem) {
        return Err(Failure::Told(Code::Failed.exit_status()));
    }
    Ok(())
}
