//! Several stores with real files in one process.

mod chaos;
mod disk;
mod guard;
mod scenes;
mod slow;
mod turns;
mod udp;
pub(crate) mod web;

use super::sample;
