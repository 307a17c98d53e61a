//! The compose loader: compose files to a [`StackSpec`].
//!
//! Owns: the whole way from text to spec, and every message about what is wrong with a file. Leaves alone:
//! reading files and the process environment, which come in with [`Input`]; what the cluster can do with a spec.
//! Holds: nothing is dropped in silence (what is not understood is refused with file, line and column, what has
//! no effect is warned about); equal inputs give equal answers; sizes are checked before memory is taken.
//!
//! The way of a file, each step a module of its own:
//!
//! ```text
//! text -> yaml (tree of nodes with places; anchors, `<<`) -> interpolate (`${VAR}`) -> merge (several files)
//!      -> item (typed reading with paths) -> stack, service, ... (the model)
//! ```

mod build;
mod cx;
mod depends;
mod deploy;
mod diagnostic;
mod dotenv;
mod environment;
mod health;
mod interpolate;
mod item;
mod keys;
mod limits;
mod merge;
mod mounts;
mod namespaces;
mod networks;
mod ports;
mod privileges;
mod project;
mod service;
mod stack;
mod text;
mod ties;
mod yaml;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use crate::spec::StackSpec;

pub use diagnostic::{Diagnostic, Excerpt, Problems};
pub use service::image;

/// Largest file that is read, in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// What the loader works on.
pub struct Input<'a> {
    /// The compose files, at least one, named as in diagnostics; each is merged over those before it.
    pub files: &'a [PathBuf],
    /// The absolute directory that relative paths start at and whose `.env` is read: that of the first file.
    pub project_dir: &'a Path,
    /// The name of the stack where the user gave one; it wins over what the files say.
    pub name: Option<&'a str>,
    /// The process environment; it wins over `.env`.
    pub env: &'a BTreeMap<String, String>,
    /// Gives the first so many bytes of a file, or all of it if it is shorter.
    pub read: &'a dyn Fn(&Path, u64) -> io::Result<Vec<u8>>,
}

/// A stack that can be deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The stack with every default filled in.
    pub spec: StackSpec,
    /// What is odd about the files but stops nothing.
    pub warnings: Vec<Diagnostic>,
}

/// Loads compose files.
///
/// Errors: all problems that were found, in the order of the files. A file that is not YAML hides those behind it.
pub fn load(input: &Input<'_>) -> Result<Loaded, Problems> {
    let cx = cx::Cx::new(input);
    let spec = project::load(&cx);
    let (errors, warnings) = cx.into_diagnostics();
    match spec {
        Some(spec) if errors.is_empty() => Ok(Loaded { spec, warnings }),
        Some(_) | None => Err(Problems { errors, warnings }),
    }
}
