//! HTTP: what people and programs ask of a node.
//!
//! The same router answers on the local socket and, to other nodes, on streams of their QUIC connections. What only
//! the leader can answer is forwarded there, so any node will do; logs are fetched from the nodes that have them.
//!
//! Owns: paths, bodies, statuses. Leaves alone: every decision (`plan`), every write (`store`).

mod forward;
mod lifecycle;
mod native;
mod refuse;
mod server;
mod strict;

pub use lifecycle::{Lifecycle, Manager, Member};
pub use server::Api;
