//! `deploy`, and the service keys that say the same: how many tasks, where, with what, and what happens when one ends.

use std::{str::FromStr, time::Duration};

use super::{
    environment,
    item::{Fields, Item},
    keys, placement, privileges,
    text::{self, clip},
};
use crate::{
    spec::{
        Amounts, DeviceRequest, EndpointMode, FailureAction, MAX_REPLICAS, Mode, Placement, Resources,
        RestartCondition, RestartPolicy, UpdatePolicy,
    },
    unit::{CpuMillis, MemBytes},
};

/// What `deploy` says.
pub(super) struct Deploy {
    pub(super) mode: Mode,
    pub(super) endpoint_mode: EndpointMode,
    pub(super) placement: Placement,
    pub(super) resources: Resources,
    pub(super) devices: Vec<DeviceRequest>,
    pub(super) restart: RestartPolicy,
    pub(super) labels: std::collections::BTreeMap<String, String>,
    pub(super) update: UpdatePolicy,
    pub(super) rollback: UpdatePolicy,
}

/// Least memory that the engine gives to a container.
const MEMORY_MIN: u64 = 6 << 20;
/// Most restarts or processes that can be named.
const COUNT_MAX: u32 = 1 << 30;

/// Reads `deploy` and its short forms in the service: `scale`, `restart`, `cpus`, `mem_limit` and their kin.
pub(super) fn read(service: &Fields<'_>) -> Deploy {
    let deploy = service.get("deploy").and_then(|item| item.fields());
    let get = |key| deploy.as_ref().and_then(|deploy| deploy.get(key));
    let mode = mode(get("mode"), get("replicas"), service.get("scale"));
    let labels = get("labels").map(|labels| environment::labels(&labels)).unwrap_or_default();
    let (resources, devices) = resources(service, get("resources"));
    let placement = get("placement").map(|item| placement::read(&item, mode)).unwrap_or_default();
    let restart = restart(get("restart_policy"), service.given("restart"), mode);
    let endpoint_mode = get("endpoint_mode").and_then(|item| {
        item.parse(|text| match text {
            "vip" => Ok(EndpointMode::Vip),
            "dnsrr" => Ok(EndpointMode::Dnsrr),
            other => Err(format!("`{}` is neither `vip` nor `dnsrr`", clip(other))),
        })
    });
    let endpoint_mode = endpoint_mode.unwrap_or_default();
    for key in ["update_config", "rollback_config"] {
        if let Some(item) = get(key).filter(|item| mode.is_job() && !item.is_null()) {
            item.warn("has no effect: a job that changes is run again as a whole");
        }
    }
    let update = get("update_config").map(|item| update(&item)).unwrap_or_default();
    let rollback = get("rollback_config").map(|item| rollback(&item)).unwrap_or_default();
    if let Some(deploy) = deploy {
        deploy.end(&keys::DEPLOY);
    }
    Deploy { mode, endpoint_mode, placement, resources, devices, restart, labels, update, rollback }
}

fn mode(mode: Option<Item<'_>>, replicas: Option<Item<'_>>, scale: Option<Item<'_>>) -> Mode {
    let count = |item: &Item<'_>| match text::whole(item.filled()?, 0, MAX_REPLICAS.into()) {
        Ok(count) => u32::try_from(count).ok(),
        Err(message) => {
            item.error_help(message, format!("a service can have up to {MAX_REPLICAS} replicas"));
            None
        }
    };
    let given = (replicas.as_ref().map(count), scale.as_ref().map(count));
    if let ((Some(Some(replicas)), Some(Some(count))), Some(item)) = (given, &scale)
        && replicas != count
    {
        item.error(format!("`scale` says {count}, but `deploy.replicas` says {replicas}"));
    }
    let count = given.0.or(given.1).flatten().unwrap_or(1);
    let mode = mode.and_then(|item| {
        item.parse(|text| match text {
            "replicated" => Ok(Mode::Replicated { replicas: count }),
            "global" => Ok(Mode::Global),
            "replicated-job" => Ok(Mode::ReplicatedJob { completions: count, concurrent: count }),
            "global-job" => Ok(Mode::GlobalJob),
            other => Err(format!(
                "`{}` is none of `replicated`, `global`, `replicated-job` and `global-job`",
                clip(other)
            )),
        })
    });
    let mode = mode.unwrap_or(Mode::Replicated { replicas: count });
    for item in replicas.iter().chain(&scale).filter(|_| mode.is_global()) {
        item.warn("has no effect: a global service has one task on each node");
    }
    mode
}

