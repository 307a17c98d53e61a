//! `raftup service`.

use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use raftup_proto::{
    api::{PolicyUpdate, ServiceUpdate},
    spec::{FailureAction, Ratio, UpdateOrder},
};

use super::{Filter, LongListing, Scale, Since, Wait, parse};
use crate::complete;

/// `raftup service`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the services
    #[command(visible_alias = "list")]
    Ls(LongListing),
    /// List the tasks of services, with those that ended and why
    Ps {
        /// Name such as `shop_web`, id or beginning of an id
        #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
        services: Vec<String>,
        /// Show only what fits: node=, desired-state=running|shutdown
        #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',')]
        filter: Vec<Filter>,
        /// How it is shown.
        #[command(flatten)]
        listing: LongListing,
    },
    /// Show all there is to know about services
    Inspect {
        /// Name such as `shop_web`, id or beginning of an id
        #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
        services: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Change the number of replicas, and wait until they run
    #[command(after_help = "\
Examples:
  raftup service scale shop_web=5
  raftup service scale shop_web=5 shop_worker=0")]
    Scale {
        /// Service and number of replicas
        #[arg(
            required = true, value_name = "SERVICE=REPLICAS", value_parser = parse::scale,
            add = ArgValueCompleter::new(complete::services)
        )]
        scales: Vec<Scale>,
        /// How long it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
    /// Change a service, and wait until it is as asked
    Update(UpdateArgs),
    /// Make a service what it was before its last change, and wait until it is
    #[command(after_help = "\
Examples:
  raftup service rollback shop_web           a second time goes forth again
  raftup service rollback --to 3 shop_web    `raftup service inspect` lists the versions")]
    Rollback {
        /// Name such as `shop_web`, id or beginning of an id
        #[arg(add = ArgValueCompleter::new(complete::services))]
        service: String,
        /// Number of the version to go back to [default: the one before]
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
        /// How long it is waited for.
        #[command(flatten)]
        wait: Wait,
    },
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm {
        /// Name such as `shop_web`, id or beginning of an id
        #[arg(required = true, value_name = "SERVICE", add = ArgValueCompleter::new(complete::services))]
        services: Vec<String>,
    },
    /// Show what the containers of a service write
    Logs(LogArgs),
}

/// `raftup service update`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup service update --image nginx:1.28 shop_web
  raftup service update --env-add LEVEL=debug --update-parallelism 2 shop_web
  raftup service update --force shop_web    replaces all tasks, and lets a paused update go on

