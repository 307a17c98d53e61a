//! How long the engines take for the same containers, asked through their API with nothing in between.

use std::time::Instant;

use anyhow::Context as _;
use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptions, RemoveContainerOptions},
};
use futures_util::future::try_join_all;
use raftup_tests::lab::Lab;

const CONTAINERS: usize = 40;

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Runtime::new()?;
    let _inside = runtime.enter();
    let engines: Vec<Docker> = lab.hosts().map(|host| host.engine()).collect::<Result<_, _>>()?;
    let turn = engines.iter().cycle().take(CONTAINERS).enumerate();
    let start = Instant::now();
    let made = runtime
        .block_on(try_join_all(turn.map(|(number, engine)| run(engine, format!("bench-{number}")))))?;
    let took = start.elapsed();
    runtime.block_on(try_join_all(made.iter().map(|(engine, id)| remove(engine, id))))?;
    Ok(serde_json::json!({ "containers": CONTAINERS, "hosts": engines.len(), "seconds": took.as_secs_f64() }))
}

async fn run(engine: &Docker, name: String) -> anyhow::Result<(&Docker, String)> {
    let body =
        ContainerCreateBody { image: Some("raftup/helper:1".into()), ..ContainerCreateBody::default() };
    let options = CreateContainerOptions { name: Some(name), ..CreateContainerOptions::default() };
    let id = engine.create_container(Some(options), body).await.context("creating a container")?.id;
    engine.start_container(&id, None).await.context("starting a container")?;
    Ok((engine, id))
}

async fn remove(engine: &Docker, id: &str) -> anyhow::Result<()> {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    engine.remove_container(id, Some(options)).await.context("removing a container")
}
