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
//! text -> yaml (tree of nodes with places; anchors, `<<`)
//!      -> layer (for each file: interpolate `${VAR}`, extends, include, merge over the files before it)
//!      -> project (unique, profiles, label_file: one tree with a name)
//!      -> item (typed reading with paths) -> stack, service, ... (the model)
//!      -> canonical (the same tree as one normalised file)
//! ```

mod blobs;
mod build;
mod canonical;
mod cx;
mod depends;
mod deploy;
mod diagnostic;
mod dotenv;
mod environment;
mod extends;
mod health;
mod hooks;
mod include;
mod interpolate;
mod item;
mod keys;
mod label_file;
mod layer;
mod legacy;
mod limits;
mod merge;
mod mounts;
mod namespaces;
mod networks;
mod path;
mod placement;
mod ports;
mod privileges;
mod profiles;
mod project;
mod rebase;
mod service;
mod short;
mod stack;
mod text;
mod ties;
mod unique;
mod yaml;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use crate::spec::StackSpec;

pub use canonical::{Config, Normalise, normalise};
pub use diagnostic::{Diagnostic, Excerpt, Problems};
pub use service::image;

/// Largest file that is read, in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// What the loader works on.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The compose files, at least one, named as in diagnostics; each is merged over those before it.
    pub files: &'a [PathBuf],
    /// The absolute directory that relative paths start at: that of the first file, unless the user named another.
    pub project_dir: &'a Path,
    /// Files with variables, named as in diagnostics, each over those before it; if there are none, `.env` of the
    /// project directory.
    pub env_files: &'a [PathBuf],
    /// The profiles that are active; if there are none, those of `COMPOSE_PROFILES`.
    pub profiles: &'a [String],
    /// The name of the stack where the user gave one; it wins over what the files say.
    pub name: Option<&'a str>,
    /// The process environment; it wins over the files with variables.
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

/// The variables that compose files see: those of the environment files, and over them the process's.
///
/// Errors: all problems of the environment files. The compose files are not read.
pub fn variables(input: &Input<'_>) -> Result<BTreeMap<String, String>, Problems> {
    let cx = cx::Cx::new(input);
    project::variables(&cx);
    let env = cx.env.borrow().clone();
    let (errors, warnings) = cx.into_diagnostics();
    if errors.is_empty() { Ok(env) } else { Err(Problems { errors, warnings }) }
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
