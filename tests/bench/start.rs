//! Forty replicas of a small image over three hosts: ours, Swarm's, and the engines' own time for the same.

use std::time::SystemTime;

use anyhow::Context as _;
use bollard::{
    Docker,
    models::{
        ContainerCreateBody, EndpointSettings, HostConfig, NetworkCreateRequest, NetworkingConfig,
        RestartPolicy, RestartPolicyNameEnum,
    },
    query_parameters::{CreateContainerOptions, RemoveContainerOptions},
};
use futures_util::future::try_join_all;
use raftup_tests::lab::Lab;

use crate::{
    cluster::{Engines, image_id, lab_for_both, raftup, seconds, share, swarm, timed, well},
    table::{Row, Target, note},
};

const REPLICAS: usize = 40;
const NETWORK: &str = "bench";
const LABEL: &str = "raftup.bench=engines";
/// Of each task, on all sides: 64 MiB in compose files.
const MEMORY: i64 = 64 << 20;

/// In seconds from the asking to the last container's start, its network included.
pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let lab = lab_for_both()?;
    raftup(&lab, &[])?;
    swarm(&lab)?;
    let (mut ours, mut told, mut engines, mut swarms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        engines.push(by_engines(&lab)?);
        let (started, answered) = by_raftup(&lab)?;
        ours.push(started);
        told.push(answered);
        swarms.push(by_swarm(&lab)?);
        let last = |times: &[f64]| times.last().copied().unwrap_or_default();
        let (own, engine, swarm) = (last(&ours), last(&engines), last(&swarms));
        note(&format!(
            "start {round}/{rounds}: raftup {own:.2} s, engines {engine:.2} s, swarm {swarm:.2} s"
        ));
    }
    let what = format!("{REPLICAS} replicas on 3 hosts");
    Ok(vec![
        Row::new(format!("{what}: all run"), "s", ours)
            .beside("engines alone", engines, Some(Target::AtMost(1.15)))
            .beside("Docker Swarm", swarms, None),
        Row::new(format!("{what}: deploy has answered"), "s", told),
    ])
}

fn file(image: &str, more: &str) -> String {
    format!(
        "version: '3.8'\nservices:\n  web:\n    image: {image}\n    deploy:\n      replicas: {REPLICAS}\n      \
         resources: {{limits: {{memory: 64M}}}}\n{more}"
    )
}

fn by_raftup(lab: &Lab) -> anyhow::Result<(f64, f64)> {
    let host = lab.host("h1");
    let path = share(lab, "start.yaml", &file("raftup/helper:1", ""))?.display().to_string();
    let engines = Engines::new("dev.raftup.stack=start")?;
    let asked = SystemTime::now();
    let answered = timed(host, &["raftup", "stack", "deploy", "-c", &path, "start"])?;
    let started = seconds(asked, engines.last_start(lab, REPLICAS)?)?;
    well(host, &["raftup", "stack", "rm", "start"])?;
    engines.wait_gone(lab)?;
    Ok((started, answered))
}

fn by_swarm(lab: &Lab) -> anyhow::Result<f64> {
    let host = lab.host("h1");
    let file = file(&format!("'{}'", image_id(lab)?), "      endpoint_mode: dnsrr\n");
    let path = share(lab, "swarm.yaml", &file)?.display().to_string();
    let engines = Engines::new("com.docker.stack.namespace=swarm")?;
    let asked = SystemTime::now();
    well(host, &["docker", "stack", "deploy", "--resolve-image", "never", "-c", &path, "swarm"])?;
    let started = seconds(asked, engines.last_start(lab, REPLICAS)?)?;
    well(host, &["docker", "stack", "rm", "swarm"])?;
    engines.wait_gone(lab)?;
    Ok(started)
}

fn by_engines(lab: &Lab) -> anyhow::Result<f64> {
    let engines = Engines::new(LABEL)?;
    let clients: Vec<Docker> = lab.hosts().map(|host| engines.client(host)).collect::<Result<_, _>>()?;
    let asked = SystemTime::now();
    let each = clients.iter().enumerate().map(|(index, client)| {
        let share = REPLICAS / clients.len() + usize::from(index < REPLICAS % clients.len());
        on_one(client, share)
    });
    let made = engines.runtime.block_on(try_join_all(each))?;
    let started = seconds(asked, engines.last_start(lab, REPLICAS)?)?;
    for (client, ids) in clients.iter().zip(made) {
        engines.runtime.block_on(try_join_all(ids.iter().map(|id| remove(client, id))))?;
        engines.runtime.block_on(client.remove_network(NETWORK)).context("removing the network")?;
    }
    Ok(started)
}

/// A network, then its containers, all at once.
async fn on_one(engine: &Docker, count: usize) -> anyhow::Result<Vec<String>> {
    let network = NetworkCreateRequest {
        name: NETWORK.into(),
        driver: Some("bridge".into()),
        ..NetworkCreateRequest::default()
    };
    engine.create_network(network).await.context("creating a network")?;
    try_join_all((0..count).map(|number| run(engine, number))).await
}

async fn run(engine: &Docker, number: usize) -> anyhow::Result<String> {
    let (key, value) = LABEL.split_once('=').context("a label without a value")?;
    let body = ContainerCreateBody {
        image: Some("raftup/helper:1".into()),
        labels: Some([(key.to_owned(), value.to_owned())].into()),
        host_config: Some(HostConfig {
            memory: Some(MEMORY),
            network_mode: Some(NETWORK.into()),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        }),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some([(NETWORK.to_owned(), EndpointSettings::default())].into()),
        }),
        ..ContainerCreateBody::default()
    };
    let options =
        CreateContainerOptions { name: Some(format!("bench-{number}")), ..CreateContainerOptions::default() };
    let id = engine.create_container(Some(options), body).await.context("creating a container")?.id;
    engine.start_container(&id, None).await.context("starting a container")?;
    Ok(id)
}

async fn remove(engine: &Docker, id: &str) -> anyhow::Result<()> {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    engine.remove_container(id, Some(options)).await.context("removing a container")
}
