//! What is asked of one service: change it, roll it back, remove it.

use std::sync::Arc;

use raftup_proto::{
    api::{Action, AskedVersion, ChangeView, ServiceUpdate, UpdateState},
    compose,
    id::ServiceId,
    refusal::{Code, Refusal},
    spec::{FailureAction, MAX_REPLICAS, Mode, Ratio, ServiceSpec},
    unit::UnixMillis,
};

use crate::model::{ChangeSet, Cluster, Service};

use super::versions::{self, How, Pinned};

/// Changes what the service is asked to be; `pinned` has the digest of the image, if another one is asked for. Its tasks
/// are replaced if they will not do any more, or with `force`; a change of the number of replicas replaces none. Errors:
/// no such service, it is being removed, it is global and is given replicas, too many of them, an image that cannot be
/// one, a variable that it does not have.
pub fn update(
    cluster: &Cluster,
    id: ServiceId,
    update: &ServiceUpdate,
    pinned: &Pinned,
    now: UnixMillis,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let service = changeable(cluster, id)?;
    let spec = updated(service, update)?;
    let mut changed = Service::clone(service);
    // A change of the number of replicas alone is not the word that a paused update waits for.
    let scaled = ServiceUpdate { replicas: update.replicas, ..ServiceUpdate::default() };
    let resume = update.replicas.is_none() || *update != scaled;
    // A tag that has moved meanwhile is no part of another change.
    let known = Pinned::new();
    let pinned = if update.image.is_some() { pinned } else { &known };
    versions::change(cluster, &mut changed, (&spec, pinned), How { force: update.force, resume }, now);
    let paused = service.update_state().is_some_and(UpdateState::is_paused);
    let same = changed.current().number == service.current().number && !(paused && resume);
    let action = if same { Action::Unchanged } else { Action::Updated };
    let mut set = ChangeSet::new(now);
    let views = vec![view(&changed, action)];
    if changed != **service {
        set.update(changed);
    }
    Ok((set, views))
}

fn updated(service: &Service, update: &ServiceUpdate) -> Result<ServiceSpec, Refusal> {
    let name = service.full_name();
    let mut spec = ServiceSpec::clone(&service.current().spec);
    if let Some(replicas) = update.replicas {
        check_replicas(&name, replicas)?;
        let Some(mode) = with_replicas(spec.mode, replicas) else {
            let message = format!("service `{name}` is global: it has one task on each node");
            return Err(Refusal::new(Code::Invalid, message)
                .hint("choose its nodes with `deploy.placement.constraints`"));
        };
        spec.mode = mode;
        if let (2.., Some(container_name)) = (replicas, &spec.container.container_name) {
            let message = format!(
                "service `{name}` has one `container_name`, `{container_name}`, for several containers"
            );
            return Err(Refusal::new(Code::Invalid, message)
                .hint("deploy it without `container_name`, then ask for more replicas"));
        }
    }
    if let Some(image) = &update.image {
        spec.container.image =
            compose::image(image).map_err(|message| Refusal::new(Code::Invalid, message))?;
    }
    for key in &update.env_rm {
        if spec.container.env.remove(key).is_none() {
            let message = format!("service `{name}` has no environment variable `{key}`");
            return Err(Refusal::new(Code::NotFound, message));
        }
    }
    spec.container.env.extend(update.env_add.clone());
    spec.update = update.update.applied_to(spec.update);
    spec.rollback = update.rollback.applied_to(spec.rollback);
    check_policies(&spec)?;
    Ok(spec)
}

/// The mode with so many slots. Of a job that ran all of them at a time, all run at a time.
fn with_replicas(mode: Mode, replicas: u32) -> Option<Mode> {
    match mode {
        Mode::Replicated { .. } => Some(Mode::Replicated { replicas }),
        Mode::ReplicatedJob { completions, concurrent } => {
            let concurrent = if concurrent >= completions { replicas } else { concurrent };
            Some(Mode::ReplicatedJob { completions: replicas, concurrent })
        }
        Mode::Global | Mode::GlobalJob => None,
    }
}

pub(super) fn check_policies(spec: &ServiceSpec) -> Result<(), Refusal> {
    let refused = if spec.rollback.failure_action == FailureAction::Rollback {
        "a rollback that fails cannot be rolled back: its failure action is `pause` or `continue`"
    } else if [spec.update, spec.rollback].iter().any(|policy| policy.max_failure_ratio.0 > Ratio::WHOLE) {
        "a failure ratio is between 0 and 1"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Code::Invalid, refused))
}

/// Makes the service what it was in an earlier version: `to`, or the one before the current one; so a second rollback
/// goes forth again. Errors: no such service, it is being removed, no such version, what that one needs is gone.
pub fn rollback(
    cluster: &Cluster,
    id: ServiceId,
    to: Option<u64>,
    now: UnixMillis,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let service = changeable(cluster, id)?;
    let name = service.full_name();
    let target = match to {
        Some(number) if number == service.current().number => {
            return Ok((ChangeSet::default(), vec![view(service, Action::Unchanged)]));
        }
        Some(number) => service.version(number).ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("service `{name}` has no version {number}"))
                .hint(format!("`raftup service inspect {name}` lists those that are kept"))
        })?,
        None => service.previous().ok_or_else(|| {
            Refusal::new(Code::Conflict, format!("service `{name}` has no previous version to roll back to"))
        })?,
    };
    let cause = ("manually requested rollback".to_owned(), false);
    let (changed, networks) = versions::go_back(cluster, cluster.tasks_of(id), service, target, cause, now)?;
    let mut set = ChangeSet::new(now);
    let views = vec![view(&changed, Action::Updated)];
    set.update(changed);
    networks.into_iter().for_each(|network| set.update(network));
    Ok((set, views))
}

fn changeable(cluster: &Cluster, id: ServiceId) -> Result<&Arc<Service>, Refusal> {
    let service = there(cluster, id)?;
    if service.removing {
        let message = format!("service `{}` is being removed", service.full_name());
        return Err(Refusal::new(Code::Conflict, message));
    }
    Ok(service)
}

/// Removes one service; its networks and volumes stay with the stack. Errors: no such service.
pub fn remove(
    cluster: &Cluster,
    id: ServiceId,
    now: UnixMillis,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let service = there(cluster, id)?;
    let mut set = ChangeSet::new(now);
    mark_removing(&mut set, service);
    Ok((set, vec![view(service, Action::Removed)]))
}

pub(super) fn mark_removing(set: &mut ChangeSet, service: &Service) {
    if !service.removing {
        let mut service = Service::clone(service);
        service.removing = true;
        service.waiting.clear();
        set.update(service);
    }
}

pub(super) fn check_replicas(name: &str, replicas: u32) -> Result<(), Refusal> {
    if replicas <= MAX_REPLICAS {
        return Ok(());
    }
    let message =
        format!("service `{name}` asks for {replicas} replicas, at most {MAX_REPLICAS} are possible");
    Err(Refusal::new(Code::Invalid, message))
}

pub(super) fn view(service: &Service, action: Action) -> ChangeView {
    let version = match action {
        Action::Created | Action::Updated | Action::Unchanged => {
            Some(AskedVersion { service: service.id, number: service.current().number })
        }
        Action::Removed => None,
    };
    ChangeView { kind: "service".to_owned(), name: service.full_name(), action, version }
}

fn there(cluster: &Cluster, id: ServiceId) -> Result<&Arc<Service>, Refusal> {
    cluster.services.get(&id).ok_or_else(|| Refusal::new(Code::NotFound, format!("no service `{id}`")))
}
