//! One service.
//!
//! Owns: which keys a service may have, and the container's own part of them.

use super::{
    cx::Place,
    depends::{self, Edges},
    deploy, environment, health,
    item::{EXTENSION, Fields, Item},
    mounts, networks,
    ports::{self, Published},
    stack::Declared,
    text::{self, clip},
    yaml::Kind,
};
use crate::spec::{ContainerSpec, EndpointMode, PublishMode, Routing, ServiceSpec};

/// Keys of the Compose Specification that come later.
const LATER: &[&str] = &[
    "annotations",
    "attach",
    "blkio_config",
    "cap_add",
    "cap_drop",
    "cgroup",
    "cgroup_parent",
    "configs",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpuset",
    "credential_spec",
    "develop",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "driver_opts",
    "extends",
    "external_links",
    "extra_hosts",
    "gpus",
    "group_add",
    "ipc",
    "isolation",
    "label_file",
    "links",
    "logging",
    "mac_address",
    "mem_swappiness",
    "memswap_limit",
    "models",
    "network_mode",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "platform",
    "post_start",
    "pre_stop",
    "privileged",
    "profiles",
    "provider",
    "pull_policy",
    "runtime",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "storage_opt",
    "sysctls",
    "tty",
    "ulimits",
    "use_api_socket",
    "userns_mode",
    "uts",
    "volumes_from",
];

/// Longest host name of a container. Source: `HOST_NAME_MAX` of Linux.
const HOSTNAME_MAX: usize = 64;
/// Longest text that may name an image.
const IMAGE_MAX: usize = 512;

/// Reads a service, whose key is at `at`.
pub(super) fn read(
    item: &Item<'_>,
    key: &str,
    at: Place,
    declared: &Declared,
    published: &mut Published,
    edges: &mut Edges,
) -> Option<ServiceSpec> {
    let Some(fields) = item.fields() else {
        if item.is_null() {
            item.cx.error(at, &item.path, "has no `image`", None);
        }
        return None;
    };
    let container = container(&fields, at, declared);
    let networks = networks::attachments(fields.get("networks"), declared);
    let ports = fields.get("ports").map(|item| ports::read(&item, key, published)).unwrap_or_default();
    networks::check_published(&fields, &networks, declared);
    let deploy = deploy::read(&fields);
    let depends_on =
        fields.get("depends_on").map(|item| depends::read(&item, key, edges)).unwrap_or_default();
    let everywhere = ports.iter().any(|port| port.mode == PublishMode::Ingress);
    if let Some(item) =
        fields.get("ports").filter(|_| deploy.endpoint_mode == EndpointMode::Dnsrr && everywhere)
    {
        item.error_help(
            "cannot be answered on by every node: with `deploy.endpoint_mode: dnsrr` the service has no address of its own",
            "publish with `mode: host`, or leave `endpoint_mode` out",
        );
    }
    let routing = fields.get(EXTENSION).map(|item| routing(&item)).unwrap_or_default();
    refused(&fields);
    fields.finish(LATER);
    Some(ServiceSpec {
        mode: deploy.mode,
        container: container?,
        networks,
        ports,
        endpoint_mode: deploy.endpoint_mode,
        restart: deploy.restart,
        placement: deploy.placement,
        resources: deploy.resources,
        labels: deploy.labels,
        update: deploy.update,
        rollback: deploy.rollback,
        routing,
        depends_on,
    })
}

/// `x-raftup`: what Compose has no word for.
fn routing(item: &Item<'_>) -> Routing {
    let Some(fields) = item.fields() else { return Routing::default() };
    let routing = fields.get("routing").and_then(|item| {
        item.parse(|text| match text {
            "any" => Ok(Routing::Any),
            "local" => Ok(Routing::Local),
            "sticky" => Ok(Routing::Sticky),
            other => Err(format!("`{}` is none of `any`, `local` and `sticky`", clip(other))),
        })
    });
    fields.finish(&[]);
    routing.unwrap_or_default()
}

/// Keys that are refused with advice, or have no effect.
fn refused(fields: &Fields<'_>) {
    fields.refuse("build", "is not supported yet", "build the image first and name it with `image`");
    fields.refuse(
        "container_name",
        "cannot be given: each of a service's tasks has a name of its own",
        "other containers reach it by the name of the service; `hostname` sets the name inside",
    );
    if let (Some(item), Some(at)) = (fields.get("expose"), fields.key_at("expose")) {
        let message = "has no effect: services on one network reach all of each other's ports";
        item.cx.warn(at, &item.path, message, None);
    }
}

