//! One service.
//!
//! Owns: what the parts of a service have to do with each other, its image and its commands. Leaves alone: each other
//! subject, in a module of its own; what services have to do with each other (`ties`).

use super::{
    blobs, build,
    cx::Place,
    depends::{self, Edges},
    deploy, environment, health, hooks,
    item::{EXTENSION, Fields, Item},
    keys, limits, mounts, namespaces, networks, placement,
    ports::{self, Published},
    privileges,
    stack::Declared,
    text::{self, clip},
    ties::Ties,
    yaml::Kind,
};
use crate::spec::{
    Constraint, ContainerSpec, EndpointMode, Logging, MAX_REPLICAS, Mode, NodeAttribute, Placement,
    PublishMode, PullPolicy, Resources, Routing, ServiceSpec, SlotOrder, UpdateOrder, UpdatePolicy,
};

/// Longest host name of a container. Source: `HOST_NAME_MAX` of Linux.
const HOSTNAME_MAX: usize = 64;
/// Longest text that may name an image.
const IMAGE_MAX: usize = 512;

/// Reads a service, whose key is at `at`.
pub(super) fn read<'a>(
    item: &Item<'a>,
    key: &str,
    at: Place,
    declared: &Declared<'_>,
    published: &mut Published,
    edges: &mut Edges,
) -> Option<(ServiceSpec, Ties<'a>)> {
    let Some(fields) = item.fields() else {
        if item.is_null() {
            item.cx.error(at, &item.path, "has no `image`", None);
        }
        return None;
    };
    let mut deploy = deploy::read(&fields);
    let depends_on =
        fields.get("depends_on").map(|item| depends::read(&item, key, edges)).unwrap_or_default();
    let mut container = container(&fields, (key, at), declared, &deploy.resources);
    container.privileges = privileges::read(&fields, deploy.devices);
    blobs::used(&fields, declared, &mut container);
    let networks = match container.namespaces.network {
        None => networks::attachments(&fields, declared),
        Some(_) => {
            // There is no device that could have it.
            fields.get("mac_address");
            networks::Attachments::default()
        }
    };
    container.endpoints = networks.endpoints;
    container.namespaces.network = container.namespaces.network.or(networks.mode);
    let (mut ports, mut any_ports) =
        fields.get("ports").map(|item| ports::read(&item, key, published)).unwrap_or_default();
    if let Some(item) = fields.get("ports").filter(|item| !item.is_null())
        && let Some(mode) = &container.namespaces.network
    {
        item.warn(format!("has no effect with `network_mode: {mode}`: there is nothing to publish"));
        (ports, any_ports) = Default::default();
    }
    networks::check_published(&fields, &networks.on, declared);
    let modes = ports.iter().map(|port| port.mode).chain(any_ports.iter().map(|port| port.mode));
    let everywhere = modes.into_iter().any(|mode| mode == PublishMode::Ingress);
    if let Some(item) =
        fields.get("ports").filter(|_| deploy.endpoint_mode == EndpointMode::Dnsrr && everywhere)
    {
        item.error_help(
            "cannot be answered on by every node: with `deploy.endpoint_mode: dnsrr` the service has no address of its own",
            "publish with `mode: host`, or leave `endpoint_mode` out",
        );
    }
    let mut placement = deploy.placement;
    placement.constraints.extend(platform_constraints(container.platform.as_deref()));
    let (routing, order) = fields
        .get(EXTENSION)
        .map(|item| extension(&item, (key, &mut deploy.mode), &mut placement))
        .unwrap_or_default();
    if order == SlotOrder::Slots {
        check_order(&fields, deploy.mode, [deploy.update, deploy.rollback]);
    }
    let build = fields.get("build").and_then(|item| build::read(&item));
    container.container_name =
        fields.given("container_name").and_then(|item| container_name(&item, deploy.mode));
    let ties = Ties::of(&fields);
    fields.end(&keys::SERVICE);
    (!container.image.is_empty()).then_some(())?;
    let spec = ServiceSpec {
        mode: deploy.mode,
        container,
        networks: networks.on,
        ports,
        endpoint_mode: deploy.endpoint_mode,
        restart: deploy.restart,
        placement,
        resources: deploy.resources,
        labels: deploy.labels,
        update: deploy.update,
        rollback: deploy.rollback,
        routing,
        order,
        depends_on,
        any_ports,
        build: build.map(Box::new),
    };
    Some((spec, ties))
}

