//! The one error that reaches people.
//!
//! Everything that a user can act on ends here: a closed [`Code`], a message that names the object, and a hint
//! that says what to do next. The command line prints it and exits with the code's status.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of refusal it is; the set is closed and each has its own exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The input is malformed: a file, an argument, a token.
    Invalid,
    /// The object that was named does not exist.
    NotFound,
    /// It clashes with what is there: a name, a port, a pool, a second `init`.
    Conflict,
    /// The caller may not do this.
    Forbidden,
    /// The cluster or a part of it cannot answer now: no quorum, engine down, no daemon.
    Unavailable,
    /// It was accepted, but did not come to its goal: a deploy that failed or timed out.
    Failed,
    /// A defect of raftup.
    Internal,
}

impl Code {
    /// The exit status of the command line; 2 is left to wrong usage, as `clap` has it.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Invalid => 3,
            Self::Conflict => 4,
            Self::NotFound => 5,
            Self::Forbidden => 6,
            Self::Unavailable => 7,
            Self::Internal => 70,
        }
    }

    /// The status of the HTTP answer that carries it.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Failed => 422,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// A refusal with its reason; Display gives the message alone, whoever prints adds the hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its kind.
    pub code: Code,
    /// What is wrong with which object; lower case, no full stop.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), hint: None }
    }

    /// The refusal of everything that needs a cluster on a node that is in none.
    pub fn no_cluster() -> Self {
        Self::new(Code::Unavailable, "this node is in no cluster")
            .hint("`raftup init` makes one, `raftup join TOKEN` joins one")
    }

    /// The same refusal with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}
