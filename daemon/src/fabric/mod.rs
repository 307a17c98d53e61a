//! Links and routes between hosts, by netlink.
//!
//! Owns: the device of each [`Lane`](raftup_proto::view::Lane), its neighbours and forwarding entries, the routes to
//! other nodes' blocks, the routing rules and tables that send replies back to the node they came in by, and
//! the settings of bridges that Docker makes for our networks. Leaves alone: everything else on the host, Docker's
//! bridges included; what may pass is the `mesh`'s part.
//! Holds: nothing is learned and nothing flooded, and no daemon is needed for what is in the kernel.
//!
//! [`Wiring::of`] says what should be there, [`Fabric::apply`] changes what differs, [`bridges::Bridges`] follows links.
//! [`Guard`] sees what others take away, [`ping`] asks whether a host is reached.
//! What a lane runs over is told by an [`Underlay`]: the bare link, or the encrypted links of [`wire`].

pub mod bridges;
mod guard;
mod kernel;
mod ping;
mod underlay;
pub mod wire;
mod wiring;

pub use guard::Guard;
pub use kernel::{Fabric, FabricError, PROBE};
pub use ping::{answering, largest, ping};
pub use underlay::{LEAST_LINK_MTU, Underlay};
pub use wiring::Wiring;