fn container(fields: &Fields<'_>, at: Place, declared: &Declared) -> Option<ContainerSpec> {
    let image = match fields.get("image") {
        Some(item) => item.parse(image),
        None => {
            if fields.key_at("build").is_none() {
                fields.item.cx.error(at, &fields.item.path, "has no `image`", None);
            }
            None
        }
    };
    let text = |key| fields.get(key).and_then(|item| item.filled().map(str::to_owned));
    let container = ContainerSpec {
        image: image.clone().unwrap_or_default(),
        command: fields.get("command").and_then(|item| command(&item)),
        entrypoint: fields.get("entrypoint").and_then(|item| command(&item)),
        env: environment::read(fields),
        hostname: fields.get("hostname").and_then(|item| hostname(&item)),
        user: text("user"),
        working_dir: fields
            .get("working_dir")
            .and_then(|item| item.parse(|text| mounts::absolute(text, "the directory"))),
        stop_signal: fields.get("stop_signal").and_then(|item| item.parse(signal)),
        stop_grace: fields.get("stop_grace_period").and_then(|item| item.duration()),
        labels: fields.get("labels").map(|item| environment::labels(&item)).unwrap_or_default(),
        init: fields.get("init").and_then(|item| item.flag()).unwrap_or(false),
        read_only: fields.get("read_only").and_then(|item| item.flag()).unwrap_or(false),
        mounts: mounts::read(fields, declared),
        healthcheck: fields.get("healthcheck").and_then(|item| health::read(&item)),
    };
    image.map(|_| container)
}

/// A command as a list of words, or as a line that is cut into words. Null leaves the image's own.
fn command(item: &Item<'_>) -> Option<Vec<String>> {
    match &item.node.kind {
        Kind::Null => None,
        Kind::Scalar(_) => {
            let line = item.text()?;
            let cut = match text::words(line) {
                Ok(cut) => cut,
                Err(message) => {
                    item.error(message);
                    return None;
                }
            };
            if let Some(word) = cut.shell {
                let message = format!("`{}` is passed on as a word: no shell reads the command", clip(&word));
                let help = "where one should, write `command: [\"sh\", \"-c\", \"...\"]`".to_owned();
                item.cx.warn(item.cx.find(item.node.at, &word), &item.path, message, Some(help));
            }
            Some(cut.words)
        }
        Kind::List(_) => {
            Some(item.items().iter().filter_map(|item| item.text().map(str::to_owned)).collect())
        }
        Kind::Map(_) => {
            item.error("must be a text or a list, not a mapping");
            None
        }
    }
}

/// An image's name as far as it can be checked without a registry; else what is wrong with it. Source: the reference
/// grammar of the OCI images.
pub fn image(text: &str) -> Result<String, String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || "._-/:@+".contains(char);
    let bad = |reason: &str| Err(format!("`{}` cannot name an image: {reason}", clip(text)));
    if text.len() > IMAGE_MAX {
        return bad("it is too long");
    }
    if let Some(char) = text.chars().find(|char| !fits(*char)) {
        return bad(&format!("`{}` is not allowed", char.escape_default()));
    }
    let name = text.split('@').next().unwrap_or_default();
    let (host, repository) = match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        Some(_) | None => ("", name),
    };
    let (repository, tag) = match repository.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (repository, None),
    };
    let parts_fit = |part: &str| {
        part.starts_with(|char: char| char.is_ascii_alphanumeric())
            && part.ends_with(|char: char| char.is_ascii_alphanumeric())
    };
    if repository.chars().any(|char| char.is_ascii_uppercase()) {
        return bad("its name has to be in lower case");
    }
    let tag_fits =
        tag.is_none_or(|tag| !tag.is_empty() && !tag.starts_with(['.', '-']) && !tag.contains('+'));
    if host.len() + 1 + repository.len() > IMAGE_NAME_MAX || tag.is_some_and(|tag| tag.len() > TAG_MAX) {
        return bad("its name has at most 255 letters, its tag 128");
    }
    if let Some((_, digest)) = text.split_once('@')
        && !is_digest(digest)
    {
        return bad("a digest is `sha256:` and 64 hexadecimal digits");
    }
    if !repository.split('/').all(parts_fit) || repository.contains(':') || host.starts_with(':') || !tag_fits
    {
        return bad("it is `[HOST/]NAME[:TAG][@DIGEST]`");
    }
    Ok(text.to_owned())
}

/// Longest name of an image, its host included, and longest tag. Source: the distribution project's reference grammar.
const IMAGE_NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// The digests that engines take: each of these algorithms has its length.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, digits)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    digits.len() == length
        && digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
}

fn hostname(item: &Item<'_>) -> Option<String> {
    if item.text().is_some_and(|text| text.contains("{{")) {
        item.error_help(
            "templates are not supported yet",
            "without `hostname`, each task has a name of its own",
        );
        return None;
    }
    let name = item.parse(networks::host_name)?;
    if name.len() > HOSTNAME_MAX {
        item.error(format!("is longer than the {HOSTNAME_MAX} characters that Linux takes"));
    }
    Some(name)
}

/// A signal by name, with or without `SIG`, or by number.
fn signal(text: &str) -> Result<String, String> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    const NUMBER_MAX: u64 = 64;
    if text::whole(text, 1, NUMBER_MAX).is_ok() {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = name.starts_with("RTMIN") || name.starts_with("RTMAX");
    if NAMES.contains(&name) || realtime {
        return Ok(text.to_owned());
    }
    let near =
        text::nearest(name, NAMES).map(|near| format!("; did you mean `SIG{near}`?")).unwrap_or_default();
    Err(format!("`{}` is no signal{near}", clip(text)))
}
