//! Secrets and configs: which content each service has, what a change replaces, and when a content goes.

use std::{collections::BTreeMap, time::Duration};

use expect_test::expect;
use raftup_proto::{
    api::BlobCreate,
    id::BlobId,
    peer::{Level, TaskState},
    refusal::Refusal,
    spec::{BlobKind, BlobMount, BlobSpec, Mode, SECRETS, ServiceSpec},
    unit::MemBytes,
};

use super::sim::{Sim, service};
use crate::{
    model::{ChangeSet, ClusterInfo, Sealed},
    plan,
};

const HOUR: Duration = Duration::from_secs(3600);

fn sim() -> Sim {
    Sim::new("ant", MemBytes(1 << 40), "10.64.0.0/11")
}

fn secret(sim: &mut Sim, key: &str, data: &str) {
    let spec = BlobSpec {
        name: format!("s_{key}"),
        external: false,
        labels: BTreeMap::new(),
        data: Some(data.as_bytes().to_vec().into()),
    };
    sim.spec.secrets.insert(key.parse().unwrap(), spec);
}

fn external(sim: &mut Sim, key: &str, name: &str) {
    let spec = BlobSpec { name: name.to_owned(), external: true, labels: BTreeMap::new(), data: None };
    sim.spec.secrets.insert(key.parse().unwrap(), spec);
}

/// A service that reads this secret.
fn reader(key: &str) -> ServiceSpec {
    let mut spec = service("app", Mode::Replicated { replicas: 2 });
    spec.container.secrets.push(BlobMount {
        source: key.parse().unwrap(),
        name: String::new(),
        target: format!("/run/secrets/{key}"),
        uid: 0,
        gid: 0,
        mode: 0o444,
        id: None,
    });
    spec
}

/// What the tasks of a service that run read, task by task.
fn reads(sim: &Sim, name: &str) -> Vec<String> {
    let id = sim.find(name);
    let running = sim.wanted().into_iter().filter(|task| task.service == id);
    let content = |id: BlobId| String::from_utf8(sim.cluster().blobs[&id].sealed.0.clone()).unwrap();
    running
        .filter(|task| task.status.state == TaskState::Running)
        .map(|task| {
            let version = sim.cluster().services[&id].version(task.version).unwrap();
            content(version.spec.container.secrets[0].id.unwrap())
        })
        .collect()
}

fn tasks(sim: &Sim, name: &str) -> Vec<raftup_proto::id::TaskId> {
    let id = sim.find(name);
    sim.wanted().into_iter().filter(|task| task.service == id).map(|task| task.id).collect()
}

fn told(refusal: &Refusal) -> String {
    format!("{refusal}\nhint: {}\n", refusal.hint.as_deref().unwrap_or_default())
}

fn create(sim: &mut Sim, name: &str, data: &str) -> Result<BlobId, Refusal> {
    let asked =
        BlobCreate { name: name.to_owned(), labels: BTreeMap::new(), data: data.as_bytes().to_vec().into() };
    let sealed = Sealed(data.as_bytes().to_vec());
    let (set, view) =
        plan::blobs::create(sim.world.cluster(), (BlobKind::Secret, &asked), sealed, sim.now, &mut sim.ids)?;
    sim.apply(set);
    Ok(view.id)
}

fn remove(sim: &mut Sim, name: &str) -> Result<(), Refusal> {
    let blob = plan::find::blob(sim.cluster(), BlobKind::Secret, name)?.clone();
    let set = plan::blobs::remove(sim.cluster(), &blob, sim.now)?;
    sim.apply(set);
    Ok(())
}