fn resources(service: &Fields<'_>, item: Option<Item<'_>>) -> (Resources, Vec<DeviceRequest>) {
    let fields = item.and_then(|item| item.fields());
    let part = |key| fields.as_ref().and_then(|fields| fields.get(key)).and_then(|item| item.fields());
    let (limits, reservations) = (part("limits"), part("reservations"));
    let pids = either(of(limits.as_ref(), "pids"), service.given("pids_limit"), pids);
    let found = Resources {
        limits: Amounts {
            cpu: either(of(limits.as_ref(), "cpus"), service.given("cpus"), cpus),
            memory: either(of(limits.as_ref(), "memory"), service.given("mem_limit"), memory_limit),
        },
        reservations: Amounts {
            cpu: either(of(reservations.as_ref(), "cpus"), None, cpus),
            memory: either(of(reservations.as_ref(), "memory"), service.given("mem_reservation"), memory),
        },
        pids: pids.flatten(),
        generic: of(reservations.as_ref(), "generic_resources")
            .map(|item| placement::generic(&item))
            .unwrap_or_default(),
    };
    let over = |more: Option<u64>, less: Option<u64>| more.zip(less).is_some_and(|(more, less)| more > less);
    let (want, most) = (found.reservations, found.limits);
    if over(want.memory.map(|memory| memory.0), most.memory.map(|memory| memory.0))
        || over(want.cpu.map(|cpu| cpu.0), most.cpu.map(|cpu| cpu.0))
    {
        let item = reservations.as_ref().map_or(&service.item, |fields| &fields.item);
        item.error("more is reserved than the limit allows");
    }
    let devices = of(reservations.as_ref(), "devices").map(|item| privileges::reserved(&item));
    if let Some(fields) = limits {
        fields.end(&keys::LIMITS);
    }
    if let Some(fields) = reservations {
        fields.end(&keys::RESERVATIONS);
    }
    if let Some(fields) = fields {
        fields.end(&keys::RESOURCES);
    }
    (found, devices.unwrap_or_default())
}

fn of<'a>(fields: Option<&Fields<'a>>, key: &'static str) -> Option<Item<'a>> {
    fields?.get(key)
}

/// Reads what two keys may say, if they do not contradict each other.
fn either<T: PartialEq>(
    first: Option<Item<'_>>,
    second: Option<Item<'_>>,
    read: impl Fn(&Item<'_>) -> Option<T>,
) -> Option<T> {
    let (one, other) = (first.as_ref().and_then(&read), second.as_ref().and_then(&read));
    if let (Some(one), Some(other), Some(first), Some(second)) = (&one, &other, &first, &second)
        && one != other
    {
        second.error(format!("contradicts `{}`, at {}", first.path, first.cx.show(first.node.at)));
    }
    one.or(other)
}

/// Zero and -1 stand for no limit, as in the engine.
fn pids(item: &Item<'_>) -> Option<Option<u32>> {
    if item.filled()? == "-1" {
        return Some(None);
    }
    item.whole(0, COUNT_MAX).map(|count| Some(count).filter(|count| *count > 0))
}

fn cpus(item: &Item<'_>) -> Option<CpuMillis> {
    item.parse(text::cpu_millis).map(CpuMillis)
}

fn memory(item: &Item<'_>) -> Option<MemBytes> {
    let memory = item.parse(text::bytes).map(MemBytes)?;
    if memory.0 == 0 {
        item.error("must be more than nothing");
    }
    Some(memory)
}

fn memory_limit(item: &Item<'_>) -> Option<MemBytes> {
    let limit = memory(item)?;
    if (1..MEMORY_MIN).contains(&limit.0) {
        item.error(format!("is less than the {} that the engine needs", MemBytes(MEMORY_MIN)));
    }
    Some(limit)
}

/// `deploy.restart_policy`, or else `restart`. A task of a job is started again after a failure alone.
fn restart(policy: Option<Item<'_>>, short: Option<Item<'_>>, mode: Mode) -> RestartPolicy {
    let default = match mode.is_job() {
        true => RestartPolicy { condition: RestartCondition::OnFailure, ..RestartPolicy::default() },
        false => RestartPolicy::default(),
    };
    let check = |item: &Item<'_>, condition| {
        if mode.is_job() && condition == RestartCondition::Any {
            let message = "a job is not started again once it is complete";
            item.error_help(
                message,
                "write `on-failure` or `none`, or leave it out: it is `on-failure` then",
            );
        }
    };
    let mut restart = default;
    if let Some(item) = &short
        && let Some((condition, max_attempts)) = item.parse(short_restart)
    {
        if policy.as_ref().is_none_or(Item::is_null) {
            check(item, condition);
        }
        restart = RestartPolicy { condition, max_attempts, ..restart };
    }
    let Some(fields) = policy.and_then(|item| item.fields()) else { return restart };
    restart = default;
    if let Some(item) = short {
        item.warn("has no effect beside `deploy.restart_policy`");
    }
    let condition = fields.given("condition").and_then(|item| {
        item.parse(|text| match text {
            "none" | "no" => Ok(RestartCondition::None),
            "on-failure" => Ok(RestartCondition::OnFailure),
            "any" | "always" | "unless-stopped" => Ok(RestartCondition::Any),
            other => Err(format!("`{}` is none of `none`, `on-failure` and `any`", clip(other))),
        })
        .inspect(|condition| check(&item, *condition))
    });
    restart.condition = condition.unwrap_or(restart.condition);
    restart.delay = fields.get("delay").and_then(|item| item.duration()).unwrap_or(restart.delay);
    // Zero stands for no bound, as in Swarm.
    let attempts = fields.get("max_attempts").and_then(|item| item.whole(0, COUNT_MAX));
    restart.max_attempts = attempts.filter(|attempts| *attempts > 0);
    restart.window =
        fields.get("window").and_then(|item| item.duration()).filter(|window| *window > Duration::ZERO);
    fields.end(&keys::RESTART_POLICY);
    restart
}

