//! What each command does: ask the daemon, hand the answer to [`crate::show`].

mod blob;
mod cluster;
mod completion;
mod debug;
mod network;
mod node;
mod service;
mod stack;
mod task;

use raftup_proto::spec::BlobKind;

use crate::{
    args::{Cli, Command},
    client::Client,
    failure::Failure,
    show,
};

/// Carries out a command.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let client = Client::new(cli.host);
    match cli.command {
        Command::Init(args) => cluster::init(&client, args).await,
        Command::Join(args) => cluster::join(&client, args).await,
        Command::Leave(args) => cluster::leave(&client, args).await,
        Command::Token(args) => cluster::token(&client, args).await,
        Command::Status(args) => cluster::status(&client, args).await,
        Command::Doctor(args) => cluster::doctor(&client, args).await,
        Command::Node(command) => node::run(&client, command).await,
        Command::Stack(command) => stack::run(&client, command).await,
        Command::Service(command) => service::run(&client, command).await,
        Command::Secret(command) => blob::run(&client, BlobKind::Secret, command).await,
        Command::Config(command) => blob::run(&client, BlobKind::Config, command).await,
        Command::Network(command) => network::run(&client, command).await,
        Command::Ps(args) => task::ps(&client, args).await,
        Command::Debug(command) => debug::run(&client, command).await,
        Command::Completion { shell } => completion::print(shell),
    }
}

/// What became of several objects.
struct Each<T> {
    /// What the ones that went well gave.
    done: Vec<T>,
    /// The exit status of the first that was refused.
    status: Option<u8>,
}

impl<T> Each<T> {
    /// The end of the command: errors if any object was refused.
    fn end(&self) -> Result<(), Failure> {
        self.status.map_or(Ok(()), |status| Err(Failure::Told(status)))
    }
}

/// Does the same to each item. One that is refused is told and stops no other.
async fn each<I, T>(items: &[I], act: impl AsyncFn(&I) -> Result<T, Failure>) -> Result<Each<T>, Failure> {
    let mut each = Each { done: Vec::new(), status: None };
    for item in items {
        match act(item).await {
            Ok(value) => each.done.push(value),
            Err(Failure::Refused(refusal)) => {
                show::refusal(&refusal);
                each.status.get_or_insert(refusal.code.exit_status());
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(each)
}
