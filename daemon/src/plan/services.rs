//! What is asked of one service: scale it, remove it.

use std::sync::Arc;

use raftup_proto::{
    api::{Action, ChangeView},
    id::ServiceId,
    refusal::{Code, Refusal},
    spec::{MAX_REPLICAS, Mode, ServiceSpec},
    unit::UnixMillis,
};

use crate::model::{ChangeSet, Cluster, Service};

/// Changes the number of replicas; the version stays, no container is replaced. Errors: no such service, it is being
/// removed, it is global, or too many.
pub fn scale(
    cluster: &Cluster,
    id: ServiceId,
    replicas: u32,
    now: UnixMillis,
) -> Result<(ChangeSet, Vec<ChangeView>), Refusal> {
    let service = there(cluster, id)?;
    let name = service.full_name();
    if service.removing {
        return Err(Refusal::new(Code::Conflict, format!("service `{name}` is being removed")));
    }
    check_replicas(&name, replicas)?;
    let mode = Mode::Replicated { replicas };
    match service.current().spec.mode {
        Mode::Global => {
            return Err(Refusal::new(
                Code::Invalid,
                format!("service `{name}` is global: it has one task on each node"),
            )
            .hint("choose its nodes with `deploy.placement.constraints`"));
        }
        Mode::Replicated { replicas: now } if now == replicas => {
            return Ok((ChangeSet::default(), vec![view(service, Action::Unchanged)]));
        }
        Mode::Replicated { .. } => {}
    }
    let mut changed = Service::clone(service);
    set_spec(&mut changed, |spec| spec.mode = mode);
    let mut set = ChangeSet::new(now);
    set.update(changed);
    Ok((set, vec![view(service, Action::Updated)]))
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

/// Changes the current version's spec in place.
pub(super) fn set_spec(service: &mut Service, change: impl FnOnce(&mut ServiceSpec)) {
    if let Some(version) = service.versions.last_mut() {
        change(Arc::make_mut(&mut version.spec));
    }
}

pub(super) fn view(service: &Service, action: Action) -> ChangeView {
    ChangeView { kind: "service".to_owned(), name: service.full_name(), action }
}

fn there(cluster: &Cluster, id: ServiceId) -> Result<&Arc<Service>, Refusal> {
    cluster.services.get(&id).ok_or_else(|| Refusal::new(Code::NotFound, format!("no service `{id}`")))
}
