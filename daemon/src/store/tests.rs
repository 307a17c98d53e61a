//! Several stores with real files in one process.

mod guard;
mod scenes;
pub(crate) mod web;

use super::sample;
