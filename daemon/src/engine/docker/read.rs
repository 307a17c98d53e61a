//! What the engine answers, in our words. Pure; every field may be missing.

use std::collections::{BTreeMap, BTreeSet};

use bollard::{
    container::LogOutput,
    models::{
        ContainerState, ContainerStateStatusEnum as Status, ContainerSummary,
        ContainerSummaryStateEnum as Listed, EndpointSettings, EventMessage, GenericResourcesInner,
        HealthStatusEnum, ImageInspect, Network as ApiNetwork, SystemInfo,
    },
};
use raftup_proto::{
    peer::Platform,
    unit::{CpuMillis, MemBytes, UnixMillis},
};

use super::{
    super::{
        Condition, Event, EventKind, Exit, Health, Image, LogPart, Network, Setup, labels,
        version::{Version, gateway_mode},
    },
    ask::GATEWAY_MODE,
};

/// Longest line of a log, in bytes; longer ones are cut into several.
const LINE_MAX: usize = 256 << 10;
/// Most bytes of a health check's output that are told on.
const OUTPUT_MAX: usize = 300;

/// Whom containers' root is on the host. The engine does not say so but in the name of its directory, which it makes
/// `UID.GID` where users are mapped.
pub(super) fn root(info: &SystemInfo) -> (u32, u32) {
    let mut options = info.security_options.iter().flatten();
    let mapped = options.any(|option| option.split(',').any(|word| word == "name=userns"));
    let last = info.docker_root_dir.as_deref().and_then(|dir| dir.trim_end_matches('/').rsplit('/').next());
    let ids = last.filter(|_| mapped).and_then(|name| name.split_once('.'));
    ids.and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?))).unwrap_or_default()
}

pub(super) fn platform(info: SystemInfo) -> Platform {
    let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or_default();
    Platform {
        os: info.os_type.unwrap_or_default(),
        arch: info.architecture.map(|arch| architecture(&arch)).unwrap_or_default(),
        kernel: info.kernel_version.unwrap_or_default(),
        engine: Some(info.server_version.unwrap_or_default()),
        engine_labels: info.labels.unwrap_or_default(),
        cpu: CpuMillis(number(info.ncpu).saturating_mul(1000)),
        memory: MemBytes(number(info.mem_total)),
        generic: generic(info.generic_resources.unwrap_or_default()),
    }
}

/// How much there is of each kind: a number, or as many as there are names.
fn generic(resources: Vec<GenericResourcesInner>) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for GenericResourcesInner { named_resource_spec, discrete_resource_spec } in resources {
        let named = named_resource_spec.and_then(|named| Some((named.kind?, 1)));
        let discrete = discrete_resource_spec
            .and_then(|discrete| Some((discrete.kind?, u64::try_from(discrete.value?).ok()?)));
        for (kind, count) in named.into_iter().chain(discrete) {
            let known = all.entry(kind).or_default();
            *known = known.saturating_add(count);
        }
    }
    all
}

pub(super) fn setup(info: SystemInfo) -> Setup {
    let pools = info.default_address_pools.into_iter().flatten();
    Setup {
        root: info.docker_root_dir.unwrap_or_default().into(),
        pools: pools.filter_map(|pool| pool.base?.parse().ok()).collect(),
    }
}

/// The kernel's word for an architecture in Docker's.
fn architecture(kernel: &str) -> String {
    match kernel {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" => "arm",
        other => other,
    }
    .to_owned()
}

/// How a listed container is; none if the list does not say enough.
pub(super) fn listed(summary: &ContainerSummary) -> Option<Condition> {
    match summary.state? {
        Listed::CREATED => Some(Condition::Created),
        Listed::RUNNING | Listed::PAUSED => {
            // Such as `Up 2 minutes (health: starting)`; only the newest engines have a field for it.
            let status = summary.status.as_deref().unwrap_or_default();
            if status.contains("(unhealthy)") {
                return None;
            }
            let health = match status {
                _ if status.contains("(healthy)") => Health::Healthy,
                _ if status.contains("(health: starting)") => Health::Starting,
                _ => Health::Unchecked,
            };
            Some(Condition::Running(health))
        }
        Listed::EMPTY
        | Listed::RESTARTING
        | Listed::EXITED
        | Listed::REMOVING
        | Listed::DEAD
        | Listed::STOPPING => None,
    }
}

