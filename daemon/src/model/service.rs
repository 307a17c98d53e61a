//! A service and the versions of its spec.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use raftup_proto::{
    id::{NetworkId, ServiceId, StackId},
    name::{ServiceName, StackName, VolumeName},
    spec::ServiceSpec,
    unit::UnixMillis,
};
use serde::{Deserialize, Serialize};

use super::Meta;

/// One container template and how many of it should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// See [`Meta`].
    pub meta: Meta,
    /// Its stack.
    pub stack: StackId,
    /// The stack's name.
    pub stack_name: StackName,
    /// Its name in the stack.
    pub name: ServiceName,
    /// What was asked for, newest last, never empty: the current version and those that tasks still have.
    pub versions: Vec<Version>,
    /// Its networks, in the order of the spec.
    pub networks: Vec<NetworkId>,
    /// Its virtual address on each of its networks.
    pub vips: BTreeMap<NetworkId, Ipv4Addr>,
    /// Engine names of the volumes that it mounts, by their key in the stack.
    pub volumes: BTreeMap<VolumeName, String>,
    /// It goes as soon as its tasks are gone.
    pub removing: bool,
    /// Why it is not as it should be, one line a reason; worked out by the controllers.
    pub waiting: Vec<String>,
}

/// What was asked for at one time. Tasks name the version that they were made from by its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Counted up with each change that needs new containers.
    pub number: u64,
    /// When it came.
    pub at: UnixMillis,
    /// The image with its digest where it was resolved at deploy, else as asked for.
    pub image: String,
    /// All of it.
    #[serde(with = "raftup_proto::codec::spec")]
    pub spec: Arc<ServiceSpec>,
}

impl Service {
    /// The newest version.
    pub fn current(&self) -> &Version {
        self.versions.last().expect("`apply` refuses a service without a version")
    }

    /// The version of that number, while a task has it.
    pub fn version(&self, number: u64) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// Its full name, as Swarm builds it: `shop_web`.
    pub fn full_name(&self) -> String {
        format!("{}_{}", self.stack_name, self.name)
    }
}
