//! Which form the normalised file has a value in, by its place in the model.
//!
//! Owns: the table. A value that is not in it keeps the type that YAML gives it.

use super::super::path::Path;

/// The form of a value in the normalised file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As YAML types it.
    Typed,
    Text,
    Flag,
    Number,
    /// A size as its bytes, in a text.
    Bytes,
    /// A time as Go writes it.
    Time,
    /// Texts by name; a list of `NAME=VALUE` becomes one. A name alone has null.
    Pairs,
    /// As `Pairs`; a name alone has the empty text.
    Labels,
    /// A list of texts; a single text becomes one.
    Texts,
    /// A command as its words.
    Command,
    /// The command of a health check.
    Test,
    /// A list of `NAME=ADDRESS`.
    Hosts,
    /// The rights of a file, in octal.
    Mode,
    /// A number of devices; `all` is -1.
    Count,
}

use Form::{Bytes, Command, Count, Flag, Hosts, Labels, Mode, Number, Pairs, Test, Text, Texts, Time};

/// Forms by the place in a service. Source: the schema and the types of the Compose Specification.
const SERVICE: &[(&str, Form)] = &[
    ("annotations", Pairs),
    ("attach", Flag),
    ("blkio_config.weight", Number),
    ("blkio_config.weight_device.*.weight", Number),
    ("blkio_config.*.*.path", Text),
    ("blkio_config.*.*.rate", Bytes),
    ("build.additional_contexts", Pairs),
    ("build.args", Pairs),
    ("build.cache_from", Texts),
    ("build.cache_to", Texts),
    ("build.entitlements", Texts),
    ("build.extra_hosts", Hosts),
    ("build.labels", Labels),
    ("build.no_cache", Flag),
    ("build.platforms", Texts),
    ("build.privileged", Flag),
    ("build.pull", Flag),
    ("build.shm_size", Bytes),
    ("build.tags", Texts),
    ("build.*", Text),
    ("cap_add", Texts),
    ("cap_drop", Texts),
    ("command", Command),
    ("cpu_count", Number),
    ("cpu_percent", Number),
    ("cpu_period", Number),
    ("cpu_quota", Number),
    ("cpu_rt_period", Number),
    ("cpu_rt_runtime", Number),
    ("cpu_shares", Number),
    ("cpus", Number),
    ("configs.*.mode", Mode),
    ("configs.*.*", Text),
    ("credential_spec.*", Text),
    ("depends_on.*.condition", Text),
    ("depends_on.*.restart", Flag),
    ("depends_on.*.required", Flag),
    ("deploy.endpoint_mode", Text),
    ("deploy.labels", Labels),
    ("deploy.mode", Text),
    ("deploy.placement.constraints", Texts),
    ("deploy.placement.max_replicas_per_node", Number),
    ("deploy.placement.preferences.*.spread", Text),
    ("deploy.replicas", Number),
    ("deploy.resources.*.cpus", Number),
    ("deploy.resources.*.memory", Bytes),
    ("deploy.resources.*.pids", Number),
    ("deploy.resources.*.devices.*.capabilities", Texts),
    ("deploy.resources.*.devices.*.count", Count),
    ("deploy.resources.*.devices.*.device_ids", Texts),
    ("deploy.resources.*.devices.*.driver", Text),
    ("deploy.resources.*.devices.*.options", Pairs),
    ("deploy.resources.*.generic_resources.*.*.kind", Text),
    ("deploy.resources.*.generic_resources.*.*.value", Number),
    ("deploy.restart_policy.condition", Text),
    ("deploy.restart_policy.delay", Time),
    ("deploy.restart_policy.max_attempts", Number),
    ("deploy.restart_policy.window", Time),
    ("deploy.*.delay", Time),
    ("deploy.*.failure_action", Text),
    ("deploy.*.max_failure_ratio", Number),
    ("deploy.*.monitor", Time),
    ("deploy.*.order", Text),
    ("deploy.*.parallelism", Number),
    ("device_cgroup_rules", Texts),
    ("devices.*.*", Text),
    ("dns", Texts),
    ("dns_opt", Texts),
    ("dns_search", Texts),
    ("driver_opts", Pairs),
    ("entrypoint", Command),
    ("environment", Pairs),
    ("expose", Texts),
    ("external_links", Texts),
    ("extra_hosts", Hosts),
    ("gpus.*.capabilities", Texts),
    ("gpus.*.count", Count),
    ("gpus.*.device_ids", Texts),
    ("gpus.*.driver", Text),
    ("gpus.*.options", Pairs),
    ("group_add", Texts),
    ("healthcheck.disable", Flag),
    ("healthcheck.interval", Time),
    ("healthcheck.retries", Number),
    ("healthcheck.start_interval", Time),
    ("healthcheck.start_period", Time),
    ("healthcheck.test", Test),
    ("healthcheck.timeout", Time),
    ("init", Flag),
    ("labels", Labels),
    ("links", Texts),
    ("logging.driver", Text),
    ("logging.options", Pairs),
    ("mem_limit", Bytes),
    ("mem_reservation", Bytes),
    ("mem_swappiness", Bytes),
    ("memswap_limit", Bytes),
    ("networks.*.aliases", Texts),
    ("networks.*.driver_opts", Pairs),
    ("networks.*.gw_priority", Number),
    ("networks.*.link_local_ips", Texts),
    ("networks.*.priority", Number),
    ("networks.*.*", Text),
    ("oom_kill_disable", Flag),
    ("oom_score_adj", Number),
    ("pids_limit", Number),
    ("ports.*.target", Number),
    ("ports.*.*", Text),
    ("post_start.*.command", Command),
    ("post_start.*.environment", Pairs),
    ("post_start.*.privileged", Flag),
    ("post_start.*.*", Text),
    ("pre_stop.*.command", Command),
    ("pre_stop.*.environment", Pairs),
    ("pre_stop.*.privileged", Flag),
    ("pre_stop.*.*", Text),
    ("privileged", Flag),
    ("profiles", Texts),
    ("provider.options", Pairs),
    ("provider.type", Text),
    ("read_only", Flag),
    ("scale", Number),
    ("secrets.*.mode", Mode),
    ("secrets.*.*", Text),
    ("security_opt", Texts),
    ("shm_size", Bytes),
    ("stdin_open", Flag),
    ("stop_grace_period", Time),
    ("storage_opt", Pairs),
    ("sysctls", Pairs),
    ("tmpfs", Texts),
    ("tty", Flag),
    ("ulimits.*", Number),
    ("ulimits.*.*", Number),
    ("use_api_socket", Flag),
    ("volumes.*.bind.create_host_path", Flag),
    ("volumes.*.read_only", Flag),
    ("volumes.*.tmpfs.mode", Text),
    ("volumes.*.tmpfs.size", Bytes),
    ("volumes.*.volume.labels", Labels),
    ("volumes.*.volume.nocopy", Flag),
    ("volumes.*.*.*", Text),
    ("volumes.*.*", Text),
    ("volumes_from", Texts),
    ("*", Text),
];

