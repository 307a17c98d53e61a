//! The ways a command can end badly.

use std::io;

use raftup_proto::{
    compose::Problems,
    refusal::{Code, Refusal},
};

/// Exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Somebody refused: the daemon, or this program itself.
    Refused(Refusal),
    /// The compose files cannot be loaded.
    Compose(Problems),
    /// The user stopped watching; the text says what goes on.
    Interrupted(String),
    /// It was told already, object by object; the exit status of the first.
    Told(u8),
    /// The answer could not be written.
    Output(io::Error),
}

impl Failure {
    /// The exit status of the program. A reader that closed the pipe has what it wanted.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Refused(refusal) => refusal.code.exit_status(),
            Self::Compose(_) => Code::Invalid.exit_status(),
            Self::Interrupted(_) => INTERRUPTED,
            Self::Told(status) => *status,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) => Code::Failed.exit_status(),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Compose(problems)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