/// `Sim::deploy` also checks that the same deploy again changes nothing.
#[test]
fn a_changed_content_replaces_its_readers_alone() {
    let mut sim = sim();
    secret(&mut sim, "key", "one");
    secret(&mut sim, "other", "x");
    sim.spec.services.insert("web".parse().unwrap(), reader("key"));
    sim.spec.services.insert("api".parse().unwrap(), reader("other"));
    sim.spec.services.insert("plain".parse().unwrap(), service("app", Mode::Replicated { replicas: 1 }));
    sim.deploy().unwrap();
    sim.wait(HOUR);
    assert_eq!(
        (reads(&sim, "web"), reads(&sim, "api")),
        (vec!["one".to_owned(); 2], vec!["x".to_owned(); 2])
    );
    let stay = [tasks(&sim, "api"), tasks(&sim, "plain")];

    sim.log.clear();
    secret(&mut sim, "key", "two");
    sim.deploy().unwrap();
    let changes: Vec<_> = sim.log.iter().filter(|line| !line.starts_with(' ')).cloned().collect();
    assert_eq!(changes, ["secret s_key updated", "service s_web updated"]);
    // Tasks have what they started with until they are replaced.
    assert_eq!(reads(&sim, "web"), ["one", "one"]);
    sim.wait(HOUR);
    assert_eq!(reads(&sim, "web"), ["two", "two"]);
    assert_eq!([tasks(&sim, "api"), tasks(&sim, "plain")], stay);

    // The way back brings the former content, as a rollback and as the former file.
    let roll_back = |sim: &mut Sim| {
        let (set, _) = plan::services::rollback(sim.cluster(), sim.find("web"), None, sim.now).unwrap();
        sim.apply(set);
        sim.wait(HOUR);
    };
    roll_back(&mut sim);
    assert_eq!(reads(&sim, "web"), ["one", "one"]);
    sim.deploy().unwrap();
    sim.wait(HOUR);
    assert_eq!(reads(&sim, "web"), ["two", "two"]);
    secret(&mut sim, "key", "one");
    sim.deploy().unwrap();
    sim.wait(HOUR);
    assert_eq!(reads(&sim, "web"), ["one", "one"]);
    assert_eq!(sim.cluster().blobs.len(), 3, "the former file's content is the one that was kept");
}

#[test]
fn a_content_goes_with_the_last_version_that_names_it() {
    let mut sim = sim();
    for turn in 0..20 {
        secret(&mut sim, "key", &format!("content {turn}"));
        sim.spec.services.insert("web".parse().unwrap(), reader("key"));
        sim.deploy().unwrap();
        sim.wait(HOUR);
    }
    let service = &sim.cluster().services[&sim.find("web")];
    assert_eq!(sim.cluster().blobs.len(), service.versions.len(), "no more than a rollback can bring back");
    assert!(service.versions.len() < 20);
    let stack = sim.cluster().stacks.keys().next().copied().unwrap();
    let (set, _) = plan::stacks::remove(sim.cluster(), stack, sim.now).unwrap();
    sim.apply(set);
    sim.wait(HOUR);
    assert!(sim.cluster().blobs.is_empty() && sim.cluster().stacks.is_empty());
}

#[test]
fn one_that_the_file_does_not_name_any_more_goes() {
    let mut sim = sim();
    secret(&mut sim, "key", "one");
    sim.ask("web", &service("app", Mode::Replicated { replicas: 1 }));
    sim.wait(HOUR);
    assert_eq!(sim.cluster().blobs.len(), 1);
    sim.spec.secrets.clear();
    sim.keep = true;
    sim.deploy().unwrap();
    sim.wait(HOUR);
    assert_eq!(sim.cluster().blobs.len(), 1, "`--no-prune` keeps it");
    sim.keep = false;
    sim.log.clear();
    sim.deploy().unwrap();
    assert_eq!(sim.log[0], "secret s_key removed");
    sim.wait(HOUR);
    assert!(sim.cluster().blobs.is_empty());
}

