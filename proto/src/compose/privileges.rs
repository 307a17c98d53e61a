//! `privileged`, `cap_*`, `security_opt`, `devices`, `gpus` and their kin: what a container may do beyond others.

use super::{
    cx::Unread,
    item::{Fields, Item},
    keys,
    text::{self, clip},
    yaml::Kind,
};
use crate::spec::{DeviceMapping, DeviceRequest, Privileges};

/// Source: `capabilities(7)`, Linux 6.
const CAPABILITIES: [&str; 42] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Reads the keys of a service; `reserved` are the devices of `deploy.resources.reservations`.
pub(super) fn read(fields: &Fields<'_>, reserved: Vec<DeviceRequest>) -> Privileges {
    let list = |key| fields.get(key).map(|item| item.items()).unwrap_or_default();
    let capabilities = |key| list(key).iter().filter_map(|item| item.parse(capability)).collect();
    let mut privileges = Privileges {
        privileged: fields.given("privileged").and_then(|item| item.flag()).unwrap_or(false),
        cap_add: capabilities("cap_add"),
        cap_drop: capabilities("cap_drop"),
        security_opt: list("security_opt").iter().filter_map(security_opt).collect(),
        group_add: fields.get("group_add").map(|item| item.texts()).unwrap_or_default(),
        device_cgroup_rules: list("device_cgroup_rules").iter().filter_map(|item| item.parse(rule)).collect(),
        devices: Vec::new(),
        device_requests: reserved,
    };
    for item in list("devices") {
        match device(&item) {
            Some(Device::Host(mapping)) => privileges.devices.push(mapping),
            Some(Device::Cdi(name)) => privileges.device_requests.push(DeviceRequest {
                driver: Some("cdi".to_owned()),
                device_ids: vec![name],
                ..DeviceRequest::default()
            }),
            None => {}
        }
    }
    if let Some(item) = fields.get("gpus") {
        privileges.device_requests.extend(gpus(&item));
    }
    privileges
}

fn capability(text: &str) -> Result<String, String> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if CAPABILITIES.contains(&name) {
        return Ok(text.trim().to_owned());
    }
    let near = text::nearest(name, CAPABILITIES).map(|near| format!("; did you mean `{near}`?"));
    Err(format!("`{}` is no capability{}", clip(text), near.unwrap_or_default()))
}

/// An option in the engine's words. A seccomp profile is read here: nodes do not have the file.
fn security_opt(item: &Item<'_>) -> Option<String> {
    let text = item.filled()?.trim();
    let Some((key, value)) = text.split_once('=').or_else(|| text.split_once(':')) else {
        if text == "no-new-privileges" {
            return Some(text.to_owned());
        }
        item.error_help(
            format!("`{}` is no option", clip(text)),
            "it is `KEY=VALUE`, or `no-new-privileges`",
        );
        return None;
    };
    if !["apparmor", "label", "no-new-privileges", "seccomp", "systempaths"].contains(&key) {
        item.error(format!(
            "`{}` is none of `apparmor`, `label`, `no-new-privileges`, `seccomp` and `systempaths`",
            clip(key)
        ));
        return None;
    }
    if key != "seccomp" || ["unconfined", "builtin"].contains(&value) || value.trim_start().starts_with('{') {
        return Some(format!("{key}={value}"));
    }
    let (shown, path) = item.cx.beside(value.as_ref());
    let profile = match item.cx.read(&shown, &path) {
        Ok((_, profile)) => profile,
        Err(Unread::Missing) => {
            item.error(format!("there is no file `{}`", shown.display()));
            return None;
        }
        Err(Unread::Reported) => return None,
    };
    match serde_json::from_str::<serde_json::Value>(&profile) {
        Ok(profile) => Some(format!("seccomp={profile}")),
        Err(error) => {
            item.error(format!("`{}` is no profile in JSON: {error}", shown.display()));
            None
        }
    }
}

/// Such as `c 1:3 mr`. Source: the engine's own check.
fn rule(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let sound = match parts.as_slice() {
        [kind, numbers, access] => {
            ["a", "b", "c"].contains(kind)
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&access.len())
                && access.chars().all(|char| "rwm".contains(char))
        }
        _ => false,
    };
    if sound { Ok(text.to_owned()) } else { Err(format!("`{}` is no rule such as `c 1:3 mr`", clip(text))) }
}

