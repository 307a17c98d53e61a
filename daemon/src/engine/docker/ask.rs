//! What is asked of the engine, in its own words. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    auth::DockerCredentials,
    exec::CreateExecOptions,
    models::{
        ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, Ipam, IpamConfig,
        NetworkConnectRequest, NetworkCreateRequest, NetworkingConfig,
    },
};
use raftup_proto::{
    api::Credential,
    spec::{Healthcheck, Hook},
};

use super::super::{
    Attachment, ContainerSettings, NetworkSettings,
    version::{Version, gateway_mode},
};

mod host;
mod mounts;
mod needs;

pub(super) use mounts::{VolumeToMake, volumes};
pub(super) use needs::unmet;

/// Body of a container's creation, on the first of its networks.
pub(super) fn container(settings: &ContainerSettings) -> ContainerCreateBody {
    let spec = &settings.spec;
    let first = settings.networks.first();
    ContainerCreateBody {
        image: Some(reference(&settings.image)),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.command.clone(),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        tty: spec.tty.then_some(true),
        open_stdin: spec.stdin_open.then_some(true),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: Some(i64::try_from(spec.stop_grace().as_secs()).unwrap_or(i64::MAX)),
        healthcheck: spec.healthcheck.as_ref().map(healthcheck),
        labels: Some(settings.labels.clone().into_iter().collect()),
        host_config: Some(host::config(settings)),
        networking_config: first.map(|attachment| NetworkingConfig {
            endpoints_config: Some([(attachment.network.clone(), endpoint(attachment))].into()),
        }),
        ..ContainerCreateBody::default()
    }
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    let nanos = |time: &std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    match check {
        Healthcheck::Disabled => {
            HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }
        }
        Healthcheck::Check { test, interval, timeout, retries, start_period, start_interval } => {
            HealthConfig {
                test: test.clone(),
                interval: interval.as_ref().map(nanos),
                timeout: timeout.as_ref().map(nanos),
                retries: retries.map(i64::from),
                start_period: start_period.as_ref().map(nanos),
                start_interval: start_interval.as_ref().map(nanos),
            }
        }
    }
}

fn endpoint(attachment: &Attachment) -> EndpointSettings {
    let spec = &attachment.options;
    let link_local: Vec<_> = spec.link_local_ips.iter().map(ToString::to_string).collect();
    EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(attachment.address.to_string()),
            link_local_ips: some(link_local),
            ..EndpointIpamConfig::default()
        }),
        mac_address: spec.mac_address.clone(),
        driver_opts: map(&spec.driver_opts),
        ..EndpointSettings::default()
    }
}

/// Body of a further network's connection.
pub(super) fn connection(container: &str, attachment: &Attachment) -> NetworkConnectRequest {
    NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(endpoint(attachment)) }
}

/// The option that says what of other hosts reaches a network's containers.
pub(super) const GATEWAY_MODE: &str = "com.docker.network.bridge.gateway_mode_ipv4";

/// Body of a network's creation, for an engine of this version: a bridge that neither translates addresses nor hides its
/// containers.
pub(super) fn network(settings: &NetworkSettings, version: Option<Version>) -> NetworkCreateRequest {
    let options = [
        ("com.docker.network.bridge.name", settings.bridge.clone()),
        ("com.docker.network.bridge.enable_ip_masquerade", "false".to_owned()),
        ("com.docker.network.driver.mtu", settings.mtu.to_string()),
    ];
    let mode = gateway_mode(version).map(|mode| (GATEWAY_MODE, mode.to_owned()));
    let options = options.into_iter().chain(mode);
    NetworkCreateRequest {
        name: settings.name.clone(),
        driver: Some("bridge".to_owned()),
        ipam: Some(Ipam {
            config: Some(vec![IpamConfig {
                subnet: Some(settings.subnet.to_string()),
                ip_range: Some(settings.range.to_string()),
                gateway: Some(settings.gateway.to_string()),
                ..IpamConfig::default()
            }]),
            ..Ipam::default()
        }),
        options: Some(options.map(|(key, value)| (key.to_owned(), value)).collect()),
        labels: Some(settings.labels.clone().into_iter().collect::<HashMap<_, _>>()),
        ..NetworkCreateRequest::default()
    }
}

