//! What a container may use of its host, in the engine's words.

use std::time::Duration;

use bollard::models::{
    DeviceMapping, DeviceRequest, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig,
    ResourcesBlkioWeightDevice, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, ThrottleDevice,
};
use raftup_proto::{
    spec::{BlockRate, Privileges, Swap},
    unit::MemBytes,
};

use super::{map, mounts, signed, some};
use crate::engine::ContainerSettings;

/// Billionths of a core in a thousandth of one.
const NANOS_PER_MILLI: u64 = 1_000_000;
/// Says that a container's processes see all of `/proc` and `/sys`. Source: Docker's command, which takes it apart too.
const ALL_PATHS: &str = "systempaths=unconfined";

pub(super) fn config(settings: &ContainerSettings) -> HostConfig {
    let spec = &settings.spec;
    let limits = settings.resources.limits;
    let reserved = settings.resources.reservations.memory;
    let (names, shared, rights) = (&spec.names, &spec.namespaces, &spec.privileges);
    let (cpu, memory, disks) = (&spec.cpu, &spec.memory, &spec.block_io);
    let own_network = shared.network.clone().unwrap_or_else(|| "none".to_owned());
    let cluster = settings.dns.iter().map(ToString::to_string);
    let hosts = names.hosts.iter().map(|(name, address)| format!("{name}:{address}"));
    let all_paths = rights.security_opt.iter().any(|option| option == ALL_PATHS);
    let options = rights.security_opt.iter().filter(|option| *option != ALL_PATHS).cloned();
    let annotations = &spec.annotations;
    HostConfig {
        nano_cpus: limits.cpu.map(|cpu| signed(cpu.0.saturating_mul(NANOS_PER_MILLI))),
        cpu_shares: cpu.shares.map(i64::from),
        cpu_period: cpu.period.map(micros),
        cpu_quota: cpu.quota.map(micros),
        cpu_realtime_period: cpu.realtime_period.map(micros),
        cpu_realtime_runtime: cpu.realtime_runtime.map(micros),
        cpuset_cpus: cpu.set.clone(),
        memory: limits.memory.map(|memory| signed(memory.0)),
        memory_reservation: reserved.map(|memory| signed(memory.0)),
        memory_swap: memory.swap.map(|swap| match swap {
            Swap::Unlimited => -1,
            Swap::Limit(MemBytes(bytes)) => signed(bytes),
        }),
        memory_swappiness: memory.swappiness.map(i64::from),
        shm_size: memory.shm_size.map(|size| signed(size.0)),
        oom_kill_disable: memory.oom_kill_disable.then_some(true),
        oom_score_adj: memory.oom_score_adj.map(i64::from),
        pids_limit: settings.resources.pids.map(i64::from),
        blkio_weight: disks.weight,
        blkio_weight_device: some(
            disks
                .weight_device
                .iter()
                .map(|device| ResourcesBlkioWeightDevice {
                    path: Some(device.path.clone()),
                    weight: Some(device.weight.into()),
                })
                .collect(),
        ),
        blkio_device_read_bps: some(rates(&disks.read_bps)),
        blkio_device_write_bps: some(rates(&disks.write_bps)),
        blkio_device_read_iops: some(rates(&disks.read_iops)),
        blkio_device_write_iops: some(rates(&disks.write_iops)),
        ulimits: some(
            spec.ulimits
                .iter()
                .map(|(name, limit)| ResourcesUlimits {
                    name: Some(name.clone()),
                    soft: Some(limit.soft),
                    hard: Some(limit.hard),
                })
                .collect(),
        ),
        sysctls: map(&spec.sysctls),
        init: spec.init.then_some(true),
        readonly_rootfs: Some(spec.read_only),
        binds: Some(mounts::binds(settings)),
        mounts: Some(mounts::mounts(settings)),
        tmpfs: mounts::tmpfs(settings),
        // A task is one attempt; the cluster decides about the next.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        network_mode: Some(settings.networks.first().map_or(own_network, |first| first.network.clone())),
        // The cluster's names come first: the engine asks the others where these do not answer.
        dns: Some(cluster.chain(names.servers.iter().map(ToString::to_string)).collect()),
        dns_options: some(names.options.clone()),
        dns_search: some(names.search.clone()),
        extra_hosts: some(hosts.collect()),
        pid_mode: shared.pid.clone(),
        ipc_mode: shared.ipc.clone(),
        uts_mode: shared.uts.clone(),
        userns_mode: shared.user.clone(),
        cgroupns_mode: shared.cgroup.as_deref().map(|mode| match mode {
            "host" => HostConfigCgroupnsModeEnum::HOST,
            _ => HostConfigCgroupnsModeEnum::PRIVATE,
        }),
        cgroup_parent: shared.cgroup_parent.clone(),
        privileged: rights.privileged.then_some(true),
        cap_add: some(rights.cap_add.clone()),
        cap_drop: some(rights.cap_drop.clone()),
        security_opt: some(options.collect()),
        masked_paths: all_paths.then(Vec::new),
        readonly_paths: all_paths.then(Vec::new),
        group_add: some(rights.group_add.clone()),
        devices: some(devices(rights)),
        device_cgroup_rules: some(rights.device_cgroup_rules.clone()),
        device_requests: some(requests(rights)),
        runtime: spec.runtime.clone(),
        log_config: spec.logging.as_ref().map(|logging| HostConfigLogConfig {
            typ: logging.driver.clone(),
            config: map(&logging.options),
        }),
        annotations: map(annotations),
        storage_opt: map(&spec.storage_opt),
        ..HostConfig::default()
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn rates(rates: &[BlockRate]) -> Vec<ThrottleDevice> {
    let rate =
        |rate: &BlockRate| ThrottleDevice { path: Some(rate.path.clone()), rate: Some(signed(rate.rate)) };
    rates.iter().map(rate).collect()
}

fn devices(rights: &Privileges) -> Vec<DeviceMapping> {
    let mapping = |device: &raftup_proto::spec::DeviceMapping| DeviceMapping {
        path_on_host: Some(device.source.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    };
    rights.devices.iter().map(mapping).collect()
}

fn requests(rights: &Privileges) -> Vec<DeviceRequest> {
    let request = |request: &raftup_proto::spec::DeviceRequest| DeviceRequest {
        driver: request.driver.clone(),
        count: request.count,
        device_ids: some(request.device_ids.clone()),
        // Alternatives of sets that must all be there; a file names one set.
        capabilities: some(request.capabilities.clone()).map(|set| vec![set]),
        options: map(&request.options),
    };
    rights.device_requests.iter().map(request).collect()
}
