//! Secrets and configs.

use std::{collections::BTreeMap, fmt};

use raftup_proto::{
    id::{BlobId, StackId},
    name::StackName,
    spec::BlobKind,
};
use serde::{Deserialize, Serialize};

use super::Meta;

/// One content of a secret or config. It never changes: a secret with another content is another object of the same name, and
/// the older one stays as long as a version of a service names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Its id.
    pub id: BlobId,
    /// See [`Meta`].
    pub meta: Meta,
    /// Secret or config.
    pub kind: BlobKind,
    /// Its name, unique among those of its kind that are not `replaced`.
    pub name: String,
    /// The stack that it goes with; none if it was made by itself.
    pub stack: Option<StackId>,
    /// The stack's name.
    pub stack_name: Option<StackName>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The content, sealed with the managers' key.
    pub sealed: Sealed,
    /// The name is that of a newer content by now, or of none.
    #[serde(default)]
    pub replaced: bool,
}

/// Sealed bytes, which are many.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}
