//! What an older engine would pass over without a word.

use raftup_proto::spec::{MountSource, Recursive};

use crate::engine::ContainerSettings;

/// Something that came with a version of the engine's API.
struct Need {
    what: &'static str,
    /// The minor version of the API; the major one is 1.
    minor: usize,
    /// The first engine with it.
    engine: &'static str,
}

/// What the container needs and an engine with this version of the API lacks, with the engine that has it.
pub(in crate::engine::docker) fn unmet(settings: &ContainerSettings, minor: usize) -> Option<String> {
    let unmet = needs(settings).into_iter().find(|need| need.minor > minor)?;
    Some(format!(
        "{} needs Docker Engine {} or newer: the one of this node speaks version 1.{minor} of its API",
        unmet.what, unmet.engine
    ))
}

fn needs(settings: &ContainerSettings) -> Vec<Need> {
    let spec = &settings.spec;
    let mut needs = Vec::new();
    let mut need = |asked: bool, what, minor, engine| {
        if asked {
            needs.push(Need { what, minor, engine });
        }
    };
    need(!spec.annotations.is_empty(), "`annotations`", 43, "24");
    for attachment in &settings.networks {
        let options = &attachment.options;
        need(options.mac_address.is_some(), "`mac_address`", 44, "25");
        need(
            options.driver_opts.contains_key("com.docker.network.endpoint.ifname"),
            "`interface_name`",
            49,
            "28.1",
        );
    }
    for mount in &spec.mounts {
        let options = &mount.options;
        let image = matches!(mount.source, MountSource::Image { .. });
        need(image, "a mount of the type `image`", 48, "28");
        need(!image && options.subpath.is_some(), "`volume.subpath`", 45, "26");
        let recursive = matches!(options.recursive, Some(Recursive::Writable | Recursive::Readonly));
        need(recursive, "`bind.recursive`", 44, "25");
    }
    needs
}