/// Forms by the place in the file, outside of services.
const OTHERS: &[(&str, Form)] = &[
    ("*.*.external", Flag),
    ("*.*.labels", Labels),
    ("*.*.driver", Text),
    ("*.*.driver_opts", Pairs),
    ("*.*.name", Text),
    ("*.*.file", Text),
    ("*.*.environment", Text),
    ("*.*.content", Text),
    ("*.*.template_driver", Text),
    ("networks.*.attachable", Flag),
    ("networks.*.enable_ipv4", Flag),
    ("networks.*.enable_ipv6", Flag),
    ("networks.*.internal", Flag),
    ("networks.*.ipam.driver", Text),
    ("networks.*.ipam.options", Pairs),
    ("networks.*.ipam.config.*.aux_addresses", Pairs),
    ("networks.*.ipam.config.*.*", Text),
    ("name", Text),
];

/// The form of the value at `path`.
pub(super) fn form(path: &Path) -> Form {
    if path.in_extension() {
        return Form::Typed;
    }
    match path.below_service() {
        Some(path) => find(SERVICE, &path),
        None => find(OTHERS, path),
    }
}

fn find(table: &[(&str, Form)], path: &Path) -> Form {
    let found = table.iter().find(|(pattern, _)| path.matches(pattern));
    found.map_or(Form::Typed, |(_, form)| *form)
}

/// Mappings whose keys are the user's, so that a value that is nothing says something.
const FREE: &[&str] = &[
    "*",
    "services.*.annotations",
    "services.*.build.additional_contexts",
    "services.*.build.args",
    "services.*.build.labels",
    "services.*.depends_on",
    "services.*.deploy.labels",
    "services.*.deploy.resources.*.devices.*.options",
    "services.*.driver_opts",
    "services.*.environment",
    "services.*.gpus.*.options",
    "services.*.labels",
    "services.*.logging.options",
    "services.*.networks",
    "services.*.networks.*.driver_opts",
    "services.*.post_start.*.environment",
    "services.*.pre_stop.*.environment",
    "services.*.provider.options",
    "services.*.storage_opt",
    "services.*.sysctls",
    "services.*.ulimits",
    "services.*.volumes.*.volume.labels",
    "networks.*.ipam.config.*.aux_addresses",
    "networks.*.ipam.options",
    "*.*.driver_opts",
    "*.*.labels",
];

/// Values that are kept even where they are zero, off or empty, as that differs from leaving them out.
const KEPT: &[&str] = &[
    "services.*.attach",
    "services.*.command",
    "services.*.entrypoint",
    "services.*.init",
    "services.*.scale",
    "services.*.deploy.replicas",
    "services.*.deploy.restart_policy.max_attempts",
    "services.*.deploy.*.parallelism",
    "services.*.depends_on.*.required",
    "services.*.healthcheck.retries",
    "services.*.volumes.*.bind",
    "services.*.volumes.*.bind.create_host_path",
    "services.*.volumes.*.tmpfs",
    "services.*.volumes.*.volume",
    "networks.*.enable_ipv4",
    "networks.*.enable_ipv6",
];

/// Whether a value that is zero, off or empty stays in the normalised file; `parent` is the path of its mapping.
pub(super) fn is_kept(parent: &Path, path: &Path) -> bool {
    is_free(parent, path) || KEPT.iter().any(|pattern| path.matches(pattern))
}

/// Whether a value that is null stays too.
pub(super) fn is_free(parent: &Path, path: &Path) -> bool {
    path.in_extension() || FREE.iter().any(|pattern| parent.matches(pattern))
}

/// Times that are zero where they are left out.
const ZERO_TIMES: &[&str] =
    &["services.*.deploy.update_config.delay", "services.*.deploy.rollback_config.delay"];

/// Whether a text at `path` is a time that says nothing.
pub(super) fn is_zero_time(text: &str, path: &Path) -> bool {
    text == "0s" && ZERO_TIMES.iter().any(|pattern| path.matches(pattern))
}
