//! A stack.

use raftup_proto::{id::StackId, name::StackName};
use serde::{Deserialize, Serialize};

use super::Meta;

/// The services, networks and volumes of one compose file; they name it, it does not name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Its id.
    pub id: StackId,
    /// See [`Meta`].
    pub meta: Meta,
    /// Its name, unique.
    pub name: StackName,
    /// Registry credentials of its last deploy (`BTreeMap` by registry host, JSON), sealed with the managers' key; empty
    /// without any.
    pub credentials_sealed: Vec<u8>,
    /// It goes as soon as all that names it is gone.
    pub removing: bool,
}