/// `update_config`. A global service takes all of it: as in Swarm, its new task starts beside the old one on the node.
fn update(item: &Item<'_>) -> UpdatePolicy {
    let default = UpdatePolicy::default();
    let Some(fields) = item.fields() else { return default };
    let parallelism = fields.get("parallelism").and_then(|item| item.whole(0, MAX_REPLICAS));
    let policy = UpdatePolicy {
        parallelism: parallelism.unwrap_or(default.parallelism),
        delay: fields.get("delay").and_then(|item| item.duration()).unwrap_or(default.delay),
        order: word(&fields, "order").unwrap_or(default.order),
        monitor: fields
            .get("monitor")
            .and_then(|item| item.duration())
            .filter(|monitor| *monitor > Duration::ZERO)
            .unwrap_or(default.monitor),
        failure_action: word(&fields, "failure_action").unwrap_or(default.failure_action),
        max_failure_ratio: word(&fields, "max_failure_ratio").unwrap_or(default.max_failure_ratio),
    };
    fields.end(&keys::UPDATE_CONFIG);
    policy
}

/// `rollback_config`: the same, but there is nothing further to go back to.
fn rollback(item: &Item<'_>) -> UpdatePolicy {
    let policy = update(item);
    if policy.failure_action == FailureAction::Rollback
        && let Some(item) = item.fields().and_then(|fields| fields.get("failure_action"))
    {
        item.error("`rollback` is neither `pause` nor `continue`");
    }
    policy
}

fn word<T: FromStr<Err = String>>(fields: &Fields<'_>, key: &'static str) -> Option<T> {
    let item = fields.get(key)?;
    item.parse(|text| text.parse().map_err(|what| format!("`{}` is {what}", clip(text))))
}

/// The engine's own words. What a person stopped is gone here, so `unless-stopped` is `always`.
fn short_restart(text: &str) -> Result<(RestartCondition, Option<u32>), String> {
    match text.split_once(':').unwrap_or((text, "")) {
        ("no", "") => Ok((RestartCondition::None, None)),
        ("always" | "unless-stopped", "") => Ok((RestartCondition::Any, None)),
        ("on-failure", "") => Ok((RestartCondition::OnFailure, None)),
        ("on-failure", count) => {
            let count = text::whole(count, 1, COUNT_MAX.into())?;
            Ok((RestartCondition::OnFailure, u32::try_from(count).ok()))
        }
        _ => {
            let all = "`no`, `always`, `unless-stopped`, `on-failure` and `on-failure:N`";
            Err(format!("`{}` is none of {all}", clip(text)))
        }
    }
}
