//! The routing table as an nftables ruleset: published ports, virtual addresses, isolation of networks.
//!
//! Owns: the table `ip raftup`, two rules in Docker's chain for users and one for input, the sockets that keep published
//! ports for us, what goes on from those of IPv6, and the kernel's memory of flows to endpoints that are gone. Leaves
//! alone: all other rules; device and routes are the `fabric`'s.
//! Holds: only ready endpoints on live nodes get new connections; connections that stand are left alone; a change is
//! one transaction of the kernel, so that no packet meets half of it.
//!
//! [`Guard`] sees when others change them.
//! [`Table`] (pure) is what the view means for packets, [`Ruleset`] (pure) is the same as text, [`Mesh`] applies it.

mod apply;
mod conntrack;
mod docker;
mod found;
mod guard;
mod others;
mod relay;
mod render;
mod reserve;
mod ruleset;
mod table;

pub use apply::{Mesh, MeshError, try_rules};
pub use conntrack::{Listing, cut_connections, forget_ended, try_connections};
pub use found::Found;
pub use guard::{Changed, Guard};
pub use ruleset::Ruleset;
pub use table::Table;