/// An image's name and its tag or digest; `latest` where it has neither, or all tags would be pulled.
pub(super) fn split_image(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        // A tag beside a digest says nothing more.
        return (split_tag(name).0, digest);
    }
    split_tag(image)
}

/// An image as it is looked up: of a tag and a digest together, older engines only know the digest.
pub(super) fn reference(image: &str) -> String {
    match split_image(image) {
        (name, digest) if image.contains('@') => format!("{name}@{digest}"),
        _ => image.to_owned(),
    }
}

fn split_tag(image: &str) -> (&str, &str) {
    let last = image.rfind('/').map_or(0, |slash| slash + 1);
    match image[last..].find(':') {
        Some(colon) => (&image[..last + colon], &image[last + colon + 1..]),
        None => (image, "latest"),
    }
}

/// What the engine passes on to the registry.
pub(super) fn credential(image: &str, credential: &Credential) -> DockerCredentials {
    let secret = Some(credential.secret.clone());
    let (password, identitytoken) = if credential.identity_token { (None, secret) } else { (secret, None) };
    let host = image.split_once('/').map(|(host, _)| host).filter(|host| host.contains(['.', ':']));
    DockerCredentials {
        username: Some(credential.username.clone()).filter(|name| !name.is_empty()),
        password,
        identitytoken,
        serveraddress: host.map(str::to_owned),
        ..DockerCredentials::default()
    }
}

/// A list that says something.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

/// A mapping that says something.
fn map(values: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    Some(values).filter(|values| !values.is_empty()).map(|values| values.clone().into_iter().collect())
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// A command in a container that runs.
pub(super) fn exec(hook: &Hook) -> CreateExecOptions<String> {
    let Hook { command, user, privileged, working_dir, env } = hook;
    let env: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command.clone()),
        env: Some(env).filter(|env| !env.is_empty()),
        user: user.clone(),
        privileged: Some(*privileged),
        working_dir: working_dir.clone(),
        ..CreateExecOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_network_is_asked_for_in_words_that_the_engine_knows() {
        let settings = NetworkSettings {
            name: "shop_default".to_owned(),
            labels: BTreeMap::from([("dev.raftup.network".to_owned(), "1".to_owned())]),
            bridge: "ru-1".to_owned(),
            subnet: "10.64.32.0/19".parse().unwrap(),
            range: "10.64.32.1/32".parse().unwrap(),
            gateway: "10.64.32.1".parse().unwrap(),
            mtu: 1370,
        };
        let mode = |version| {
            let mut options = network(&settings, Version::parse(version)).options.unwrap();
            let mode = options.remove(GATEWAY_MODE);
            let rest: BTreeMap<_, _> = options.into_iter().collect();
            let same = [
                ("com.docker.network.bridge.enable_ip_masquerade", "false"),
                ("com.docker.network.bridge.name", "ru-1"),
                ("com.docker.network.driver.mtu", "1370"),
            ];
            let same = same.map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(rest, BTreeMap::from(same), "{version}");
            mode
        };
        for (version, expected) in [
            ("20.10.24+dfsg1", None),
            ("24.0.7", None),
            ("26.1.5+dfsg1", None),
            ("27.0.1", None),
            ("27.5.1", None),
            ("28.0.0", Some("nat-unprotected")),
            ("28.5.2+dfsg1", Some("nat-unprotected")),
            ("29.1.0", Some("nat-unprotected")),
            ("dev", Some("nat-unprotected")),
        ] {
            assert_eq!(mode(version).as_deref(), expected, "{version}");
        }
    }

    #[test]
    fn images_are_split_where_the_registry_ends() {
        for (image, name, tag) in [
            ("nginx", "nginx", "latest"),
            ("nginx:1.27", "nginx", "1.27"),
            ("host:5000/team/app", "host:5000/team/app", "latest"),
            ("host:5000/app:2@sha256:ab", "host:5000/app", "sha256:ab"),
        ] {
            assert_eq!(split_image(image), (name, tag), "{image}");
        }
        assert_eq!(reference("nginx:1.27"), "nginx:1.27");
        assert_eq!(reference("host:5000/app:2@sha256:ab"), "host:5000/app@sha256:ab");
    }
}
