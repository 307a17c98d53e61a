//! Every key that a compose file may have, and what becomes of it: the one table that the loader and the documentation
//! share.
//!
//! Owns: which keys there are, and the words for those that have no effect or are refused. Leaves alone: reading the
//! values. Holds: a key that is not in the table of its mapping is refused as unknown.

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is read and does what it says; the note says where that differs from one host.
    Applied(&'static str),
    /// It is read and does nothing here, which is said once. The note says why.
    Idle(&'static str),
    /// It is refused: why, and what to write instead.
    Refused(&'static str, &'static str),
}

/// A key of a mapping.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
}

/// The keys of one mapping.
#[derive(Debug)]
pub(super) struct Table {
    /// Where the mapping is, such as `services.NAME.deploy`.
    pub(super) path: &'static str,
    pub(super) keys: &'static [Key],
}

impl Table {
    pub(super) fn find(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn yes(name: &'static str) -> Key {
    Key { name, effect: Effect::Applied("") }
}

const fn but(name: &'static str, note: &'static str) -> Key {
    Key { name, effect: Effect::Applied(note) }
}

const fn idle(name: &'static str, why: &'static str) -> Key {
    Key { name, effect: Effect::Idle(why) }
}

const fn no(name: &'static str, why: &'static str, instead: &'static str) -> Key {
    Key { name, effect: Effect::Refused(why, instead) }
}

const fn later(name: &'static str) -> Key {
    no(name, "is not supported yet", "")
}

const WINDOWS: &str = "it belongs to containers of Windows";
const IPV4_ONLY: &str = "networks of containers have IPv4 addresses alone";

/// All tables, in the order of the documentation.
#[cfg(test)]
pub(super) const ALL: &[&Table] = &[
    &FILE,
    &SERVICE,
    &BUILD,
    &HEALTHCHECK,
    &HOOK,
    &LOGGING,
    &BLKIO,
    &PORT,
    &MOUNT,
    &MOUNT_BIND,
    &MOUNT_VOLUME,
    &MOUNT_TMPFS,
    &MOUNT_IMAGE,
    &SERVICE_NETWORK,
    &SERVICE_SECRET,
    &DEPLOY,
    &RESOURCES,
    &LIMITS,
    &RESERVATIONS,
    &GENERIC,
    &DISCRETE,
    &DEVICE,
    &PLACEMENT,
    &PREFERENCE,
    &RESTART_POLICY,
    &UPDATE_CONFIG,
    &NETWORK,
    &IPAM,
    &IPAM_CONFIG,
    &VOLUME,
    &SECRET,
    &CONFIG,
];

pub(super) const FILE: Table = Table {
    path: "",
    keys: &[
        yes("configs"),
        but("include", "see [Files](#files)"),
        no("models", "raftup runs no models", "run the model as a service of its own"),
        yes("name"),
        yes("networks"),
        yes("secrets"),
        yes("services"),
        but("version", "a warning says that it has no effect"),
        yes("volumes"),
    ],
};

pub(super) const SERVICE: Table = Table {
    path: "services.NAME",
    keys: &[
        but("annotations", "needs Docker Engine 24 or newer on the node"),
        idle("attach", "services run in the background"),
        yes("blkio_config"),
        but(
            "build",
            "kept, but nothing is built: the image (`STACK-SERVICE` where `image` is not given) must be in a registry or on the \
             nodes",
        ),
        yes("cap_add"),
        yes("cap_drop"),
        yes("cgroup"),
        yes("cgroup_parent"),
        yes("command"),
        but("configs", "see [Secrets and configs](#secrets-and-configs)"),
        but(
            "container_name",
            "a name of the service on its networks, as in Compose; needs a single replica, and no other service of the cluster \
             may have it",
        ),
        idle("cpu_count", WINDOWS),
        idle("cpu_percent", WINDOWS),
        yes("cpu_period"),
        yes("cpu_quota"),
        yes("cpu_rt_period"),
        yes("cpu_rt_runtime"),
        yes("cpu_shares"),
        yes("cpus"),
        yes("cpuset"),
        no("credential_spec", WINDOWS, "remove it"),
        but("depends_on", "see [Start order](#start-order)"),
        yes("deploy"),
        idle("develop", "nothing on a cluster watches the files of a developer"),
        yes("device_cgroup_rules"),
        yes("devices"),
        but(
            "dns",
            "the cluster answers for its own names; these servers are asked when those of the node fail",
        ),
        yes("dns_opt"),
        yes("dns_search"),
        yes("domainname"),
        idle("driver_opts", "it belongs to a network or volume"),
        yes("entrypoint"),
        yes("env_file"),
        yes("environment"),
        idle("expose", "services on one network reach all of each other's ports"),
        but("extends", "see [Files](#files)"),
        no(
            "external_links",
            "is not supported: containers that are not the cluster's have no names in it",
            "make the container a service, and put both on a network",
        ),
        yes("extra_hosts"),
        but("gpus", "the engine of the node must have a driver for them"),
        yes("group_add"),
        yes("healthcheck"),
        but("hostname", "service and slot, as in `web-2`, where it is not given"),
        but("image", "tags are resolved when the stack is deployed"),
        yes("init"),
        but("ipc", "`host`, `private`, `shareable` and `none`"),
        but("isolation", "`default`; the others belong to Windows"),
        yes("label_file"),
        yes("labels"),
        but("links", "the alias is a name of the other service on the networks that both are on"),
        yes("logging"),
        yes("mac_address"),
        yes("mem_limit"),
        yes("mem_reservation"),
        yes("mem_swappiness"),
        yes("memswap_limit"),
        no("models", "raftup runs no models", "run the model as a service of its own"),
        but("network_mode", "`host`, `none` and `bridge`, which is the stack's default network"),
        yes("networks"),
        yes("oom_kill_disable"),
        yes("oom_score_adj"),
        but("pid", "`host`"),
        yes("pids_limit"),
        but("platform", "tasks run on nodes of that platform"),
        yes("ports"),
        but("post_start", "see [Hooks](#hooks)"),
        but("pre_stop", "see [Hooks](#hooks)"),
        yes("privileged"),
        but("profiles", "see [Files](#files)"),
        no(
            "provider",
            "is not supported: raftup runs containers alone",
            "start what it provides beside the stack, and name its address in `environment`",
        ),
        but(
            "pull_policy",
            "`never`, `always`, `missing`; all others mean `missing`, as tags are resolved anew with each deploy",
        ),
        yes("read_only"),
        but(
            "restart",
            "the restart policy where `deploy.restart_policy` is not given; `unless-stopped` means `always`",
        ),
        yes("runtime"),
        but("scale", "the same as `deploy.replicas`"),
        but("secrets", "see [Secrets and configs](#secrets-and-configs)"),
        yes("security_opt"),
        yes("shm_size"),
        yes("stdin_open"),
        yes("stop_grace_period"),
        yes("stop_signal"),
        yes("storage_opt"),
        yes("sysctls"),
        yes("tmpfs"),
        yes("tty"),
        yes("ulimits"),
        no(
            "use_api_socket",
            "is not supported: nodes hold no credentials of a developer",
            "mount `/var/run/docker.sock` where the service needs the engine of its node",
        ),
        yes("user"),
        yes("userns_mode"),
        yes("uts"),
        yes("volumes"),
        but(
            "volumes_from",
            "the other service's paths and named volumes; each node has its own data of a volume",
        ),
        yes("working_dir"),
        but("x-raftup", "see below"),
    ],
};

pub(super) const BUILD: Table = Table {
    path: "services.NAME.build",
    keys: &[
        yes("additional_contexts"),
        yes("args"),
        yes("cache_from"),
        yes("cache_to"),
        yes("context"),
        yes("dockerfile"),
        yes("dockerfile_inline"),
        yes("entitlements"),
        yes("extra_hosts"),
        yes("isolation"),
        yes("labels"),
        yes("network"),
        yes("no_cache"),
        yes("platforms"),
        yes("privileged"),
        yes("provenance"),
        yes("pull"),
        yes("sbom"),
        yes("secrets"),
        yes("shm_size"),
        yes("ssh"),
        yes("tags"),
        yes("target"),
        yes("ulimits"),
    ],
};

pub(super) const HEALTHCHECK: Table = Table {
    path: "services.NAME.healthcheck",
    keys: &[
        yes("disable"),
        yes("interval"),
        yes("retries"),
        but("start_interval", "engines before 25 use `interval`"),
        yes("start_period"),
        yes("test"),
        yes("timeout"),
    ],
};

pub(super) const HOOK: Table = Table {
    path: "services.NAME.post_start[]",
    keys: &[yes("command"), yes("environment"), yes("privileged"), yes("user"), yes("working_dir")],
};

pub(super) const LOGGING: Table =
    Table { path: "services.NAME.logging", keys: &[yes("driver"), yes("options")] };

pub(super) const BLKIO: Table = Table {
    path: "services.NAME.blkio_config",
    keys: &[
        yes("device_read_bps"),
        yes("device_read_iops"),
        yes("device_write_bps"),
        yes("device_write_iops"),
        yes("weight"),
        yes("weight_device"),
    ],
};

pub(super) const PORT: Table = Table {
    path: "services.NAME.ports[]",
    keys: &[
        idle("app_protocol", "connections are passed on as they are"),
        but("host_ip", "an IPv4 address of nodes, see below"),
        but("mode", "`ingress` and `host`, see below"),
        idle("name", "ports are known by their number"),
        but("protocol", "`tcp` and `udp`"),
        but("published", "chosen by the cluster where it is not given; `raftup service ls` shows it"),
        yes("target"),
    ],
};

pub(super) const MOUNT: Table = Table {
    path: "services.NAME.volumes[]",
    keys: &[
        yes("bind"),
        idle("consistency", "it means nothing on Linux"),
        yes("image"),
        yes("read_only"),
        yes("source"),
        yes("target"),
        yes("tmpfs"),
        but("type", "`volume`, `bind`, `tmpfs` and `image` (needs Docker Engine 28 or newer on the node)"),
        yes("volume"),
    ],
};

pub(super) const MOUNT_BIND: Table = Table {
    path: "services.NAME.volumes[].bind",
    keys: &[yes("create_host_path"), yes("propagation"), yes("recursive"), yes("selinux")],
};

pub(super) const MOUNT_VOLUME: Table = Table {
    path: "services.NAME.volumes[].volume",
    keys: &[yes("labels"), yes("nocopy"), but("subpath", "needs Docker Engine 26 or newer on the node")],
};

pub(super) const MOUNT_TMPFS: Table = Table {
    path: "services.NAME.volumes[].tmpfs",
    keys: &[but("mode", "in octal, as it is written: `1777`"), yes("size")],
};

pub(super) const MOUNT_IMAGE: Table =
    Table { path: "services.NAME.volumes[].image", keys: &[yes("subpath")] };

pub(super) const SERVICE_NETWORK: Table = Table {
    path: "services.NAME.networks.NAME",
    keys: &[
        yes("aliases"),
        yes("driver_opts"),
        but("gw_priority", "the network with the highest one comes first"),
        but("interface_name", "needs Docker Engine 28.1 or newer on the node"),
        no(
            "ipv4_address",
            "is not supported: the cluster gives each task an address, and a service an address that does not change",
            "remove it, and name the service (or one of its `aliases`) wherever the address is used",
        ),
        no("ipv6_address", IPV4_ONLY, "remove it"),
        yes("link_local_ips"),
        yes("mac_address"),
        but("priority", "the network with the highest one comes first"),
    ],
};

pub(super) const SERVICE_SECRET: Table = Table {
    path: "services.NAME.secrets[]",
    keys: &[
        but("gid", "a number"),
        but("mode", "in octal; 0444 where it is not given"),
        yes("source"),
        but(
            "target",
            "`/run/secrets/NAME` where it is not given; of `configs`, which have the same keys, `/NAME`",
        ),
        but("uid", "a number"),
    ],
};

pub(super) const DEPLOY: Table = Table {
    path: "services.NAME.deploy",
    keys: &[
        but("endpoint_mode", "`vip` and `dnsrr`"),
        but("labels", "of the service, not of its containers"),
        but("mode", "`replicated`, `global`, and [jobs](#jobs): `replicated-job`, `global-job`"),
        yes("placement"),
        yes("replicas"),
        yes("resources"),
        yes("restart_policy"),
        yes("rollback_config"),
        yes("update_config"),
    ],
};

pub(super) const RESOURCES: Table =
    Table { path: "services.NAME.deploy.resources", keys: &[yes("limits"), yes("reservations")] };

pub(super) const LIMITS: Table =
    Table { path: "services.NAME.deploy.resources.limits", keys: &[yes("cpus"), yes("memory"), yes("pids")] };

pub(super) const RESERVATIONS: Table = Table {
    path: "services.NAME.deploy.resources.reservations",
    keys: &[
        yes("cpus"),
        but("devices", "the engine of the node must have a driver for them"),
        but("generic_resources", "see [Placement](#placement)"),
        yes("memory"),
        idle("pids", "processes are not set aside"),
    ],
};

pub(super) const GENERIC: Table = Table {
    path: "services.NAME.deploy.resources.reservations.generic_resources[]",
    keys: &[
        yes("discrete_resource_spec"),
        no(
            "named_resource_spec",
            "names one unit of a node, which a service does not choose",
            "ask for a number of them, `discrete_resource_spec: {kind: gpu, value: 1}`",
        ),
    ],
};

pub(super) const DISCRETE: Table = Table {
    path: "services.NAME.deploy.resources.reservations.generic_resources[].discrete_resource_spec",
    keys: &[yes("kind"), but("value", "a whole number, at least 1")],
};

pub(super) const DEVICE: Table = Table {
    path: "services.NAME.deploy.resources.reservations.devices[]",
    keys: &[yes("capabilities"), yes("count"), yes("device_ids"), yes("driver"), yes("options")],
};

pub(super) const PLACEMENT: Table = Table {
    path: "services.NAME.deploy.placement",
    keys: &[
        but("constraints", "see [Placement](#placement)"),
        yes("max_replicas_per_node"),
        but("preferences", "several levels, see [Placement](#placement)"),
    ],
};

pub(super) const PREFERENCE: Table = Table {
    path: "services.NAME.deploy.placement.preferences[]",
    keys: &[but("spread", "`node.labels.KEY` or `engine.labels.KEY`")],
};

pub(super) const RESTART_POLICY: Table = Table {
    path: "services.NAME.deploy.restart_policy",
    keys: &[
        but("condition", "`none`, `on-failure` and `any`, or the words of `restart`"),
        yes("delay"),
        yes("max_attempts"),
        yes("window"),
    ],
};

pub(super) const UPDATE_CONFIG: Table = Table {
    path: "services.NAME.deploy.update_config",
    keys: &[
        yes("delay"),
        but("failure_action", "`rollback` not in `rollback_config`"),
        yes("max_failure_ratio"),
        yes("monitor"),
        yes("order"),
        yes("parallelism"),
    ],
};

pub(super) const NETWORK: Table = Table {
    path: "networks.NAME",
    keys: &[
        but("attachable", "see below"),
        but("driver", "`bridge` and `overlay` mean the same here: a network that spans the cluster"),
        but("driver_opts", "`encrypted`, see below; the others have no effect"),
        but("enable_ipv4", "a network without IPv4 is refused"),
        but("enable_ipv6", "refused where it is on"),
        but("external", "a network of another stack, or one of `raftup network create`, by its full name"),
        but("internal", "see below"),
        but("ipam", "no effect: the cluster gives each network addresses of its own"),
        yes("labels"),
        but("name", "the name in the cluster; on the nodes it is STACK_KEY"),
    ],
};

pub(super) const IPAM: Table =
    Table { path: "networks.NAME.ipam", keys: &[yes("config"), yes("driver"), yes("options")] };

pub(super) const IPAM_CONFIG: Table = Table {
    path: "networks.NAME.ipam.config[]",
    keys: &[yes("aux_addresses"), yes("gateway"), yes("ip_range"), yes("subnet")],
};

pub(super) const VOLUME: Table = Table {
    path: "volumes.NAME",
    keys: &[
        but("driver", "the engine of each node that runs a task must have it"),
        yes("driver_opts"),
        but("external", "each node that runs a task must have it"),
        yes("labels"),
        but("name", "the name on the nodes; STACK_KEY where it is not given"),
    ],
};

const DRIVERS: &str = "is not supported: the cluster itself keeps secrets";

pub(super) const SECRET: Table = Table {
    path: "secrets.NAME",
    keys: &[
        no(
            "content",
            "is for configs",
            "name a file, or a variable of `raftup stack deploy` with `environment`",
        ),
        no(
            "driver",
            DRIVERS,
            "name a `file`, or make it with `raftup secret create` and write `external: true`",
        ),
        no("driver_opts", DRIVERS, "remove it"),
        but("environment", "a variable of the command that deploys"),
        but("external", "a secret that is there already, by its full name"),
        but("file", "read where the stack is deployed from"),
        yes("labels"),
        but("name", "the name in the cluster; STACK_KEY where it is not given"),
        later("template_driver"),
    ],
};

pub(super) const CONFIG: Table = Table {
    path: "configs.NAME",
    keys: &[
        yes("content"),
        but("environment", "a variable of the command that deploys"),
        but("external", "a config that is there already, by its full name"),
        but("file", "read where the stack is deployed from"),
        yes("labels"),
        but("name", "the name in the cluster; STACK_KEY where it is not given"),
        later("template_driver"),
    ],
};
