//! Secrets and configs: those that a stack declares, and those that are made by themselves.
//!
//! A content never changes. A secret that gets another one is another object of the same name, and each version of a service
//! names the objects that it was deployed with; so a changed secret replaces the tasks of those services alone that use it,
//! by their update policy, and a rollback brings the former content back.
//!
//! Owns: which content a name stands for. Leaves alone: sealing (`control::blobs`), and the files of containers (`agent`).
//! Holds: of the contents of one name and kind one at most is not `replaced`; none goes while a version of a service that
//! somebody else deployed runs with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use raftup_proto::{
    api::{Action, BlobCreate, BlobView, ChangeView},
    id::{BlobId, StackId},
    name::BlobName,
    refusal::{Code, Refusal},
    spec::{BlobKind, BlobSpec, ContainerSpec, SECRETS, StackSpec, blob_name},
    unit::UnixMillis,
};

use crate::model::{Blob, ChangeSet, Cluster, Meta, Sealed, Service, Stack};

use super::{Ids, asked, ports::listed};

/// The sealed contents of a stack, by kind and key: the very bytes that are there already where a content is the same.
pub type Contents = BTreeMap<(BlobKind, BlobName), Sealed>;

/// What a deploy changes so far.
pub(super) struct Changes<'a> {
    pub(super) set: &'a mut ChangeSet,
    pub(super) views: &'a mut Vec<ChangeView>,
    pub(super) ids: &'a mut Ids,
}

/// Makes the secrets and configs of a stack those of `spec`, and notes in the services of `spec` which content each of them
/// gets. Those that the file does not name any more go, unless `keep`.
///
/// Errors: one of the name belongs to somebody else; an external one is not there; one that is to go is used by another stack.
pub(super) fn deploy(
    cluster: &Cluster,
    (stack, keep): (StackId, bool),
    spec: &mut StackSpec,
    contents: &Contents,
    changes: Changes<'_>,
) -> Result<(), Refusal> {
    let mut diff = Diff { cluster, stack, changes };
    let mut given = BTreeMap::new();
    let mut named = BTreeSet::new();
    for kind in BlobKind::ALL {
        for (key, blob) in spec.blobs(kind) {
            let id = match contents.get(&(kind, key.clone())) {
                _ if blob.external => external(cluster, kind, &blob.name)?.id,
                Some(sealed) => diff.own((kind, key), blob, &spec.name, sealed)?,
                None => {
                    let message = format!("{kind} `{key}` has no content, and is not `external`");
                    return Err(Refusal::new(Code::Invalid, message));
                }
            };
            if !blob.external && !named.insert((kind, blob.name.clone())) {
                let message = format!("two {}s of the stack have the name `{}`", kind, blob.name);
                return Err(Refusal::new(Code::Invalid, message));
            }
            given.insert((kind, key.clone()), (id, blob.name.clone()));
        }
    }
    let gone =
        of_stack(cluster, stack).filter(|blob| !keep && !named.contains(&(blob.kind, blob.name.clone())));
    for blob in gone {
        check_unused(cluster, blob)?;
        diff.replace(blob);
        diff.changes.views.push(view(blob.kind, &blob.name, Action::Removed));
    }
    for (name, service) in &mut spec.services {
        for (kind, mount) in service.container.blobs_mut() {
            let Some((id, full_name)) = given.get(&(kind, mount.source.clone())) else {
                let what =
                    format!("service `{name}` uses {kind} `{}`, which the stack does not have", mount.source);
                return Err(Refusal::new(Code::Invalid, what));
            };
            mount.name.clone_from(full_name);
            mount.id = Some(*id);
        }
    }
    Ok(())
}

struct Diff<'a> {
    cluster: &'a Cluster,
    stack: StackId,
    changes: Changes<'a>,
}

