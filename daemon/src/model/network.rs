//! Networks that span the cluster, and named volumes.

use ipnet::Ipv4Net;
use raftup_proto::{
    id::{NetworkId, StackId, VolumeId},
    name::{NetworkName, StackName, VolumeName},
    spec::{NetworkSpec, VolumeSpec},
};
use serde::{Deserialize, Serialize};

use super::Meta;

/// A network, of a stack or of no stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// See [`Meta`].
    pub meta: Meta,
    /// Its stack; none of a network that was created by itself.
    pub stack: Option<StackId>,
    /// The stack's name.
    pub stack_name: Option<StackName>,
    /// Its key in the stack; its name, where it is of none.
    pub name: NetworkName,
    /// All of its addresses.
    pub subnet: Ipv4Net,
    /// What was asked for.
    #[serde(with = "raftup_proto::codec::spec")]
    pub spec: NetworkSpec,
    /// It goes as soon as no service is on it.
    pub removing: bool,
    /// Blocks that nodes have given back. No node gets them before all have this revision of the network in force, and
    /// route nothing to where they were.
    #[serde(default)]
    pub returning: Vec<Ipv4Net>,
}

impl Network {
    /// Its name in the cluster: the one that the file gives it, or stack and key.
    pub fn full_name(&self) -> String {
        match (&self.spec.name, &self.stack_name) {
            (Some(name), _) => name.clone(),
            (None, Some(stack)) => format!("{stack}_{}", self.name),
            (None, None) => self.name.to_string(),
        }
    }

    /// Its name on the engines, where each stack has names of its own.
    pub fn engine_name(&self) -> String {
        match &self.stack_name {
            Some(stack) => format!("{stack}_{}", self.name),
            None => self.name.to_string(),
        }
    }

    /// Whose it is, for messages.
    pub fn owner(&self) -> String {
        match &self.stack_name {
            Some(stack) => format!("stack `{stack}`"),
            None => "no stack".to_owned(),
        }
    }
}

/// A named volume of a stack. Removing the stack leaves the data on the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// See [`Meta`].
    pub meta: Meta,
    /// Its stack.
    pub stack: StackId,
    /// The stack's name.
    pub stack_name: StackName,
    /// Its key in the stack; `{stack}_{name}` on the engines, as with `docker compose`.
    pub name: VolumeName,
    /// What was asked for.
    #[serde(with = "raftup_proto::codec::spec")]
    pub spec: VolumeSpec,
}
