//! Several stores with real files in one process.

mod guard;
mod scenes;
mod web;

use super::sample;
