//! Which level of the cluster a spec needs: what an older release would pass over without a word.
//!
//! Every pattern here names all fields, so that a new one is not forgotten.

use super::{
    ContainerSpec, Mount, MountSource, NetworkAttachment, NetworkSpec, NodeAttribute, Placement, Resources,
    SLOT, ServiceSpec, SlotOrder, StackSpec, VolumeSpec, is_default,
};
use crate::peer::Level;

/// The level that came with the options of containers, mounts, networks and volumes.
pub const OPTIONS: Level = Level(2);

/// The level that came with secrets and configs.
pub const SECRETS: Level = Level(3);

/// The level that came with jobs, hooks, slots in order, and with placement by spread, numbers of tasks, other services and
/// generic resources.
pub const PLACEMENT: Level = Level(4);

impl StackSpec {
    /// The lowest level that understands all of the spec, and the first part that needs it.
    pub fn level(&self) -> (Level, Option<String>) {
        let Self { name: _, services, networks, volumes, secrets, configs } = self;
        if let Some((name, _)) = services.iter().find(|(_, spec)| is_newer(spec)) {
            return (PLACEMENT, Some(format!("service `{name}`")));
        }
        let secrets = secrets.keys().map(|name| format!("secret `{name}`"));
        let configs = configs.keys().map(|name| format!("config `{name}`"));
        if let Some(part) = secrets.chain(configs).next() {
            return (SECRETS, Some(part));
        }
        let users = services.iter().filter(|(_, spec)| spec.container.blobs().next().is_some());
        if let Some(part) = users.map(|(name, _)| format!("service `{name}`")).next() {
            return (SECRETS, Some(part));
        }
        let services =
            services.iter().filter(|(_, spec)| service(spec)).map(|(name, _)| format!("service `{name}`"));
        let networks =
            networks.iter().filter(|(_, spec)| network(spec)).map(|(name, _)| format!("network `{name}`"));
        let volumes =
            volumes.iter().filter(|(_, spec)| volume(spec)).map(|(name, _)| format!("volume `{name}`"));
        match services.chain(networks).chain(volumes).next() {
            Some(part) => (OPTIONS, Some(part)),
            None => (Level(1), None),
        }
    }
}

/// The service says something that came with [`PLACEMENT`].
fn is_newer(spec: &ServiceSpec) -> bool {
    let Placement { constraints, spread, max_per_node, with, apart_from } = &spec.placement;
    let Resources { limits: _, reservations: _, pids: _, generic } = &spec.resources;
    let by_slot = |mount: &Mount| mount.options.volume.name.as_ref().is_some_and(|name| name.contains(SLOT));
    spec.mode.is_job()
        || spec.order != SlotOrder::Any
        || spec.container.mounts.iter().any(by_slot)
        || !is_default(&spec.container.post_start)
        || !is_default(&spec.container.pre_stop)
        || !is_default(spread)
        || max_per_node.is_some()
        || !is_default(with)
        || !is_default(apart_from)
        || !is_default(generic)
        || constraints.iter().any(|constraint| constraint.attribute == NodeAttribute::Ip)
}

/// The service says something that came with [`OPTIONS`].
fn service(spec: &ServiceSpec) -> bool {
    let ServiceSpec {
        mode: _,
        container,
        networks,
        ports: _,
        endpoint_mode: _,
        restart: _,
        placement: _,
        resources: _,
        labels: _,
        update: _,
        rollback: _,
        routing: _,
        order: _,
        depends_on,
        any_ports,
        build,
    } = spec;
    let external =
        |NetworkAttachment { network: _, aliases: _, external }: &NetworkAttachment| external.is_some();
    self::container(container)
        || networks.iter().any(external)
        || !any_ports.is_empty()
        || build.is_some()
        || !depends_on.is_empty()
}

fn container(spec: &ContainerSpec) -> bool {
    let ContainerSpec {
        image: _,
        command: _,
        entrypoint: _,
        env: _,
        hostname: _,
        user: _,
        working_dir: _,
        stop_signal: _,
        stop_grace: _,
        labels: _,
        init: _,
        read_only: _,
        mounts,
        healthcheck: _,
        container_name,
        domainname,
        tty,
        stdin_open,
        platform,
        runtime,
        pull_policy,
        logging,
        annotations,
        storage_opt,
        sysctls,
        ulimits,
        names,
        namespaces,
        privileges,
        cpu,
        memory,
        block_io,
        endpoints,
        // Of [`SECRETS`].
        secrets: _,
        configs: _,
        // See `is_newer`.
        post_start: _,
        pre_stop: _,
    } = spec;
    let plain = is_default(container_name)
        && is_default(domainname)
        && is_default(tty)
        && is_default(stdin_open)
        && is_default(platform)
        && is_default(runtime)
        && is_default(pull_policy)
        && is_default(logging)
        && is_default(annotations)
        && is_default(storage_opt)
        && is_default(sysctls)
        && is_default(ulimits)
        && is_default(names)
        && is_default(namespaces)
        && is_default(privileges)
        && is_default(cpu)
        && is_default(memory)
        && is_default(block_io)
        && is_default(endpoints);
    !plain || mounts.iter().any(mount)
}

fn mount(mount: &Mount) -> bool {
    let Mount { target: _, source, read_only: _, options } = mount;
    !is_default(options) || matches!(source, MountSource::Image { .. })
}

fn network(spec: &NetworkSpec) -> bool {
    let NetworkSpec {
        labels: _,
        encrypted: _,
        internal: _,
        attachable: _,
        name,
        external,
        driver_opts,
        ipam,
    } = spec;
    name.is_some() || *external || !driver_opts.is_empty() || !ipam.is_empty()
}

fn volume(spec: &VolumeSpec) -> bool {
    let VolumeSpec { labels: _, config } = spec;
    !is_default(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_stack_is_that_of_its_newest_part() {
        let load = |service: &str| {
            let text = format!("services: {{web: {{image: nginx, {service}}}}}");
            let read = |_: &std::path::Path, _| Ok(text.clone().into_bytes());
            let input = crate::compose::Input {
                files: &["compose.yaml".into()],
                project_dir: std::path::Path::new("/srv/shop"),
                env_files: &[],
                profiles: &[],
                name: None,
                env: &Default::default(),
                read: &read,
            };
            let loaded = crate::compose::load(&input).map_err(|problems| problems.errors).unwrap();
            loaded.spec.level().0
        };
        assert_eq!(load("deploy: {placement: {constraints: [node.role == worker]}}"), Level(1));
        assert_eq!(load("privileged: true"), OPTIONS);
        for new in [
            "{placement: {constraints: [node.ip == 10.0.0.1]}}",
            "{placement: {max_replicas_per_node: 1}}",
            "{placement: {preferences: [{spread: node.labels.zone}]}}",
            "{resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: gpu, value: 1}}]}}}",
        ] {
            assert_eq!(load(&format!("privileged: true, deploy: {new}")), PLACEMENT, "{new}");
        }
    }

    #[test]
    fn what_is_new_needs_the_level_that_it_came_with() {
        let mut spec = ContainerSpec { image: "nginx".to_owned(), init: true, ..ContainerSpec::default() };
        spec.mounts.push(Mount::new("/data", MountSource::Anonymous));
        assert!(!container(&spec));
        spec.mounts[0].options.subpath = Some("a".to_owned());
        assert!(container(&spec));
        spec.mounts.clear();
        spec.privileges.privileged = true;
        assert!(container(&spec));
    }
}