/// How an inspected container is.
pub(super) fn condition(state: ContainerState) -> Condition {
    let exit = Exit {
        code: state.exit_code.unwrap_or_default(),
        out_of_memory: state.oom_killed.unwrap_or_default(),
        error: state.error.clone().unwrap_or_default(),
        started: state.started_at.as_deref().and_then(time),
        with_engine: false,
    };
    match state.status {
        Some(Status::CREATED) => Condition::Created,
        Some(Status::RUNNING | Status::PAUSED | Status::RESTARTING) => Condition::Running(health(state)),
        None if state.running == Some(true) => Condition::Running(health(state)),
        None | Some(_) => Condition::Exited(exit),
    }
}

/// The first process of a container that runs.
pub(super) fn process(state: ContainerState) -> Option<u32> {
    state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0)
}

/// A time that the engine gives; none for its zero time, which is in the year 1.
fn time(text: &str) -> Option<UnixMillis> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(UnixMillis)
}

fn health(state: ContainerState) -> Health {
    let Some(health) = state.health else { return Health::Unchecked };
    match health.status {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => {
            let last = health.log.and_then(|mut log| log.pop()).and_then(|check| check.output);
            let mut output = last.unwrap_or_default().trim().to_owned();
            let cut = (0..=OUTPUT_MAX.min(output.len())).rev().find(|at| output.is_char_boundary(*at));
            output.truncate(cut.unwrap_or_default());
            Health::Unhealthy { output }
        }
        None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) => Health::Unchecked,
    }
}

/// Ids of the networks that a listed container is on.
pub(super) fn listed_networks(summary: &ContainerSummary) -> BTreeSet<String> {
    let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    networks.map(|networks| networks.values().filter_map(network_id).collect()).unwrap_or_default()
}

/// The id of a network that a container is on.
pub(super) fn network_id(endpoint: &EndpointSettings) -> Option<String> {
    endpoint.network_id.clone().filter(|id| !id.is_empty())
}

/// A container was taken off a network.
pub(super) fn detached(message: EventMessage) -> Option<Event> {
    let container = message.actor?.attributes?.remove("container")?;
    Some(Event { container, task: None, kind: EventKind::Detached })
}

/// An event of a container that we act on.
pub(super) fn event(message: EventMessage) -> Option<Event> {
    let actor = message.actor?;
    let attributes = actor.attributes?;
    let kind = match message.action.as_deref()? {
        "start" => EventKind::Started,
        "kill" => EventKind::Signalled { signal: attributes.get("signal")?.parse().ok()? },
        "pause" => EventKind::Paused,
        "die" => EventKind::Died { code: attributes.get("exitCode")?.parse().ok()? },
        "oom" => EventKind::OutOfMemory,
        "health_status: healthy" => EventKind::Healthy,
        "health_status: unhealthy" => EventKind::Unhealthy,
        "destroy" => EventKind::Removed,
        _ => return None,
    };
    Some(Event { container: actor.id?, task: Some(labels::task(&attributes)?), kind })
}

/// A network, as an engine of this version lists it.
pub(super) fn network(network: ApiNetwork, version: Option<Version>) -> Option<Network> {
    let of = network.labels.as_ref().and_then(labels::network);
    let mode = network.options.as_ref().and_then(|options| options.get(GATEWAY_MODE));
    let outdated = gateway_mode(version).is_some_and(|needed| mode.is_none_or(|mode| mode != needed));
    Some(Network { id: network.id?, name: network.name?, of, outdated })
}

pub(super) fn image(image: &ImageInspect) -> Image {
    let check = image.config.as_ref().and_then(|config| config.healthcheck.as_ref());
    let test = check.and_then(|check| check.test.as_ref());
    let checked = test.is_some_and(|test| !test.is_empty() && test[0] != "NONE");
    Image { checked }
}

/// The end of what a command wrote.
#[derive(Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn take(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        let more = self.0.len().saturating_sub(super::super::OUTPUT_MAX);
        self.0.drain(..more);
    }

    /// As one line.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Puts lines together that the engine hands out in pieces, apart for each stream.