/// `x-raftup`: what Compose has no word for.
fn extension(
    item: &Item<'_>,
    (key, mode): (&str, &mut Mode),
    placement: &mut Placement,
) -> (Routing, SlotOrder) {
    let Some(fields) = item.fields() else { return Default::default() };
    placement::beside(&fields, (key, *mode), placement);
    if let Some(item) = fields.get("max_concurrent") {
        match (item.whole(1, MAX_REPLICAS), mode) {
            (Some(most), Mode::ReplicatedJob { completions, concurrent }) => {
                *concurrent = most.min(*completions)
            }
            (Some(_), _) => {
                item.error_help(
                    "says nothing here: it is for jobs, how many of their tasks run at a time",
                    "write `mode: replicated-job`",
                );
            }
            (None, _) => {}
        }
    }
    let routing = fields.get("routing").and_then(|item| {
        item.parse(|text| match text {
            "any" => Ok(Routing::Any),
            "local" => Ok(Routing::Local),
            "sticky" => Ok(Routing::Sticky),
            other => Err(format!("`{}` is none of `any`, `local` and `sticky`", clip(other))),
        })
    });
    let order = fields.get("order").and_then(|item| {
        item.parse(|text| match text {
            "any" => Ok(SlotOrder::Any),
            "slots" => Ok(SlotOrder::Slots),
            other => Err(format!("`{}` is neither `any` nor `slots`", clip(other))),
        })
    });
    fields.finish(&[]);
    (routing.unwrap_or_default(), order.unwrap_or_default())
}

/// Tasks in the order of their slots: there are slots with numbers, and never two tasks of one.
fn check_order(fields: &Fields<'_>, mode: Mode, policies: [UpdatePolicy; 2]) {
    let place = fields.get(EXTENSION).and_then(|item| item.fields()).and_then(|fields| fields.get("order"));
    let Some(place) = place else { return };
    if !matches!(mode, Mode::Replicated { .. }) {
        place.error_help(
            format!("`slots` is no order for a service of the mode `{mode}`"),
            "leave it out, or write `mode: replicated`",
        );
    } else if policies.iter().any(|policy| policy.order == UpdateOrder::StartFirst) {
        place.error_help(
            "with `slots` a task ends before the next one of its slot starts, and the update policy says `start-first`",
            "write `order: stop-first` in `update_config` and `rollback_config`, or leave it out",
        );
    }
}

/// The container, but for what other parts of the service have to do with. Its image is empty where it cannot be told.
fn container(
    fields: &Fields<'_>,
    (key, at): (&str, Place),
    declared: &Declared<'_>,
    resources: &Resources,
) -> ContainerSpec {
    let text = |key| fields.given(key).and_then(|item| item.filled().map(str::to_owned));
    let flag = |key| fields.given(key).and_then(|item| item.flag()).unwrap_or(false);
    let values = |key| fields.get(key).map(|item| item.values()).unwrap_or_default();
    if let Some(item) = fields.given("isolation") {
        item.word(&["default"]);
    }
    ContainerSpec {
        image: named_image(fields, (key, at), declared).unwrap_or_default(),
        command: fields.get("command").and_then(|item| command(&item)),
        entrypoint: fields.get("entrypoint").and_then(|item| command(&item)),
        env: environment::read(fields),
        hostname: fields.given("hostname").and_then(|item| hostname(&item)),
        user: text("user"),
        working_dir: fields
            .given("working_dir")
            .and_then(|item| item.parse(|text| mounts::absolute(text, "the directory"))),
        stop_signal: fields.given("stop_signal").and_then(|item| item.parse(signal)),
        stop_grace: fields.given("stop_grace_period").and_then(|item| item.duration()),
        labels: environment::container_labels(fields),
        init: flag("init"),
        read_only: flag("read_only"),
        mounts: mounts::read(fields, declared),
        healthcheck: fields.get("healthcheck").and_then(|item| health::read(&item)),
        container_name: None,
        domainname: text("domainname"),
        tty: flag("tty"),
        stdin_open: flag("stdin_open"),
        platform: fields.given("platform").and_then(|item| item.parse(platform)),
        runtime: text("runtime"),
        pull_policy: fields.given("pull_policy").and_then(|item| item.parse(pull_policy)).unwrap_or_default(),
        logging: fields.get("logging").and_then(|item| logging(&item)),
        annotations: values("annotations"),
        storage_opt: values("storage_opt"),
        sysctls: limits::sysctls(fields),
        ulimits: limits::ulimits(fields),
        names: namespaces::names(fields),
        namespaces: namespaces::read(fields),
        privileges: Default::default(),
        cpu: limits::cpu(fields, resources),
        memory: limits::memory(fields, resources),
        block_io: limits::block_io(fields),
        post_start: fields.get("post_start").map(|item| hooks::read(&item)).unwrap_or_default(),
        pre_stop: fields.get("pre_stop").map(|item| hooks::read(&item)).unwrap_or_default(),
        endpoints: Vec::new(),
        secrets: Vec::new(),
        configs: Vec::new(),
    }
}

