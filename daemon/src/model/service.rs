//! A service and the versions of its spec.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

use raftup_proto::{
    api::{UpdateState, UpdateStatus},
    id::{NetworkId, ServiceId, StackId},
    name::{ServiceName, StackName, VolumeName},
    spec::ServiceSpec,
    unit::UnixMillis,
};
use serde::{Deserialize, Serialize};

use super::{Meta, Slot};

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
    /// What was asked for, newest last, never empty: the current version, those that tasks still have, and some more to
    /// roll back to.
    pub versions: Vec<Version>,
    /// How the replacement of tasks by those of the current version stands; none if nothing was ever replaced.
    pub rollout: Option<Rollout>,
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
    /// Counted up with each change.
    pub number: u64,
    /// The version whose containers will do for this one: its own number, if it needed new ones.
    pub containers: u64,
    /// When it came.
    pub at: UnixMillis,
    /// The image with its digest where it was resolved at deploy, else as asked for.
    pub image: String,
    /// All of it.
    #[serde(with = "raftup_proto::codec::spec")]
    pub spec: Arc<ServiceSpec>,
    /// Its containers are known to work: an update to it was completed, or it served when the next version came. An update
    /// that fails goes back to none that is not.
    #[serde(default)]
    pub proven: bool,
}

/// The replacement of tasks of older versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// How it stands.
    pub status: UpdateStatus,
    /// An update that failed brought it about, nobody asked for it.
    pub automatic: bool,
    /// Slots that had to change when it began.
    pub slots: u32,
    /// Those whose new task failed while it was watched.
    pub failed: BTreeSet<Slot>,
}

impl Service {
    /// The newest version.
    pub fn current(&self) -> &Version {
        self.versions.last().expect("`apply` refuses a service without a version")
    }

    /// The version before the current one, while it is kept.
    pub fn previous(&self) -> Option<&Version> {
        self.versions.iter().rev().nth(1)
    }

    /// Containers of the version of that number will do.
    pub fn is_current(&self, number: u64) -> bool {
        self.version(number).is_some_and(|version| version.containers == self.current().containers)
    }

    /// Some version with the containers of that number has shown that they work.
    pub fn is_proven(&self, containers: u64) -> bool {
        self.versions.iter().any(|version| version.containers == containers && version.proven)
    }

    /// How its rollout stands; none if there was none.
    pub fn update_state(&self) -> Option<UpdateState> {
        self.rollout.as_ref().map(|rollout| rollout.status.state)
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
