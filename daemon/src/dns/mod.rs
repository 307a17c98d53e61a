//! Names of services and tasks for containers.
//!
//! Owns: port 53 of each network's gateway on this node. Answers with addresses of services and tasks, as far as the
//! asking task shares a network with them; all else is passed on to the host's resolvers, but not for those on internal
//! networks alone, and only for containers of our networks. Leaves alone: the engine's own resolver, which hands its containers' questions to this one.
//! Holds: a name of a service that exists is never said not to exist, whatever state its tasks are in; a container cannot use
//! up what its host can ask of others at a time.
//!
//! | name | is |
//! | --- | --- |
//! | `web`, `web.shop`, `shop_web`, aliases | the service's virtual address |
//! | `tasks.web` | its ready tasks |
//! | `3.web` | the task in slot 3 |
//! | any of them and `.internal` | the same |
//!
//! A process of its own answers, so that names are answered as long as containers run:
//!
//! ```text
//! raftupd ── socket ──> raftupd names (outlives the daemon, as `raftupd fabric` does)
//!                         └ UDP and TCP port 53 of each gateway
//! ```
//!
//! [`Resolver`] is the daemon's side, which opens the sockets, and [`process::run`] the other one, which has no rights. There, `Names` (pure) is built anew for each
//! change, `answer` (pure) works on bytes, `server` has the sockets.

mod answer;
mod forward;
mod handover;
mod names;
mod orders;
pub mod process;
mod resolver;
mod server;
mod shares;

pub use resolver::{Resolver, ResolverError};

use names::Names;
