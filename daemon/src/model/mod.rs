//! The replicated state as data: no behaviour but questions.
//!
//! Everything is an object with an id and a [`Meta`]. A [`Cluster`] is cheap to clone (persistent maps of shared
//! objects), so a reader takes a snapshot and never holds a lock. Only `store::apply` makes a new one.
//!
//! The types here are also what disk and log hold; `store::format` says how that stays readable.

mod blob;
mod cluster;
mod network;
mod node;
mod object;
mod service;
mod stack;
mod task;

pub use blob::{Blob, Sealed};
pub use cluster::{Cluster, ClusterInfo, TokenHashes};
pub use network::{Network, Volume};
pub use node::{Membership, Node, Traits, Unaccepted};
pub use object::{Change, ChangeSet, Handled, Meta, Object, ObjectKey, RequestKey};
pub use service::{Rollout, Service, Version};
pub use stack::Stack;
pub use task::{Desired, Slot, Task};
