//! `raftup stack`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::{Filter, Listing, LongListing, Wait};
use crate::complete;

/// `raftup stack`.
#[derive(Debug, Subcommand)]
pub(crate) enum StackCommand {
    /// Deploy a compose file, or what has changed in it, and wait until it runs
    #[command(visible_alias = "up")]
    Deploy(DeployArgs),
    /// Print compose files merged, with every default and short form in full
    Config(ConfigArgs),
    /// List the stacks
    #[command(visible_alias = "list")]
    Ls(Listing),
    /// List the tasks of a stack, with those that ended
    Ps {
        /// Name, id or beginning of an id
        #[arg(add = ArgValueCompleter::new(complete::stacks))]
        stack: String,
        /// Show only what fits: node=, service=, desired-state=running|shutdown
        #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',')]
        filter: Vec<Filter>,
        /// How it is shown.
        #[command(flatten)]
        listing: LongListing,
    },
    /// List the services of a stack
    Services {
        /// Name, id or beginning of an id
        #[arg(add = ArgValueCompleter::new(complete::stacks))]
        stack: String,
        /// How it is shown.
        #[command(flatten)]
        listing: LongListing,
    },
    /// Remove stacks, and wait until they are gone; named volumes stay
    #[command(visible_aliases = ["remove", "down"])]
    Rm {
        /// Name, id or beginning of an id
        #[arg(required = true, value_name = "STACK", add = ArgValueCompleter::new(complete::stacks))]
        stacks: Vec<String>,
        /// How long it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
}

/// `raftup stack deploy`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup stack deploy -c compose.yaml shop
  raftup stack deploy -c base.yaml -c prod.yaml shop    prod.yaml over base.yaml
  raftup stack deploy                                   what this directory has

Exit status: 0 once everything runs, 1 if it will not or did not in time,
130 after Ctrl-C, which stops the watching and not the deploy.
A file with anything wrong in it is refused (3) and changes nothing.")]
pub(crate) struct DeployArgs {
    /// Name of the stack [default: `name:` of the file, else its directory's name]
    #[arg(add = ArgValueCompleter::new(complete::stacks))]
    pub(crate) name: Option<String>,
    /// Which files, and how they are read.
    #[command(flatten)]
    pub(crate) project: ProjectArgs,
    /// Give the nodes your credentials (~/.docker/config.json) for the registries of the images
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = ArgAction::Set
    )]
    pub(crate) with_registry_auth: bool,
    /// Keep services, networks and volumes of the stack that the file does not name any more; otherwise they are removed
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// Accepted because Docker has it; it is what happens without `--no-prune`
    #[arg(long, hide = true, conflicts_with = "no_prune")]
    pub(crate) prune: bool,
    /// How long it is waited for.
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// `raftup stack config`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup stack config                       what this directory has, as one file
  raftup stack config -c a.yaml -c b.yaml   b.yaml over a.yaml
  raftup stack config -q                    only checks the files
  raftup stack config --images              one image a line

No cluster is asked. A file with anything wrong in it is refused (3).")]
pub(crate) struct ConfigArgs {
    /// Services to print, with those that they depend on [default: all]
    pub(crate) services: Vec<String>,
    /// Name of the stack [default: `name:` of the file, else its directory's name]
    #[arg(short = 'p', long = "name", visible_alias = "project-name", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Which files, and how they are read.
    #[command(flatten)]
    pub(crate) project: ProjectArgs,
    /// How the file is written
    #[arg(long, value_enum, default_value_t = Format::Yaml, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// Leave variables as they are; the cluster's own checks are left out too
    #[arg(long)]
    pub(crate) no_interpolate: bool,
    /// Only check the files, print nothing
    #[arg(short, long, group = "what")]
    pub(crate) quiet: bool,
    /// Print the names of the services, one a line
    #[arg(long = "services", group = "what")]
    pub(crate) list_services: bool,
    /// Print the images, one a line
    #[arg(long, group = "what")]
    pub(crate) images: bool,
    /// Print the names of the volumes, one a line
    #[arg(long, group = "what")]
    pub(crate) volumes: bool,
    /// Print the names of the networks, one a line
    #[arg(long, group = "what")]
    pub(crate) networks: bool,
    /// Print the names of all profiles, one a line
    #[arg(long, group = "what")]
    pub(crate) profiles: bool,
    /// Print services with a digest of what they are made of, one a line; * for all
    #[arg(long, group = "what", value_name = "SERVICES", value_delimiter = ',')]
    pub(crate) hash: Vec<String>,
}

/// How a normalised file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// As YAML.
    Yaml,
    /// As JSON.
    Json,
}

/// Which compose files a command reads, and how.
#[derive(Debug, Args)]
pub(crate) struct ProjectArgs {
    /// Compose file, - for standard input; may be given several times, each merged over those before it
    /// [default: $COMPOSE_FILE, or compose.yaml and compose.override.yaml here or in a directory above]
    #[arg(short, long, visible_short_alias = 'f', alias = "file", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) compose_file: Vec<PathBuf>,
    /// File with variables for the compose files; may be given several times
    /// [default: $COMPOSE_ENV_FILES, or .env in the project directory]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) env_file: Vec<PathBuf>,
    /// Profile whose services are part of the stack, * for all; may be given several times
    /// [default: $COMPOSE_PROFILES]
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Vec<String>,
    /// Directory that relative paths in the files start at [default: that of the first file]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) project_directory: Option<PathBuf>,
}