enum Device {
    Host(DeviceMapping),
    /// A device of the Container Device Interface, such as `vendor.com/gpu=0`.
    Cdi(String),
}

fn device(item: &Item<'_>) -> Option<Device> {
    if matches!(item.node.kind, Kind::Map(_)) {
        return long_device(item);
    }
    let text = item.filled()?;
    if is_cdi(text) {
        return Some(Device::Cdi(text.to_owned()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, access) = match parts.as_slice() {
        [path] => (*path, *path, ""),
        [path, access] if is_access(access) => (*path, *path, *access),
        [source, target] => (*source, *target, ""),
        [source, target, access] => (*source, *target, *access),
        _ => {
            item.error_help("has too many `:`", "it is `SOURCE[:TARGET[:rwm]]`");
            return None;
        }
    };
    mapping(item, source, target, access).map(Device::Host)
}

fn is_cdi(text: &str) -> bool {
    text.split_once('=').is_some_and(|(kind, _)| kind.contains('/') && !kind.starts_with('/'))
}

fn is_access(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|char| "rwm".contains(char))
}

fn long_device(item: &Item<'_>) -> Option<Device> {
    let fields = item.fields()?;
    let text = |key| fields.given(key).and_then(|item| item.filled());
    let (source, target, access) = (text("source"), text("target"), text("permissions"));
    fields.finish(&[]);
    let Some(source) = source else {
        item.error("`source` is missing: the device of the node");
        return None;
    };
    if is_cdi(source) {
        return Some(Device::Cdi(source.to_owned()));
    }
    mapping(item, source, target.unwrap_or(source), access.unwrap_or_default()).map(Device::Host)
}

fn mapping(item: &Item<'_>, source: &str, target: &str, access: &str) -> Option<DeviceMapping> {
    for path in [source, target] {
        if !path.starts_with('/') {
            item.error(format!("`{}` is not an absolute path", clip(path)));
            return None;
        }
    }
    let access = if access.is_empty() { "rwm" } else { access };
    if !is_access(access) {
        item.error(format!("`{}` are not permissions of `r`, `w` and `m`", clip(access)));
    }
    let [source, target, permissions] = [source, target, access].map(str::to_owned);
    Some(DeviceMapping { source, target, permissions })
}

/// `gpus`: `all`, or a list as in `deploy.resources.reservations.devices`.
fn gpus(item: &Item<'_>) -> Vec<DeviceRequest> {
    const GPU: &str = "gpu";
    if let Kind::Scalar(_) = &item.node.kind {
        let all = item.word(&["all"]);
        let gpu =
            DeviceRequest { count: Some(-1), capabilities: vec![GPU.to_owned()], ..DeviceRequest::default() };
        return all.map(|_| gpu).into_iter().collect();
    }
    let requests = item.items().into_iter().filter_map(|item| {
        let mut request = request(&item)?;
        if !request.capabilities.iter().any(|capability| capability == GPU) {
            request.capabilities.push(GPU.to_owned());
        }
        Some(request)
    });
    requests.collect()
}

/// Devices that are reserved.
pub(super) fn reserved(item: &Item<'_>) -> Vec<DeviceRequest> {
    let requests = item.items().into_iter().filter_map(|item| {
        let request = request(&item)?;
        if request.capabilities.is_empty() {
            item.error_help("`capabilities` is missing", "such as `[gpu]`");
        }
        Some(request)
    });
    requests.collect()
}

fn request(item: &Item<'_>) -> Option<DeviceRequest> {
    let fields = item.fields()?;
    let list = |key| fields.get(key).map(|item| item.texts()).unwrap_or_default();
    let count = fields.given("count").and_then(|item| {
        item.parse(|text| match text {
            "all" | "-1" => Ok(-1),
            text => text::whole(text, 0, u32::MAX.into()).map(|count| count as i64),
        })
    });
    let mut request = DeviceRequest {
        driver: fields.given("driver").and_then(|item| item.filled().map(str::to_owned)),
        count,
        device_ids: list("device_ids"),
        capabilities: list("capabilities"),
        options: fields.get("options").map(|item| item.values()).unwrap_or_default(),
    };
    fields.end(&keys::DEVICE);
    match (request.count, request.device_ids.is_empty()) {
        (Some(_), false) => item.error("`count` and `device_ids` exclude each other"),
        // As in Compose, all of them.
        (None, true) => request.count = Some(-1),
        (Some(_), true) | (None, false) => {}
    }
    Some(request)
}