#[derive(Default)]
pub(super) struct Lines {
    out: Vec<u8>,
    err: Vec<u8>,
    out_at: i64,
    err_at: i64,
}

impl Lines {
    /// The lines that are complete with `piece`; at the end (none), those that never were.
    pub(super) fn take(&mut self, piece: Option<LogOutput>) -> Vec<LogPart> {
        let Some(piece) = piece else {
            let ends = [(false, self.out_at, &mut self.out), (true, self.err_at, &mut self.err)];
            return ends
                .into_iter()
                .filter(|end| !end.2.is_empty())
                .map(|end| line(end.0, end.1, end.2))
                .collect();
        };
        let stderr = matches!(piece, LogOutput::StdErr { .. });
        let (held, held_at) =
            if stderr { (&mut self.err, &mut self.err_at) } else { (&mut self.out, &mut self.out_at) };
        let bytes = piece.into_bytes();
        let (stamp, text) = split_stamp(&bytes);
        if held.is_empty() {
            *held_at = stamp;
        }
        held.extend_from_slice(text);
        if held.ends_with(b"\n") || held.len() >= LINE_MAX {
            return vec![line(stderr, *held_at, held)];
        }
        Vec::new()
    }
}

fn line(stderr: bool, at_nanos: i64, held: &mut Vec<u8>) -> LogPart {
    let text = String::from_utf8_lossy(held);
    let line = text.trim_end_matches(['\n', '\r']).to_owned();
    held.clear();
    LogPart { stderr, at_nanos, line }
}

/// A piece without its time stamp, and that in nanoseconds.
fn split_stamp(bytes: &[u8]) -> (i64, &[u8]) {
    let parsed = bytes.iter().position(|byte| *byte == b' ').and_then(|end| {
        let stamp: jiff::Timestamp = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
        Some((i64::try_from(stamp.as_nanosecond()).ok()?, &bytes[end + 1..]))
    });
    parsed.unwrap_or((0, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str) -> Option<LogOutput> {
        Some(LogOutput::StdOut { message: text.to_owned().into() })
    }

    #[test]
    fn root_of_containers_is_found_where_users_are_mapped() {
        let info = |options: &[&str], dir: &str| SystemInfo {
            security_options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            docker_root_dir: Some(dir.to_owned()),
            ..SystemInfo::default()
        };
        let mapped = ["name=seccomp,profile=builtin", "name=userns"];
        assert_eq!(root(&info(&mapped, "/var/lib/docker/231072.296608")), (231_072, 296_608));
        assert_eq!(root(&info(&[], "/var/lib/docker/231072.296608")), (0, 0));
        assert_eq!(root(&info(&mapped, "/var/lib/docker")), (0, 0));
    }

    #[test]
    fn generic_resources_are_counted_by_kind() {
        let info = r#"{"GenericResources": [{"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}},
            {"NamedResourceSpec": {"Kind": "gpu", "Value": "UUID1"}}, {"NamedResourceSpec": {"Kind": "gpu", "Value": "UUID2"}},
            {"DiscreteResourceSpec": {"Kind": "odd", "Value": -1}}]}"#;
        let all = platform(serde_json::from_str(info).unwrap()).generic;
        assert_eq!(all, BTreeMap::from([("gpu".to_owned(), 2), ("ssd".to_owned(), 3)]));
    }

    #[test]
    fn the_end_of_an_output_is_kept_as_one_line() {
        let mut tail = Tail::default();
        tail.take(&[b'x'; 2000]);
        tail.take(b" cannot\n  reach\tit \xff\n");
        let text = tail.text();
        assert!(text.ends_with("x cannot reach it \u{fffd}") && text.len() < 520, "{text}");
    }

    #[test]
    fn lines_are_put_together() {
        let mut lines = Lines::default();
        assert!(lines.take(piece("2026-11-21T00:00:00.000000001Z half")).is_empty());
        let whole = lines.take(piece("2026-11-21T00:00:01Z  a line\n"));
        assert_eq!(whole[0].line, "half a line");
        assert_eq!(whole[0].at_nanos % 1_000_000_000, 1);
        assert!(lines.take(piece("2026-11-21T00:00:02Z no end")).is_empty());
        assert_eq!(lines.take(None)[0].line, "no end");
        assert!(lines.take(None).is_empty());
    }
}
