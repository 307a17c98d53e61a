//! What is mounted into a container, and the named volumes of a stack.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::{
    name::{StackName, VolumeName},
    unit::MemBytes,
};

/// One thing mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// It cannot be written.
    pub read_only: bool,
    /// What else is said about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: Box<MountOptions>,
}

/// Stands for the slot of the task in the `name` of a volume.
pub const SLOT: &str = "{{.Task.Slot}}";

impl Mount {
    /// A mount without options.
    pub fn new(target: impl Into<String>, source: MountSource) -> Self {
        Self { target: target.into(), source, read_only: false, options: Box::default() }
    }

    /// The named volume that is mounted: its key in the stack, and its name on the engine.
    pub fn volume(&self, stack: &StackName) -> Option<(VolumeName, String)> {
        match &self.source {
            MountSource::Volume { name, .. } => {
                let engine_name = self.options.volume.name.clone();
                Some((name.clone(), engine_name.unwrap_or_else(|| format!("{stack}_{name}"))))
            }
            MountSource::Anonymous
            | MountSource::Bind { .. }
            | MountSource::Tmpfs { .. }
            | MountSource::Image { .. } => None,
        }
    }
}

/// What is said about a mount besides source and target. Each means something for some sources only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// SELinux label of a path or volume.
    #[serde(default, skip_serializing_if = "is_default")]
    pub relabel: Option<Relabel>,
    /// The part of a volume or image that is mounted (engines 26 and newer; of an image, 28 and newer).
    #[serde(default, skip_serializing_if = "is_default")]
    pub subpath: Option<String>,
    /// What is mounted below a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub recursive: Option<Recursive>,
    /// Further options of a tmpfs, such as `noexec` or `uid=1000`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tmpfs: Vec<String>,
    /// How the volume is made, where the engine's own way will not do. Part of the container, so that a service goes back
    /// to what it had.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volume: VolumeConfig,
}

/// Who else may use what SELinux labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relabel {
    /// All containers (`z`).
    Shared,
    /// This container alone (`Z`).
    Private,
}

/// What becomes of file systems that are mounted below a path. Source: Compose Specification, `bind.recursive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recursive {
    /// They are left out.
    Disabled,
    /// They stay writable in a mount that is not.
    Writable,
    /// They must be read-only in a mount that is, or it fails.
    Readonly,
}

/// How a volume is named and made on an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// Its name on the engine; the stack's name and its key where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// It has to be there: nobody makes it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external: bool,
    /// The driver; `local` where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// Options of the driver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, String>,
    /// Labels that the file gives it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
}

/// Where mounted data comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A named volume of the stack, on the disk of the node that runs the task.
    Volume {
        /// Its key in the stack.
        name: VolumeName,
        /// Do not copy what the image has at the target into a new volume.
        nocopy: bool,
    },
    /// A fresh volume that goes with the container.
    Anonymous,
    /// A path of the node.
    Bind {
        /// Absolute path on the node.
        path: String,
        /// Make it where it does not exist.
        create: bool,
        /// Mount propagation such as `rslave`.
        propagation: Option<String>,
    },
    /// Memory.
    Tmpfs {
        /// Its limit.
        size: Option<MemBytes>,
        /// Permission bits.
        mode: Option<u32>,
    },
    /// The files of an image (engines 28 and newer).
    Image {
        /// Its name.
        image: String,
    },
}

/// A named volume of a stack, on the disk of each node that runs a task with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How it is named and made; its labels are those above.
    #[serde(default, skip_serializing_if = "is_default")]
    pub config: VolumeConfig,
}
