//! Every option of a compose file, down to the container that a real engine has made of it.

use std::{collections::BTreeMap, path::Path};

use bollard::query_parameters::InspectContainerOptions;
use raftup_proto::{
    compose::{self, Input},
    spec::{ServiceSpec, StackSpec},
};
use serde_json::{Value, json};

use super::ask;
use crate::engine::{
    ContainerSettings, Engine, EngineError, labels,
    tests::{CLUSTER, IMAGE, real, settings as settings_of, task},
};

/// A stack with one service `web` of the test's image, from the lines of the service and of the rest of the file.
fn stack(lines: &str, rest: &str) -> StackSpec {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("name: shop\nservices:\n  web:\n    image: {}\n{lines}{rest}\n", IMAGE);
    let read = |path: &Path, _| match path.ends_with("profile.json") {
        true => Ok(br#"{"defaultAction": "SCMP_ACT_ALLOW"}"#.to_vec()),
        false if path.ends_with("compose.yaml") => Ok(text.clone().into_bytes()),
        false => Err(std::io::ErrorKind::NotFound.into()),
    };
    let (files, env) = (["compose.yaml".into()], BTreeMap::new());
    let project_dir = Path::new("/srv/shop");
    let input = Input {
        files: &files,
        project_dir,
        env_files: &[],
        profiles: &[],
        name: None,
        env: &env,
        read: &read,
    };
    compose::load(&input).unwrap_or_else(|problems| panic!("{problems}")).spec
}

/// The container of task `number` of the service, without networks.
fn settings(number: u64, service: &ServiceSpec) -> ContainerSettings {
    let mut item = task(number, "sleep 1000");
    let command = item.container.command.take();
    item.container = service.container.clone();
    item.container.command = item.container.command.or(command);
    item.resources = service.resources.clone();
    item.volumes = item.container.mounts.iter().filter_map(|mount| mount.volume(&item.stack)).collect();
    settings_of(&item)
}

/// Lines of a service, and what the engine's `inspect` has to say.
type Case = (&'static str, &'static [(&'static str, fn() -> Value)]);

macro_rules! cases {
    ($($lines:literal => { $($at:literal: $value:tt),* $(,)? })*) => {
        &[$(($lines, &[$(($at, || json!($value))),*])),*]
    };
}

/// What every engine makes of it on every host.
const MADE: &[Case] = cases! {
    "cap_add: [NET_ADMIN, SYS_TIME]\ncap_drop: [MKNOD]" => {
        "/HostConfig/CapDrop": ["MKNOD"],
    }
    "privileged: true" => { "/HostConfig/Privileged": true }
    "security_opt: [no-new-privileges:true, apparmor:unconfined]" => {
        "/HostConfig/SecurityOpt": ["no-new-privileges=true", "apparmor=unconfined"],
    }
    "security_opt: [seccomp:./profile.json]" => {
        "/HostConfig/SecurityOpt": ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"],
    }
    "security_opt: [systempaths=unconfined]" => {
        "/HostConfig/SecurityOpt": null,
        "/HostConfig/MaskedPaths": [],
        "/HostConfig/ReadonlyPaths": [],
    }
    "group_add: [audio, 1000]" => { "/HostConfig/GroupAdd": ["audio", "1000"] }
    "devices: [/dev/null:/dev/nothing:rw, {source: /dev/zero}]" => {
        "/HostConfig/Devices": [
            {"PathOnHost": "/dev/null", "PathInContainer": "/dev/nothing", "CgroupPermissions": "rw"},
            {"PathOnHost": "/dev/zero", "PathInContainer": "/dev/zero", "CgroupPermissions": "rwm"}
        ],
    }
    "device_cgroup_rules: ['c 1:3 mr']" => { "/HostConfig/DeviceCgroupRules": ["c 1:3 mr"] }
    "gpus: all" => {
        "/HostConfig/DeviceRequests/0/Count": (-1),
        "/HostConfig/DeviceRequests/0/Capabilities": [["gpu"]],
    }
    "deploy: {resources: {reservations: {devices: [{driver: nvidia, device_ids: ['0'], capabilities: [gpu, utility]}]}}}" => {
        "/HostConfig/DeviceRequests/0/Driver": "nvidia",
        "/HostConfig/DeviceRequests/0/DeviceIDs": ["0"],
        "/HostConfig/DeviceRequests/0/Capabilities": [["gpu", "utility"]],
    }
    "pid: host\nipc: shareable\nuserns_mode: host\ncgroup: host" => {
        "/HostConfig/PidMode": "host",
        "/HostConfig/IpcMode": "shareable",
        "/HostConfig/UsernsMode": "host",
        "/HostConfig/CgroupnsMode": "host",
    }
    "uts: host" => { "/HostConfig/UTSMode": "host" }
    "cgroup_parent: shop" => { "/HostConfig/CgroupParent": "shop" }
    "network_mode: host" => { "/HostConfig/NetworkMode": "host" }
    "network_mode: none" => { "/HostConfig/NetworkMode": "none", "/Config/Hostname": "web-1" }
    "shm_size: 128m" => { "/HostConfig/ShmSize": 134217728 }
    "ulimits: {nproc: 65535, nofile: {soft: 20000, hard: 40000}}" => {
        "/HostConfig/Ulimits": [
            {"Name": "nofile", "Soft": 20000, "Hard": 40000}, {"Name": "nproc", "Soft": 65535, "Hard": 65535}
        ],
    }
    "sysctls: [net.core.somaxconn=1024]" => { "/HostConfig/Sysctls": {"net.core.somaxconn": "1024"} }
    "tty: true\nstdin_open: true" => { "/Config/Tty": true, "/Config/OpenStdin": true }
    "hostname: shop\ndomainname: example.org" => {
        "/Config/Hostname": "shop",
        "/Config/Domainname": "example.org",
    }
    "logging: {driver: json-file, options: {max-size: 10m, max-file: 3}}" => {
        "/HostConfig/LogConfig": {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}},
    }
    "dns: [192.0.2.1, 192.0.2.2]\ndns_opt: [ndots:2]\ndns_search: example.org" => {
        "/HostConfig/Dns": ["192.0.2.1", "192.0.2.2"],
        "/HostConfig/DnsOptions": ["ndots:2"],
        "/HostConfig/DnsSearch": ["example.org"],
    }
    "extra_hosts: ['a:192.0.2.1', 'b=[2001:db8::1]']" => {
        "/HostConfig/ExtraHosts": ["a:192.0.2.1", "b:2001:db8::1"],
    }
    "oom_score_adj: 500" => { "/HostConfig/OomScoreAdj": 500 }
    "mem_limit: 64m\nmem_reservation: 32m\nmemswap_limit: 128m" => {
        "/HostConfig/Memory": 67108864,
        "/HostConfig/MemoryReservation": 33554432,
    }
    "cpu_shares: 512\ncpuset: '0'" => { "/HostConfig/CpuShares": 512, "/HostConfig/CpusetCpus": "0" }
    "cpu_period: 50ms\ncpu_quota: 25000" => { "/HostConfig/CpuPeriod": 50000, "/HostConfig/CpuQuota": 25000 }
    "pids_limit: 50" => { "/HostConfig/PidsLimit": 50 }
    "runtime: runc" => { "/HostConfig/Runtime": "runc" }
    "init: true\nread_only: true" => { "/HostConfig/Init": true, "/HostConfig/ReadonlyRootfs": true }
    "user: '1000:1000'\nworking_dir: /tmp\nstop_signal: SIGINT\nstop_grace_period: 3s" => {
        "/Config/User": "1000:1000",
        "/Config/WorkingDir": "/tmp",
        "/Config/StopSignal": "SIGINT",
        "/Config/StopTimeout": 3,
    }
    "tmpfs: ['/run:size=1m,noexec,uid=1000', /plain]" => {
        "/HostConfig/Tmpfs": {"/run": "noexec,uid=1000,size=1048576"},
        "/HostConfig/Mounts/0/Type": "tmpfs",
        "/HostConfig/Mounts/0/Target": "/plain",
    }
    "volumes: ['/tmp:/a:ro,z', '/tmp:/b:Z,rslave']" => {
        "/HostConfig/Binds": ["/tmp:/a:ro,z", "/tmp:/b:rw,Z,rslave"],
    }
    "volumes: [{type: bind, source: /tmp, target: /a, bind: {create_host_path: false, recursive: disabled}}]" => {
        "/HostConfig/Mounts/0/BindOptions": {"NonRecursive": true},
    }
};

/// What some kernels or engines refuse: compared in what the engine is asked for.
const ASKED: &[Case] = cases! {
    "cap_add: [NET_ADMIN, CAP_SYS_TIME, all]" => { "/HostConfig/CapAdd": ["NET_ADMIN", "CAP_SYS_TIME", "all"] }
    "mem_swappiness: 10\noom_kill_disable: true\nmem_limit: 64m\nmemswap_limit: -1" => {
        "/HostConfig/MemorySwappiness": 10,
        "/HostConfig/OomKillDisable": true,
        "/HostConfig/MemorySwap": (-1),
    }
    "cpu_rt_period: 1400us\ncpu_rt_runtime: 400ms" => {
        "/HostConfig/CpuRealtimePeriod": 1400,
        "/HostConfig/CpuRealtimeRuntime": 400000,
    }
    "blkio_config: {weight: 300, weight_device: [{path: /dev/sda, weight: 400}], device_read_bps: [{path: /dev/sdb, rate: 12mb}], device_write_iops: [{path: /dev/sdb, rate: 30}]}" => {
        "/HostConfig/BlkioWeight": 300,
        "/HostConfig/BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 400}],
        "/HostConfig/BlkioDeviceReadBps": [{"Path": "/dev/sdb", "Rate": 12582912}],
        "/HostConfig/BlkioDeviceWriteIOps": [{"Path": "/dev/sdb", "Rate": 30}],
    }
    "storage_opt: {size: 1G}" => { "/HostConfig/StorageOpt": {"size": "1G"} }
    "annotations: {a: b}" => { "/HostConfig/Annotations": {"a": "b"} }
    "devices: ['vendor.com/gpu=0']" => {
        "/HostConfig/DeviceRequests/0/Driver": "cdi",
        "/HostConfig/DeviceRequests/0/DeviceIDs": ["vendor.com/gpu=0"],
    }
    "volumes: [{type: image, source: 'nginx:1', target: /site, image: {subpath: html}}]" => {
        "/HostConfig/Mounts/0/Type": "image",
        "/HostConfig/Mounts/0/Source": "nginx:1",
        "/HostConfig/Mounts/0/ImageOptions": {"Subpath": "html"},
    }
    "volumes: [{type: volume, target: /data, volume: {subpath: a/b, labels: {x: y}}}]" => {
        "/HostConfig/Mounts/0/VolumeOptions/Subpath": "a/b",
        "/HostConfig/Mounts/0/VolumeOptions/Labels/x": "y",
    }
    "volumes: [{type: bind, source: /srv, target: /a, read_only: true, bind: {recursive: readonly}}]" => {
        "/HostConfig/Mounts/0/BindOptions/ReadOnlyForceRecursive": true,
        "/HostConfig/Mounts/0/BindOptions/CreateMountpoint": true,
    }
};

fn compare((lines, wanted): &Case, found: &Value) {
    for (at, value) in *wanted {
        // An engine says nothing where it has nothing to say.
        let found = found.pointer(at).unwrap_or(&Value::Null);
        assert_eq!(*found, value(), "{at} of `{lines}`");
    }
}

async fn inspected(host: &real::Host, name: &str) -> Value {
    let client = host.engine.client().await.unwrap();
    let found = client.inspect_container(name, None::<InspectContainerOptions>).await.unwrap();
    serde_json::to_value(found).unwrap()
}

#[test]
fn options_are_asked_for() {
    for case in ASKED.iter().chain(MADE) {
        let spec = stack(case.0, "");
        let body = serde_json::to_value(ask::container(&settings(1, &spec.services["web"]))).unwrap();
        // What is said of the container itself is in a part of its own only once it is made.
        let body = json!({ "HostConfig": body["HostConfig"], "Config": body });
        compare(case, &body);
    }
}

#[tokio::test]
async fn options_take_effect_in_a_real_container() {
    let Some(host) = real::Host::start("options").await else { return };
    for (number, case) in (1..).zip(MADE) {
        let spec = stack(case.0, "");
        let mut settings = settings(number, &spec.services["web"]);
        // Its name has a slot of its own in each case.
        settings.spec.hostname = settings.spec.hostname.map(|name| name.replace(&format!("-{number}"), "-1"));
        host.engine.create(&settings).await.unwrap_or_else(|error| panic!("{}: {error}", case.0));
        compare(case, &inspected(&host, &settings.name).await);
        host.engine.remove(&settings.name).await.unwrap();
    }
}

/// Refused for good, with a reason.
async fn refused(host: &real::Host, settings: &ContainerSettings) -> String {
    match host.engine.create(settings).await {
        Err(EngineError::Refused { message }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_an_engine_lacks_is_said() {
    let Some(host) = real::Host::start("lacks").await else { return };
    let minor = host.engine.client().await.unwrap().client_version().minor_version;
    let cases = [
        ("annotations: {a: b}", 43, "`annotations` needs Docker Engine 24 or newer"),
        (
            "volumes: [{type: volume, target: /data, volume: {subpath: a}}]",
            45,
            "`volume.subpath` needs Docker Engine 26 or newer",
        ),
        (
            "volumes: [{type: image, source: 'busybox:test', target: /site}]",
            48,
            "a mount of the type `image` needs Docker Engine 28 or newer",
        ),
    ];
    for (number, (lines, since, words)) in (1..).zip(cases) {
        let settings = settings(number, &stack(lines, "").services["web"]);
        if minor >= since {
            assert_eq!(ask::unmet(&settings, minor), None);
        } else {
            let message = refused(&host, &settings).await;
            assert!(message.contains(words) && message.contains(&format!("1.{minor}")), "{message}");
        }
    }
    let unknown = settings(9, &stack("runtime: quick", "").services["web"]);
    let message = refused(&host, &unknown).await;
    assert!(message.contains("quick"), "{message}");
}

#[tokio::test]
async fn volumes_are_made_as_the_file_says() {
    let Some(host) = real::Host::start("volumes").await else { return };
    let mounted = "volumes: ['data:/data:z', 'other:/other']";
    let made = |options: &str| {
        format!(
            "volumes: {{data: {{driver_opts: {{type: tmpfs, device: tmpfs, o: '{options}'}}, labels: {{a: b}}}}, other: {{name: kept}}}}"
        )
    };
    let small = settings(1, &stack(mounted, &made("size=1m")).services["web"]);
    host.engine.create(&small).await.unwrap();
    let client = host.engine.client().await.unwrap();
    let data = client.inspect_volume("shop_data").await.unwrap();
    assert_eq!(data.options.get("o").map(String::as_str), Some("size=1m"));
    assert_eq!(data.labels.get("a").map(String::as_str), Some("b"));
    assert_eq!(data.labels.get(labels::CLUSTER), Some(&CLUSTER.to_string()));
    assert!(client.inspect_volume("kept").await.is_ok());
    assert_eq!(inspected(&host, &small.name).await["HostConfig"]["Binds"], json!(["shop_data:/data:rw,z"]));
    // Not the same volume as the file says now.
    let message = refused(&host, &settings(2, &stack(mounted, &made("size=2m")).services["web"])).await;
    assert!(
        message.contains("`shop_data` is on this node with another driver or other options"),
        "{message}"
    );
    host.engine.create(&settings(3, &stack(mounted, &made("size=1m")).services["web"])).await.unwrap();

    let external = "volumes: {data: {external: true, name: elsewhere}}";
    let outer = settings(4, &stack("volumes: ['data:/data']", external).services["web"]);
    let message = refused(&host, &outer).await;
    assert!(message.contains("the volume `elsewhere` is not on this node"), "{message}");
    host.inside("docker -H unix://$PWD/docker.sock volume create elsewhere");
    host.engine.create(&outer).await.unwrap();
    assert_eq!(inspected(&host, &outer.name).await["Mounts"][0]["Name"], json!("elsewhere"));
    let driver = "volumes: {data: {driver: nowhere}}";
    let message =
        refused(&host, &settings(5, &stack("volumes: ['data:/data']", driver).services["web"])).await;
    assert!(message.contains("nowhere"), "{message}");
}

#[tokio::test]
async fn a_chosen_name_goes_from_one_container_to_the_next() {
    let Some(host) = real::Host::start("named").await else { return };
    let spec = stack("container_name: shop-db", "");
    let [first, second] = [1, 2].map(|number| settings(number, &spec.services["web"]));
    let id = host.engine.create(&first).await.unwrap();
    assert_eq!(inspected(&host, "shop-db").await["Id"], json!(id));
    host.engine.start(&first.name).await.unwrap();
    assert_eq!(host.engine.create(&first).await.unwrap(), id, "made once");
    // The next task's container takes the name over while the first one runs.
    let next = host.engine.create(&second).await.unwrap();
    assert_eq!(inspected(&host, "shop-db").await["Id"], json!(next));
    assert_eq!(inspected(&host, &first.name).await["Id"], json!(id));
    assert_eq!(host.engine.create(&first).await.unwrap(), id, "nor does it take the name back");
    host.engine.start(&second.name).await.unwrap();
    host.engine.stop(&first.name, std::time::Duration::from_secs(1), None).await.unwrap();
    host.engine.remove(&first.name).await.unwrap();
    assert!(host.engine.inspect(&second.name).await.unwrap().is_some());
    host.engine.remove(&second.name).await.unwrap();
    host.engine.remove(&second.name).await.unwrap();
    assert_eq!(host.engine.inspect(&second.name).await.unwrap(), None);
    // A container that is not the cluster's keeps its name.
    host.inside(&format!(
        "docker -H unix://$PWD/docker.sock create --name shop-db --network none {} true",
        IMAGE
    ));
    let third = host.engine.create(&settings(3, &spec.services["web"])).await;
    assert!(matches!(third, Err(EngineError::Conflict { .. })), "{third:?}");
}