What the next deploy of the compose file says replaces what is changed here.
Exit status: 0 once it is as asked, 1 if it will not be: the update is paused or was rolled back.")]
pub(crate) struct UpdateArgs {
    /// Name such as `shop_web`, id or beginning of an id
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: String,
    /// The image
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Environment variable to set; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::variable)]
    pub(crate) env_add: Vec<(String, String)>,
    /// Environment variable to remove; may be given several times
    #[arg(long, value_name = "KEY")]
    pub(crate) env_rm: Vec<String>,
    /// The number of tasks
    #[arg(long, value_name = "NUMBER")]
    pub(crate) replicas: Option<u32>,
    /// Replace all tasks even if nothing has changed
    #[arg(long)]
    pub(crate) force: bool,
    /// Go back to what it was before its last change; the same as `raftup service rollback`
    #[arg(long, conflicts_with_all = ["image", "env_add", "env_rm", "replicas", "force"])]
    pub(crate) rollback: bool,
    /// How tasks are replaced.
    #[command(flatten)]
    pub(crate) policies: PolicyArgs,
    /// How long it is waited for.
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// How tasks are replaced, there and back.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PolicyArgs {
    /// So many tasks are replaced at a time in an update, 0 for all
    #[arg(long, value_name = "NUMBER")]
    pub(crate) update_parallelism: Option<u32>,
    /// Time between one task and the next in an update, such as `10s`
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) update_delay: Option<Duration>,
    /// Which comes first in an update: stop-first or start-first
    #[arg(long, value_name = "ORDER", value_parser = parse::word::<UpdateOrder>)]
    pub(crate) update_order: Option<UpdateOrder>,
    /// How long each new task is watched in an update; 0 for the default, 5s
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) update_monitor: Option<Duration>,
    /// What to do when too many fail: pause, continue or rollback
    #[arg(long, value_name = "ACTION", value_parser = parse::word::<FailureAction>)]
    pub(crate) update_failure_action: Option<FailureAction>,
    /// Share of the tasks that may fail in an update, 0 to 1
    #[arg(long, value_name = "RATIO", value_parser = parse::word::<Ratio>)]
    pub(crate) update_max_failure_ratio: Option<Ratio>,
    /// So many tasks are replaced at a time in a rollback, 0 for all
    #[arg(long, value_name = "NUMBER")]
    pub(crate) rollback_parallelism: Option<u32>,
    /// Time between one task and the next in a rollback, such as `10s`
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) rollback_delay: Option<Duration>,
    /// Which comes first in a rollback: stop-first or start-first
    #[arg(long, value_name = "ORDER", value_parser = parse::word::<UpdateOrder>)]
    pub(crate) rollback_order: Option<UpdateOrder>,
    /// How long each new task is watched in a rollback; 0 for the default, 5s
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) rollback_monitor: Option<Duration>,
    /// What to do when too many fail on the way back: pause or continue
    #[arg(long, value_name = "ACTION", value_parser = parse::word::<FailureAction>)]
    pub(crate) rollback_failure_action: Option<FailureAction>,
    /// Share of the tasks that may fail in a rollback, 0 to 1
    #[arg(long, value_name = "RATIO", value_parser = parse::word::<Ratio>)]
    pub(crate) rollback_max_failure_ratio: Option<Ratio>,
}

impl UpdateArgs {
    /// What is asked for.
    pub(crate) fn to_update(&self) -> ServiceUpdate {
        let policies = self.policies;
        ServiceUpdate {
            replicas: self.replicas,
            image: self.image.clone(),
            env_add: self.env_add.iter().cloned().collect(),
            env_rm: self.env_rm.clone(),
            force: self.force,
            update: PolicyUpdate {
                parallelism: policies.update_parallelism,
                delay: policies.update_delay,
                order: policies.update_order,
                monitor: policies.update_monitor,
                failure_action: policies.update_failure_action,
                max_failure_ratio: policies.update_max_failure_ratio,
            },
            rollback: PolicyUpdate {
                parallelism: policies.rollback_parallelism,
                delay: policies.rollback_delay,
                order: policies.rollback_order,
                monitor: policies.rollback_monitor,
                failure_action: policies.rollback_failure_action,
                max_failure_ratio: policies.rollback_max_failure_ratio,
            },
        }
    }
}

/// `raftup service logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  raftup service logs --tail 20 -f shop_web
  raftup service logs --since 10m -t shop_web")]
pub(crate) struct LogArgs {
    /// Name such as `shop_web`, id or beginning of an id
    #[arg(add = ArgValueCompleter::new(complete::services))]
    pub(crate) service: String,
    /// Keep showing what is written from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Show only the last so many lines of each task
    #[arg(short = 'n', long, value_name = "LINES", value_parser = parse::tail, default_value = "all")]
    pub(crate) tail: parse::Tail,
    /// Show only what is newer: a duration such as `10m`, or a time such as `2026-11-21T09:30:00`
    #[arg(long, value_name = "TIME", value_parser = parse::since)]
    pub(crate) since: Option<Since>,
    /// Show when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Show the lines alone, without the task and its node
    #[arg(long)]
    pub(crate) raw: bool,
    /// Print each line as JSON
    #[arg(long, conflicts_with_all = ["raw", "timestamps"])]
    pub(crate) json: bool,
}
