//! Services.

use raftup_proto::{
    api::{ServiceView, UpdateState, UpdateStatus, VersionView},
    spec::{
        Amounts, ContainerSpec, EndpointMode, Healthcheck, Mode, Mount, MountSource, PortSpec, PublishMode,
        RestartCondition, RestartPolicy, ServiceSpec, SlotOrder, UpdatePolicy,
    },
};

use super::{
    Look, Text,
    fields::Fields,
    table::{Table, Tone, cell},
    time,
};

/// Such as `shop_web`.
fn full_name(service: &ServiceView) -> String {
    format!("{}_{}", service.stack, service.name)
}

/// The table of services.
pub(crate) fn list(services: &[ServiceView], look: Look) -> Text {
    let mut table = Table::new(["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]);
    for service in services {
        let tone =
            if service.running + service.complete < service.desired { Tone::Waiting } else { Tone::Plain };
        let removing = if service.removing { " (removing)" } else { "" };
        table.row([
            cell(service.id, Tone::Plain),
            cell(full_name(service), Tone::Plain),
            cell(service.mode, Tone::Plain),
            cell(format!("{}{removing}", counts(service)), tone),
            cell(look.image(&service.image), Tone::Plain),
            cell(ports(&service.ports).join(", "), Tone::Plain),
        ]);
    }
    table.render(look)
}

/// How many tasks run of those that should, in Docker's words.
fn counts(service: &ServiceView) -> String {
    let ServiceView { running, desired, complete, .. } = service;
    let most = service.spec.placement.max_per_node;
    match service.mode {
        Mode::ReplicatedJob { concurrent, .. } => {
            format!("{running}/{concurrent} ({complete}/{desired} completed)")
        }
        Mode::GlobalJob => {
            format!("{running}/{} ({complete}/{desired} completed)", desired.saturating_sub(*complete))
        }
        Mode::Replicated { .. } | Mode::Global => {
            let complete = if *complete > 0 { format!(" ({complete} complete)") } else { String::new() };
            let most = most.map(|most| format!(" (max {most} per node)")).unwrap_or_default();
            format!("{running}/{desired}{most}{complete}")
        }
    }
}

/// Why services are not as they should be, one line a reason.
pub(crate) fn waiting(services: &[ServiceView]) -> Vec<String> {
    let of = |service| move |reason| format!("{} waits: {reason}", full_name(service));
    services.iter().flat_map(|service| service.waiting.iter().map(of(service))).collect()
}

/// Where services do not answer although their tasks run, one line a matter.
pub(crate) fn problems(services: &[ServiceView]) -> Vec<String> {
    let of = |service| move |problem| format!("{}: {problem}", full_name(service));
    services.iter().flat_map(|service| service.problems.iter().map(of(service))).collect()
}

/// Updates of services that are under way, stand, or were undone, one line each.
pub(crate) fn updates(services: &[ServiceView]) -> Vec<String> {
    let told = |service: &&ServiceView| {
        service.update.as_ref().is_some_and(|update| update.state != UpdateState::Completed)
    };
    let line = |service: &ServiceView| {
        let update = service.update.as_ref()?;
        Some(format!("{} {}: {}", full_name(service), update.state, update.message))
    };
    services.iter().filter(told).filter_map(line).collect()
}

/// All there is to know about a service.
pub(crate) fn inspect(service: &ServiceView, look: Look) -> Text {
    let head = Fields::default()
        .put("ID", service.id)
        .put("Name", full_name(service))
        .put("Stack", &service.stack)
        .put("Mode", service.mode)
        .put("Replicas", replicas(service))
        .some("Status", service.removing.then_some("removing"))
        .list("Update", service.update.as_ref().map(|status| update(status, look)))
        .list("Waiting for", &service.waiting)
        .list("Problems", &service.problems)
        .put("Image", &service.image);
    spec(head, &service.spec)
        .put("Created", time::exact(look.now, service.created))
        .put("Updated", time::exact(look.now, service.updated))
        .list("Versions", service.versions.iter().map(|one| version(service, one, look)))
        .render()
}

fn replicas(service: &ServiceView) -> String {
    if let Mode::ReplicatedJob { concurrent, .. } = service.mode {
        return format!(
            "{} running, {concurrent} at a time; {} of {} complete",
            service.running, service.complete, service.desired
        );
    }
    let running = format!("{} of {} running", service.running, service.desired);
    if service.complete == 0 { running } else { format!("{running}, {} complete", service.complete) }
}

fn update(status: &UpdateStatus, look: Look) -> String {
    let at = status.completed.unwrap_or(status.started);
    format!("{} {}: {}", status.state, time::ago(look.now, at), status.message)
}

fn version(service: &ServiceView, version: &VersionView, look: Look) -> String {
    let now = if version.number == service.version { " (now)" } else { "" };
    format!("{}{now} {} {}", version.number, image_of(&version.image), time::ago(look.now, version.at))
}

/// An image with the beginning of its digest, which tells versions with one tag apart.
fn image_of(image: &str) -> String {
    match image.split_once("@sha256:") {
        Some((name, digest)) => format!("{name}@{}", digest.chars().take(DIGEST_SHOWN).collect::<String>()),
        None => image.to_owned(),
    }
}

/// Digits of a digest that tell images apart.
const DIGEST_SHOWN: usize = 12;

fn policy(policy: &UpdatePolicy) -> String {
    let UpdatePolicy { parallelism, delay, order, monitor, failure_action, max_failure_ratio } = policy;
    let many = if *parallelism == 0 { "all at once".to_owned() } else { format!("{parallelism} at a time") };
    let delay = if delay.is_zero() { String::new() } else { format!(", {delay:?} apart") };
    let ratio = if max_failure_ratio.0 == 0 {
        String::new()
    } else {
        format!(" if more than {max_failure_ratio} of them fail")
    };
    format!("{many}{delay}, {order}, watched for {monitor:?}, on failure {failure_action}{ratio}")
}

fn spec(head: Fields, spec: &ServiceSpec) -> Fields {
    let container = &spec.container;
    let dnsrr = spec.endpoint_mode == EndpointMode::Dnsrr;
    head.some("Entrypoint", container.entrypoint.as_deref().map(words))
        .some("Command", container.command.as_deref().map(words))
        .list("Environment", pairs(&container.env))
        .some("User", container.user.as_ref())
        .some("Directory", container.working_dir.as_ref())
        .list("Ports", ports(&spec.ports))
        .some("Endpoint mode", dnsrr.then_some("dnsrr: its name stands for its tasks"))
        .list("Networks", spec.networks.iter().map(|to| with_aliases(to.network.as_str(), &to.aliases)))
        .some("Container name", container.container_name.as_ref())
        .list("Mounts", container.mounts.iter().map(mount))
        .list("Options", options(container))
        .some("Health check", container.healthcheck.as_ref().map(healthcheck))
        .list("Constraints", &spec.placement.constraints)
        .list("Spread over", &spec.placement.spread)
        .some("Order", (spec.order == SlotOrder::Slots).then_some("slot by slot"))
        .some("Most on one node", spec.placement.max_per_node)
        .list("Together with", &spec.placement.with)
        .list("Apart from", &spec.placement.apart_from)
        .list(
            "Generic resources",
            spec.resources.generic.iter().map(|(kind, count)| format!("{kind}={count}")),
        )
        .some("Reserved", amounts(spec.resources.reservations))
        .some("Limit", amounts(spec.resources.limits))
        .put("Restart", restart(&spec.restart))
        .some("Update policy", (!spec.mode.is_job()).then(|| policy(&spec.update)))
        .some("Rollback policy", (!spec.mode.is_job()).then(|| policy(&spec.rollback)))
        .list("Labels", pairs(&spec.labels))
        .list("Container labels", pairs(&container.labels))
}

/// Options of the container that have no line of their own, as the API names them.
fn options(container: &ContainerSpec) -> Vec<String> {
    const SHOWN: [&str; 16] = [
        "image",
        "command",
        "entrypoint",
        "env",
        "hostname",
        "user",
        "working_dir",
        "stop_signal",
        "stop_grace",
        "labels",
        "init",
        "read_only",
        "mounts",
        "healthcheck",
        "container_name",
        "endpoints",
    ];
    let Ok(serde_json::Value::Object(all)) = serde_json::to_value(container) else { return Vec::new() };
    let rest = all.into_iter().filter(|(key, _)| !SHOWN.contains(&key.as_str()));
    rest.map(|(key, value)| format!("{key}: {value}")).collect()
}

fn pairs(map: &std::collections::BTreeMap<String, String>) -> impl Iterator<Item = String> {
    map.iter().map(|(key, value)| format!("{key}={value}"))
}

/// Published ports, ranges of them as such; those of tasks' own nodes say so.
fn ports(ports: &[PortSpec]) -> Vec<String> {
    let mut sorted = ports.to_vec();
    sorted.sort_by_key(|port| (port.protocol, port.host_ip, port.mode, port.published));
    let mut ranges: Vec<(PortSpec, u16)> = Vec::new();
    for port in sorted {
        match ranges.last_mut() {
            Some((first, more)) if follows(first, *more, &port) => *more += 1,
            Some(_) | None => ranges.push((port, 0)),
        }
    }
    ranges.into_iter().map(|(first, more)| range(&first, more)).collect()
}

/// `port` comes next in a range of `first` and `more` others.
fn follows(first: &PortSpec, more: u16, port: &PortSpec) -> bool {
    let next = |number: u16| number.checked_add(more).and_then(|last| last.checked_add(1));
    (first.protocol, first.host_ip, first.mode) == (port.protocol, port.host_ip, port.mode)
        && next(first.published) == Some(port.published)
        && next(first.target) == Some(port.target)
}

fn range(first: &PortSpec, more: u16) -> String {
    let PortSpec { protocol, published, target, host_ip, mode } = first;
    let numbers =
        |first: u16| if more == 0 { first.to_string() } else { format!("{first}-{}", first + more) };
    let address = host_ip.map_or_else(|| "*".to_owned(), |address| address.to_string());
    let own = match mode {
        PublishMode::Ingress => "",
        PublishMode::Host => " (host)",
    };
    format!("{address}:{}->{}/{protocol}{own}", numbers(*published), numbers(*target))
}

/// Words of a command; one with blanks in it is quoted, so that the borders are seen.
fn words(words: &[String]) -> String {
    let plain = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
    let shown = words.iter().map(|word| if plain(word) { word.clone() } else { format!("{word:?}") });
    shown.collect::<Vec<_>>().join(" ")
}

fn with_aliases(network: &str, aliases: &[String]) -> String {
    if aliases.is_empty() { network.to_owned() } else { format!("{network} (also {})", aliases.join(", ")) }
}

fn mount(mount: &Mount) -> String {
    let source = match &mount.source {
        MountSource::Volume { name, .. } => format!("volume {name}"),
        MountSource::Anonymous => "new volume".to_owned(),
        MountSource::Bind { path, .. } => path.clone(),
        MountSource::Tmpfs { size: Some(size), .. } => format!("memory, at most {size}"),
        MountSource::Tmpfs { size: None, .. } => "memory".to_owned(),
        MountSource::Image { image } => format!("image {image}"),
    };
    let how = if mount.read_only { " (read-only)" } else { "" };
    format!("{} <- {source}{how}", mount.target)
}

fn healthcheck(check: &Healthcheck) -> String {
    match check {
        Healthcheck::Disabled => "switched off".to_owned(),
        Healthcheck::Check { test: Some(test), .. } => words(test),
        Healthcheck::Check { test: None, .. } => "the image's own".to_owned(),
    }
}

fn amounts(amounts: Amounts) -> Option<String> {
    match (amounts.cpu, amounts.memory) {
        (None, None) => None,
        (Some(cpu), None) => Some(format!("{cpu} CPUs")),
        (None, Some(memory)) => Some(format!("{memory} memory")),
        (Some(cpu), Some(memory)) => Some(format!("{cpu} CPUs, {memory} memory")),
    }
}

fn restart(policy: &RestartPolicy) -> String {
    let condition = match policy.condition {
        RestartCondition::None => return "never".to_owned(),
        RestartCondition::OnFailure => "on failure",
        RestartCondition::Any => "always",
    };
    let most = policy.max_attempts.map(|most| format!(", at most {most} times")).unwrap_or_default();
    format!("{condition}, after {:?}{most}", policy.delay)
}