impl Diff<'_> {
    /// The content of one that the stack declares.
    fn own(
        &mut self,
        (kind, key): (BlobKind, &BlobName),
        spec: &BlobSpec,
        stack: &raftup_proto::name::StackName,
        sealed: &Sealed,
    ) -> Result<BlobId, Refusal> {
        let name = &spec.name;
        check(kind, name, spec.data.as_ref().map_or(0, |data| data.expose().len()))?;
        let current = current(self.cluster, kind, name);
        if let Some(other) = current.filter(|blob| blob.stack != Some(self.stack)) {
            let owner = match &other.stack_name {
                Some(stack) => format!("which belongs to stack `{stack}`"),
                None => format!("made with `raftup {kind} create`"),
            };
            let message =
                format!("{kind} `{key}` of the stack has the name `{name}`, and so has one {owner}");
            return Err(Refusal::new(Code::Conflict, message)
                .hint("give it another `name`, or use the other one with `external: true`"));
        }
        let labels = &spec.labels;
        if let Some(blob) = current.filter(|blob| blob.sealed == *sealed) {
            let same = blob.labels == *labels;
            if !same {
                self.changes.set.update(Blob { labels: labels.clone(), ..Blob::clone(blob) });
            }
            let action = if same { Action::Unchanged } else { Action::Updated };
            self.changes.views.push(view(kind, name, action));
            return Ok(blob.id);
        }
        if let Some(old) = current {
            self.replace(old);
        }
        let mut earlier = self.cluster.blobs.values().filter(|blob| blob.kind == kind && blob.name == *name);
        let earlier =
            earlier.find(|blob| blob.stack == Some(self.stack) && blob.replaced && blob.sealed == *sealed);
        let id = match earlier {
            Some(blob) => {
                let labels = labels.clone();
                self.changes.set.update(Blob { labels, replaced: false, ..Blob::clone(blob) });
                blob.id
            }
            None => {
                let id = BlobId::from_random(self.changes.ids.fresh());
                self.changes.set.create(Blob {
                    id,
                    meta: Meta::default(),
                    kind,
                    name: name.clone(),
                    stack: Some(self.stack),
                    stack_name: Some(stack.clone()),
                    labels: labels.clone(),
                    sealed: sealed.clone(),
                    replaced: false,
                });
                id
            }
        };
        let action = if current.is_some() { Action::Updated } else { Action::Created };
        self.changes.views.push(view(kind, name, action));
        Ok(id)
    }

    fn replace(&mut self, blob: &Blob) {
        self.changes.set.update(Blob { replaced: true, ..blob.clone() });
    }
}

/// Notes that the secrets and configs of a stack go. Errors: another stack uses one.
pub(super) fn remove_stack(
    cluster: &Cluster,
    stack: &Stack,
    set: &mut ChangeSet,
    views: &mut Vec<ChangeView>,
) -> Result<(), Refusal> {
    for blob in of_stack(cluster, stack.id) {
        check_unused(cluster, blob)?;
        set.update(Blob { replaced: true, ..Blob::clone(blob) });
        views.push(view(blob.kind, &blob.name, Action::Removed));
    }
    Ok(())
}

/// Those of a stack that its names stand for.
fn of_stack(cluster: &Cluster, stack: StackId) -> impl Iterator<Item = &Arc<Blob>> {
    cluster.blobs.values().filter(move |blob| blob.stack == Some(stack) && !blob.replaced)
}

/// The one that a name stands for.
pub(super) fn current<'a>(cluster: &'a Cluster, kind: BlobKind, name: &str) -> Option<&'a Arc<Blob>> {
    cluster.blobs.values().find(|blob| blob.kind == kind && blob.name == name && !blob.replaced)
}

fn external<'a>(cluster: &'a Cluster, kind: BlobKind, name: &str) -> Result<&'a Arc<Blob>, Refusal> {
    current(cluster, kind, name).ok_or_else(|| {
        let message = format!("there is no {kind} `{name}` in the cluster, which is `external`");
        Refusal::new(Code::NotFound, message).hint(format!("make it: `raftup {kind} create {name} FILE`"))
    })
}

/// Errors: a service of another stack uses it, so it cannot go.
fn check_unused(cluster: &Cluster, blob: &Blob) -> Result<(), Refusal> {
    let users = users(cluster, blob.id).filter(|service| Some(service.stack) != blob.stack);
    refuse_used(blob, users.map(|service| service.full_name()).collect())
}

fn refuse_used(blob: &Blob, users: Vec<String>) -> Result<(), Refusal> {
    if users.is_empty() {
        return Ok(());
    }
    let (kind, name) = (blob.kind, &blob.name);
    let plural = if users.len() == 1 { "" } else { "s" };
    let message = format!("{kind} `{name}` is used by service{plural} {}", listed(&users));
    Err(Refusal::new(Code::Conflict, message)
        .hint(format!("take it out of their `{}` and deploy them first", kind.plural())))
}

/// The services that are asked to run with a content.
pub(super) fn users(cluster: &Cluster, id: BlobId) -> impl Iterator<Item = &Arc<Service>> {
    let services = cluster.services.values().filter(|service| !service.removing);
    services.filter(move |service| uses(&service.current().spec.container, id))
}

fn uses(container: &ContainerSpec, id: BlobId) -> bool {
    container.blobs().any(|(_, mount)| mount.id == Some(id))
}

/// A version of some service names the content: tasks may run with it, and a rollback may bring it back.
/// Cost: one pass over the versions of all services.
pub(super) fn is_named(cluster: &Cluster, id: BlobId) -> bool {
    let mut versions = cluster.services.values().flat_map(|service| &service.versions);
    versions.any(|version| uses(&version.spec.container, id))
}

