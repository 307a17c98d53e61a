//! Pure decisions of the leader: from a snapshot, the time and fresh ids to a change set and the reasons for what waits.
//!
//! No I/O, no clock, no chance: equal inputs, equal plans. Carried out, a plan leaves nothing to do.
//!
//! Read [`review`] first: it is the order in which a service is looked at. What people and nodes ask for is in [`stacks`],
//! [`services`] and [`nodes`]; what they are shown is in [`show`], [`progress`] and [`view`].

pub mod addresses;
mod asked;
mod assign;
pub mod blobs;
pub mod check;
pub mod claims;
mod cleanup;
mod collisions;
mod draft;
mod drain;
pub mod find;
mod ids;
pub mod init;
pub mod level;
pub mod liveness;
pub mod networks;
pub mod nodes;
pub mod placement;
mod ports;
pub mod problems;
pub mod progress;
pub mod quorum;
mod replicas;
mod restart;
pub mod review;
mod rollout;
pub mod services;
pub mod show;
pub mod stacks;
mod start_order;
mod versions;
pub mod view;
mod world;

#[cfg(test)]
mod tests;

pub use draft::Draft;
pub use ids::Ids;
pub use review::{Facts, Plan, decide};
pub use world::{Agenda, Usage, World};
