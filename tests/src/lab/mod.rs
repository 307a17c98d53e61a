//! Hosts on one machine, out of namespaces, each with its own engine and `raftupd`.
//!
//! Owns: everything below the lab's state directory, and the namespaces, mounts, loop devices, links and cgroups
//! of its hosts. Leaves alone: the machine's own engine, network and files; a host writes to its own disk.
//! Holds: all that belongs to a host dies with that host's PID 1, so that cleaning up is killing a few processes
//! and removing a few directories, however the run before ended.
//!
//! ```text
//!   machine ── uplink ── switch (bridge) ─┬─ client
//!                                         ├─ h1: dockerd, raftupd, containers; own root, /run, disk
//!                                         ├─ h2 ...
//!                                         └─ a router with a NAT ── a host that was put behind it
//! ```

mod boot;
mod cgroup;
mod clean;
mod disk;
mod engine;
mod enter;
mod host;
mod images;
mod init;
mod net;
mod place;
mod record;
mod run;
mod wait;

pub use engine::EngineKind;
pub use host::{DaemonStats, Host, What};
pub use images::{IMAGES, Image, build_all};
pub use init::host_init;
pub use place::LabId;
pub use run::{CLIENT, Lab, Options};
pub use wait::wait_for;