/// Errors: a content that the container reads is gone.
pub(super) fn check_present(
    cluster: &Cluster,
    service: &Service,
    container: &ContainerSpec,
) -> Result<(), Refusal> {
    let gone = |id: Option<BlobId>| id.is_some_and(|id| !cluster.blobs.contains_key(&id));
    let Some((kind, mount)) = container.blobs().find(|(_, mount)| gone(mount.id)) else { return Ok(()) };
    let message =
        format!("service `{}` read {kind} `{}`, which was removed since", service.full_name(), mount.name);
    Err(Refusal::new(Code::Conflict, message).hint("deploy a file that has it"))
}

/// Makes one that belongs to no stack. Errors: there is one of the name; a name or content that cannot be.
pub fn create(
    cluster: &Cluster,
    (kind, asked): (BlobKind, &BlobCreate),
    sealed: Sealed,
    now: UnixMillis,
    ids: &mut Ids,
) -> Result<(ChangeSet, BlobView), Refusal> {
    let BlobCreate { name, labels, data } = asked;
    asked::check_level(cluster, SECRETS, &format!("{kind} `{name}`"))?;
    check(kind, name, data.expose().len())?;
    if let Some(other) = current(cluster, kind, name) {
        let hint = match &other.stack_name {
            Some(stack) => format!("it belongs to stack `{stack}`; give this one another name"),
            None => {
                format!("its content cannot be changed: `raftup {kind} rm {name}` first, or use another name")
            }
        };
        return Err(Refusal::new(Code::Conflict, format!("{kind} `{name}` is there already")).hint(hint));
    }
    let blob = Blob {
        id: BlobId::from_random(ids.fresh()),
        meta: Meta { created: now, updated: now, ..Meta::default() },
        kind,
        name: name.clone(),
        stack: None,
        stack_name: None,
        labels: labels.clone(),
        sealed,
        replaced: false,
    };
    let shown = show(cluster, &blob);
    let mut set = ChangeSet::new(now);
    set.create(blob);
    Ok((set, shown))
}

/// Removes one that belongs to no stack. Errors: a service uses it, or a task still runs with it; it is a stack's.
pub fn remove(cluster: &Cluster, blob: &Blob, now: UnixMillis) -> Result<ChangeSet, Refusal> {
    let (kind, name) = (blob.kind, &blob.name);
    if let Some(stack) = &blob.stack_name {
        let message = format!("{kind} `{name}` belongs to stack `{stack}`");
        return Err(Refusal::new(Code::Conflict, message)
            .hint(format!("take it out of the stack's file and deploy that, or `raftup stack rm {stack}`")));
    }
    let mut used: BTreeSet<String> = users(cluster, blob.id).map(|service| service.full_name()).collect();
    for task in cluster.tasks.values().filter(|task| task.holds_node()) {
        let service = cluster.services.get(&task.service);
        let version = service.and_then(|service| service.version(task.version));
        if let Some((service, _)) =
            service.zip(version.filter(|version| uses(&version.spec.container, blob.id)))
        {
            used.insert(service.full_name());
        }
    }
    refuse_used(blob, used.into_iter().collect())?;
    let mut set = ChangeSet::new(now);
    set.delete(crate::model::ObjectKey::Blob(blob.id), blob.meta);
    Ok(set)
}

/// What a loader cannot know, or might have let through.
fn check(kind: BlobKind, name: &str, bytes: usize) -> Result<(), Refusal> {
    let invalid = |why: String| Refusal::new(Code::Invalid, why);
    blob_name(name).map_err(invalid)?;
    kind.check_size(bytes).map_err(|why| invalid(format!("{kind} `{name}` {why}")))
}

/// All of a kind that names stand for, by name.
pub fn list(cluster: &Cluster, kind: BlobKind) -> Vec<BlobView> {
    let all = cluster.blobs.values().filter(|blob| blob.kind == kind && !blob.replaced);
    let mut views: Vec<_> = all.map(|blob| show(cluster, blob)).collect();
    views.sort_by(|one, other| one.name.cmp(&other.name));
    views
}

/// One without its content.
pub fn show(cluster: &Cluster, blob: &Blob) -> BlobView {
    BlobView {
        id: blob.id,
        kind: blob.kind,
        name: blob.name.clone(),
        stack: blob.stack_name.clone(),
        labels: blob.labels.clone(),
        used_by: users(cluster, blob.id).map(|service| service.full_name()).collect(),
        created: blob.meta.created,
        updated: blob.meta.updated,
        data: None,
    }
}

fn view(kind: BlobKind, name: &str, action: Action) -> ChangeView {
    ChangeView { kind: kind.to_string(), name: name.to_owned(), action, version: None }
}