#[test]
fn external_ones_have_to_be_there_and_stay() {
    let mut sim = sim();
    external(&mut sim, "key", "token");
    sim.spec.services.insert("web".parse().unwrap(), reader("key"));
    expect![[r#"
        there is no secret `token` in the cluster, which is `external`
        hint: make it: `raftup secret create token FILE`
    "#]]
    .assert_eq(&told(&sim.deploy().unwrap_err()));
    let first = create(&mut sim, "token", "one").unwrap();
    sim.deploy().unwrap();
    sim.wait(HOUR);
    assert_eq!(reads(&sim, "web"), ["one", "one"]);
    expect![[r#"
        secret `token` is there already
        hint: its content cannot be changed: `raftup secret rm token` first, or use another name
    "#]]
    .assert_eq(&told(&create(&mut sim, "token", "two").unwrap_err()));
    expect![[r#"
        secret `token` is used by service s_web
        hint: take it out of their `secrets` and deploy them first
    "#]]
    .assert_eq(&told(&remove(&mut sim, "token").unwrap_err()));

    // A stack cannot declare one of the name, nor does it take this one along when it goes.
    secret(&mut sim, "key", "mine");
    sim.spec.secrets.get_mut("key").unwrap().name = "token".to_owned();
    expect![[r#"
        secret `key` of the stack has the name `token`, and so has one made with `raftup secret create`
        hint: give it another `name`, or use the other one with `external: true`
    "#]]
    .assert_eq(&told(&sim.deploy().unwrap_err()));
    sim.spec.secrets.clear();
    sim.ask("web", &service("app", Mode::Replicated { replicas: 2 }));
    sim.wait(HOUR);
    assert_eq!(sim.cluster().blobs.keys().copied().collect::<Vec<_>>(), [first]);
    remove(&mut sim, "token").unwrap();
    assert!(sim.cluster().blobs.is_empty());
    // What is gone cannot be gone back to.
    let refusal = plan::services::rollback(sim.cluster(), sim.find("web"), Some(1), sim.now).unwrap_err();
    expect![[r#"
        service `s_web` read secret `token`, which was removed since
        hint: deploy a file that has it
    "#]]
    .assert_eq(&told(&refusal));
}

#[test]
fn what_another_stack_uses_stays() {
    let mut sim = sim();
    secret(&mut sim, "key", "one");
    sim.spec.services.insert("web".parse().unwrap(), reader("key"));
    sim.deploy().unwrap();
    let (own, owner) = (sim.spec.clone(), sim.cluster().stacks.keys().next().copied().unwrap());
    sim.spec.name = "t".parse().unwrap();
    sim.spec.secrets.clear();
    external(&mut sim, "theirs", "s_key");
    sim.spec.services = [("api".parse().unwrap(), reader("theirs"))].into();
    sim.deploy().unwrap();
    sim.wait(HOUR);
    let refusal = plan::stacks::remove(sim.cluster(), owner, sim.now).unwrap_err();
    expect![[r#"
        secret `s_key` is used by service t_api
        hint: take it out of their `secrets` and deploy them first
    "#]]
    .assert_eq(&told(&refusal));
    expect![[r#"
        secret `s_key` belongs to stack `s`
        hint: take it out of the stack's file and deploy that, or `raftup stack rm s`
    "#]]
    .assert_eq(&told(&remove(&mut sim, "s_key").unwrap_err()));
    // A new content reaches the other stack with its own next deploy; until then it keeps the one that it has.
    let theirs = std::mem::replace(&mut sim.spec, own);
    secret(&mut sim, "key", "two");
    sim.deploy().unwrap();
    sim.wait(HOUR);
    let read = |sim: &Sim| {
        let mut services = sim.cluster().services.values();
        let api = services.find(|service| service.name.as_str() == "api").unwrap();
        sim.cluster().blobs[&api.current().spec.container.secrets[0].id.unwrap()].sealed.0.clone()
    };
    assert_eq!(read(&sim), b"one");
    sim.spec = theirs;
    sim.deploy().unwrap();
    assert_eq!(read(&sim), b"two");
}

#[test]
fn an_older_release_is_not_given_any() {
    let mut sim = sim();
    let info = ClusterInfo { level: Level(2), ..ClusterInfo::clone(sim.cluster().info.as_ref().unwrap()) };
    let mut set = ChangeSet::new(sim.now);
    set.update(info);
    sim.apply(set);
    let node = *sim.cluster().nodes.keys().next().unwrap();
    sim.say(node, |info| info.level = Level(2));
    expect![[r#"
        secret `token` uses options that came with a newer version of raftup than all nodes have
        hint: update raftupd on ant
    "#]]
    .assert_eq(&told(&create(&mut sim, "token", "one").unwrap_err()));
    sim.say(node, |info| info.level = SECRETS);
    create(&mut sim, "token", "one").unwrap();
}

/// A client that is no loader.
#[test]
fn names_and_sizes_are_checked_here_too() {
    let mut sim = sim();
    let invalid = |refusal: Refusal| refusal.message;
    assert!(invalid(create(&mut sim, "a/b", "x").unwrap_err()).contains("is no name"));
    assert!(invalid(create(&mut sim, "a", "").unwrap_err()).contains("is empty"));
    let large = "x".repeat(BlobKind::Secret.bytes_max() + 1);
    assert!(invalid(create(&mut sim, "a", &large).unwrap_err()).contains("at most 500 KB"));
    sim.spec.services.insert("web".parse().unwrap(), reader("key"));
    assert!(invalid(sim.deploy().unwrap_err()).contains("which the stack does not have"));
}
