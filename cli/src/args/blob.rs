//! `raftup secret` and `raftup config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Listing, parse};

/// `raftup secret` and `raftup config`.
#[derive(Debug, Subcommand)]
pub(crate) enum BlobCommand {
    /// List them
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// Make one that belongs to no stack, for files that say `external: true`
    Create(BlobCreateArgs),
    /// Show all there is to know; the content of a config, but never that of a secret
    Inspect {
        /// Name, id, or beginning of an id
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Print JSON; the content of a config is in base64
        #[arg(long)]
        json: bool,
    },
    /// Remove those that belong to no stack and that no service uses
    #[command(visible_alias = "remove")]
    Rm {
        /// Name, id, or beginning of an id
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// `raftup secret create` and `raftup config create`.
#[derive(Debug, Args)]
pub(crate) struct BlobCreateArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The file with its content; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Label; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse::label)]
    pub(crate) label: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
