//! What is mounted, in the engine's words: as binds, mounts or memory, by what each form can say.

use std::collections::HashMap;

use bollard::models::{
    Mount as ApiMount, MountBindOptions, MountBindOptionsPropagationEnum, MountImageOptions,
    MountTmpfsOptions, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig, VolumeCreateRequest,
};
use raftup_proto::spec::{Mount, MountOptions, MountSource, Recursive, Relabel, VolumeConfig};

use super::{map, signed};
use crate::engine::ContainerSettings;

/// A named volume that is not simply made with the container.
pub(in crate::engine::docker) enum VolumeToMake {
    /// It must be there.
    Find(String),
    /// It is made, or is there with the same driver and options.
    Make(Box<VolumeCreateRequest>),
}

/// The volumes to look at before a container is made: `external` ones, those with options (the engine says nothing where
/// one with others is there), and those that a bind names (it would make them without labels).
pub(in crate::engine::docker) fn volumes(settings: &ContainerSettings) -> Vec<VolumeToMake> {
    let mut all = Vec::new();
    for mount in &settings.spec.mounts {
        let MountSource::Volume { name, .. } = &mount.source else { continue };
        let config = &mount.options.volume;
        let engine_name = settings.volumes.get(name).cloned().unwrap_or_else(|| name.to_string());
        if config.external {
            all.push(VolumeToMake::Find(engine_name));
        } else if mount.options.relabel.is_some() || config.driver.is_some() || !config.driver_opts.is_empty()
        {
            all.push(VolumeToMake::Make(Box::new(VolumeCreateRequest {
                name: Some(engine_name),
                driver: config.driver.clone().or(Some(LOCAL.to_owned())),
                driver_opts: map(&config.driver_opts),
                labels: Some(labels(settings, config)),
                ..VolumeCreateRequest::default()
            })));
        }
    }
    all
}

/// The engine's own driver of volumes.
const LOCAL: &str = "local";

fn labels(settings: &ContainerSettings, config: &VolumeConfig) -> HashMap<String, String> {
    let mut labels = config.labels.clone();
    labels.extend(settings.volume_labels.clone());
    labels.into_iter().collect()
}

/// Mounts that only the older form can express: a path that is made where it is missing (engines before 23 do that for
/// binds alone), and labels of SELinux.
pub(super) fn binds(settings: &ContainerSettings) -> Vec<String> {
    settings
        .spec
        .mounts
        .iter()
        .filter(|mount| is_bind(mount))
        .filter_map(|mount| bind(settings, mount))
        .collect()
}

fn is_bind(mount: &Mount) -> bool {
    let MountOptions { relabel, subpath, recursive, .. } = &*mount.options;
    match &mount.source {
        MountSource::Bind { create, .. } => (*create && recursive.is_none()) || relabel.is_some(),
        MountSource::Volume { .. } => relabel.is_some() && subpath.is_none(),
        MountSource::Anonymous | MountSource::Tmpfs { .. } | MountSource::Image { .. } => false,
    }
}

fn bind(settings: &ContainerSettings, mount: &Mount) -> Option<String> {
    let mut options = vec![if mount.read_only { "ro" } else { "rw" }];
    options.extend(mount.options.relabel.map(|relabel| match relabel {
        Relabel::Shared => "z",
        Relabel::Private => "Z",
    }));
    let source = match &mount.source {
        MountSource::Bind { path, propagation, .. } => {
            options.extend(propagation.as_deref());
            path
        }
        MountSource::Volume { name, nocopy } => {
            options.extend(nocopy.then_some("nocopy"));
            settings.volumes.get(name)?
        }
        MountSource::Anonymous | MountSource::Tmpfs { .. } | MountSource::Image { .. } => return None,
    };
    Some(format!("{source}:{}:{}", mount.target, options.join(",")))
}

/// Memory with options that only this form can express on all engines.
pub(super) fn tmpfs(settings: &ContainerSettings) -> Option<HashMap<String, String>> {
    let found =
        settings.spec.mounts.iter().filter(|mount| !mount.options.tmpfs.is_empty()).filter_map(|mount| {
            let MountSource::Tmpfs { size, mode } = &mount.source else { return None };
            let mut options = mount.options.tmpfs.clone();
            options.extend(mount.read_only.then(|| "ro".to_owned()));
            options.extend(size.map(|size| format!("size={}", size.0)));
            options.extend(mode.map(|mode| format!("mode={mode:o}")));
            Some((mount.target.clone(), options.join(",")))
        });
    let found: HashMap<_, _> = found.collect();
    Some(found).filter(|found| !found.is_empty())
}

/// Everything that [`binds`] and [`tmpfs`] leave.
pub(super) fn mounts(settings: &ContainerSettings) -> Vec<ApiMount> {
    let rest = settings.spec.mounts.iter().filter(|mount| !is_bind(mount) && mount.options.tmpfs.is_empty());
    rest.map(|mount| api_mount(settings, mount)).collect()
}

fn api_mount(settings: &ContainerSettings, mount: &Mount) -> ApiMount {
    let options = &mount.options;
    let base = ApiMount {
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..ApiMount::default()
    };
    let volume_options = |nocopy: bool| {
        let config = &options.volume;
        let driver = MountVolumeOptionsDriverConfig {
            name: config.driver.clone().or(Some(LOCAL.to_owned())),
            options: map(&config.driver_opts),
        };
        let own = config.driver.is_some() || !config.driver_opts.is_empty();
        MountVolumeOptions {
            no_copy: Some(nocopy),
            labels: Some(labels(settings, config)),
            driver_config: own.then_some(driver),
            subpath: options.subpath.clone(),
        }
    };
    match &mount.source {
        MountSource::Bind { path, create, propagation } => ApiMount {
            typ: Some(MountType::BIND),
            source: Some(path.clone()),
            bind_options: Some(MountBindOptions {
                propagation: propagation.as_deref().and_then(propagated),
                non_recursive: (options.recursive == Some(Recursive::Disabled)).then_some(true),
                read_only_non_recursive: (options.recursive == Some(Recursive::Writable)).then_some(true),
                read_only_force_recursive: (options.recursive == Some(Recursive::Readonly)).then_some(true),
                create_mountpoint: create.then_some(true),
            }),
            ..base
        },
        MountSource::Volume { name, nocopy } => ApiMount {
            typ: Some(MountType::VOLUME),
            source: Some(settings.volumes.get(name).cloned().unwrap_or_else(|| name.to_string())),
            volume_options: Some(volume_options(*nocopy)),
            ..base
        },
        MountSource::Anonymous => {
            ApiMount { typ: Some(MountType::VOLUME), volume_options: Some(volume_options(false)), ..base }
        }
        MountSource::Tmpfs { size, mode } => ApiMount {
            typ: Some(MountType::TMPFS),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: size.map(|size| signed(size.0)),
                mode: mode.map(i64::from),
                ..MountTmpfsOptions::default()
            }),
            ..base
        },
        MountSource::Image { image } => ApiMount {
            typ: Some(MountType::IMAGE),
            source: Some(image.clone()),
            image_options: options.subpath.clone().map(|path| MountImageOptions { subpath: Some(path) }),
            ..base
        },
    }
}

fn propagated(word: &str) -> Option<MountBindOptionsPropagationEnum> {
    use MountBindOptionsPropagationEnum as Word;
    [Word::PRIVATE, Word::RPRIVATE, Word::SHARED, Word::RSHARED, Word::SLAVE, Word::RSLAVE]
        .into_iter()
        .find(|known| known.to_string() == word)
}
