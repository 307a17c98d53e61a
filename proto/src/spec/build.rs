//! How an image is built. Source: Compose Build Specification.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{is_default, limits::Ulimit};
use crate::unit::MemBytes;

/// Everything that `build` says. The cluster keeps it and does nothing with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// Absolute path of the directory, or an address of a repository.
    #[serde(default, skip_serializing_if = "is_default")]
    pub context: String,
    /// Path of the Dockerfile in the context; `Dockerfile` where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dockerfile: Option<String>,
    /// The Dockerfile itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dockerfile_inline: Option<String>,
    /// The stage to build.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Option<String>,
    /// Arguments; those without a value come from the builder's environment.
    #[serde(default, skip_serializing_if = "is_default")]
    pub args: BTreeMap<String, Option<String>>,
    /// Further contexts, by name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub additional_contexts: BTreeMap<String, String>,
    /// Labels of the image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Further names of the image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    /// Platforms to build for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub platforms: Vec<String>,
    /// Where layers are taken from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache_from: Vec<String>,
    /// Where layers are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache_to: Vec<String>,
    /// No layer is taken from a cache.
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_cache: bool,
    /// Base images are pulled anew.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull: bool,
    /// Keys of SSH.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ssh: Vec<String>,
    /// Secrets that the build may read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets: Vec<BuildSecret>,
    /// Network of the build.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: Option<String>,
    /// Lines of `/etc/hosts`: name and address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shm_size: Option<MemBytes>,
    /// Limits of its processes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// It may do whatever root of the host may.
    #[serde(default, skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// What the builder grants.
    #[serde(default, skip_serializing_if = "is_default")]
    pub entitlements: Vec<String>,
    /// Isolation of Windows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolation: Option<String>,
    /// Attestation of provenance.
    #[serde(default, skip_serializing_if = "is_default")]
    pub provenance: Option<String>,
    /// Attestation of contents.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sbom: Option<String>,
}

/// A secret that a build may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSecret {
    /// Its key in the stack.
    pub source: String,
    /// Its name in the build; the key where not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Option<String>,
    /// Owner of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uid: Option<String>,
    /// Group of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gid: Option<String>,
    /// Permissions of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Option<u32>,
}
