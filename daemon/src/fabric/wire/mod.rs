//! Encrypted links between nodes: WireGuard, under the VXLAN device.
//!
//! Owns: this node's keys, the device [`WIRE_DEVICE`](raftup_proto::view::WIRE_DEVICE), and the process that encrypts
//! where the kernel cannot. Leaves alone: addresses and routes, which are netlink's part of the fabric.
//! Holds: a packet is delivered only if it comes from the address inside of the links that its key belongs to; a private
//! key is in one file for root, in memory and on a socket for root, nowhere else.
//!
//! Where the kernel has WireGuard, it does the work. Elsewhere a process of ours does, with the same keys and the same wire:
//!
//! ```text
//! raftupd ── socket ──> raftupd fabric (a process of its own, in a session of its own)
//!                         │ device ru-wire: packets of VXLAN between addresses inside of the links
//!                         └ UDP fabric port: WireGuard
//! ```
//!
//! The process outlives the daemon: killed or upgraded, the daemon finds it again at the socket and tells it what
//! changed meanwhile. [`Wire`] is the daemon's side; [`process::run`] is the other one.

mod batch;
mod engine;
mod handover;
mod kernel;
mod keys;
mod peers;
pub mod process;
mod spec;
mod tun;
mod tunnel;

pub use keys::{Keys, PrivateKey};
pub use spec::{LinkStatus, TunnelPeer, TunnelSpec};
pub use tunnel::{Wire, WireError};