/// The image of a service; of one that is built, the name that Compose gives it where the file gives none.
fn named_image(fields: &Fields<'_>, (key, at): (&str, Place), declared: &Declared<'_>) -> Option<String> {
    let build = fields.get("build");
    let image = match (fields.given("image"), &build) {
        (Some(item), _) => item.parse(image)?,
        (None, Some(build)) => {
            let name = format!("{}-{key}", declared.stack).to_lowercase();
            match image(&name) {
                Ok(name) => name,
                Err(message) => {
                    build.error_help(message, "name it with `image`");
                    return None;
                }
            }
        }
        (None, None) => {
            fields.item.cx.error(at, &fields.item.path, "has no `image`", None);
            return None;
        }
    };
    if let (Some(build), Some(at)) = (build, fields.key_at("build")) {
        let message =
            format!("nothing is built yet: the image `{image}` must be in a registry or on the nodes");
        let help = "`docker compose build`, then `docker compose push`".to_owned();
        build.cx.warn(at, &build.path, message, Some(help));
    }
    Some(image)
}

/// The engine's rule for names of containers.
fn container_name(item: &Item<'_>, mode: Mode) -> Option<String> {
    let name = item.parse(|text| {
        let inner = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-');
        let sound = text.len() > 1 && text.starts_with(|char: char| char.is_ascii_alphanumeric());
        if sound && text.chars().all(inner) {
            return Ok(text.to_owned());
        }
        Err(format!("`{}` is no name: two or more of letters, digits, `_`, `.` and `-`", clip(text)))
    })?;
    if let Mode::Replicated { replicas: 2.. } | Mode::ReplicatedJob { concurrent: 2.., .. } = mode {
        item.error_help(
            "is one name for several containers",
            "remove it, or ask for one replica; other services reach all of them by the name of the service",
        );
    }
    Some(name)
}

fn logging(item: &Item<'_>) -> Option<Logging> {
    let fields = item.fields()?;
    let logging = Logging {
        driver: fields.given("driver").and_then(|item| item.filled().map(str::to_owned)),
        options: fields.get("options").map(|item| item.values()).unwrap_or_default(),
    };
    fields.end(&keys::LOGGING);
    Some(logging)
}

/// Tags are resolved anew with each deploy, and all nodes run what was found; so the policies that say how old an image may
/// be, or that it is built, come to the same as `missing`.
fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    match text {
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        "missing" | "if_not_present" | "build" | "daily" | "weekly" => Ok(PullPolicy::Missing),
        other => match other.strip_prefix("every_") {
            Some(time) => text::duration(time).map(|_| PullPolicy::Missing),
            None => Err(format!("`{}` is none of `always`, `never`, `missing` and `build`", clip(other))),
        },
    }
}

/// `OS[/ARCH[/VARIANT]]` or `ARCH`.
fn platform(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let fits = |part: &&str| {
        !part.is_empty() && part.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
    };
    if parts.len() > 3 || !parts.iter().all(fits) {
        return Err(format!("`{}` is no platform such as `linux/arm64`", clip(text)));
    }
    match parts[0].to_ascii_lowercase().as_str() {
        "windows" => Err("nodes run Linux".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Only nodes of the platform run it, as engines make a container of a foreign image that cannot be started.
fn platform_constraints(platform: Option<&str>) -> Vec<Constraint> {
    let parts: Vec<&str> = platform.unwrap_or_default().split('/').collect();
    let arch = match parts.as_slice() {
        ["linux"] | [] | [""] => return Vec::new(),
        [arch] => arch,
        [_, arch, ..] => arch,
    };
    let arch = match arch.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "armhf" | "armel" => "arm".to_owned(),
        "i386" => "386".to_owned(),
        other => other.to_owned(),
    };
    vec![Constraint { attribute: NodeAttribute::Arch, equal: true, value: arch }]
}

/// A command as a list of words, or as a line that is cut into words. Null leaves the image's own.
pub(super) fn command(item: &Item<'_>) -> Option<Vec<String>> {
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
