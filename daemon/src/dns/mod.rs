//! Names of services and tasks for containers.
//!
//! Owns: a server on port 53 of each network's gateway on this node. Answers with addresses of services and tasks, as
//! far as the asking task shares a network with them; all else is passed on to the host's resolvers. Leaves alone: the
//! engine's own resolver, which hands its containers' questions to this one.
//! Holds: a name of a service that exists is never said not to exist, whatever state its tasks are in.
//!
//! | name | is |
//! | --- | --- |
//! | `web`, `web.shop`, `shop_web`, aliases | the service's virtual address |
//! | `tasks.web` | its ready tasks |
//! | `3.web` | the task in slot 3 |
//! | any of them and `.internal` | the same |
//!
//! [`Names`] (pure) is built once for each view, `answer` (pure) works on bytes, [`Dns`] has the sockets.

mod answer;
mod forward;
mod names;
mod server;

pub use names::Names;
pub use server::Dns;
