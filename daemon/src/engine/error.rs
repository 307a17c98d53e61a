//! What can go wrong with the engine.

/// An engine that did not do as it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It does not answer; whether it did anything is not known.
    #[error("the engine does not answer: {reason}")]
    Down {
        /// Why.
        reason: String,
    },
    /// What was named is not there.
    #[error("{message}")]
    NotFound {
        /// The engine's words.
        message: String,
    },
    /// Something else is in the way: a name, a container on a network.
    #[error("{message}")]
    Conflict {
        /// The engine's words.
        message: String,
    },
    /// It will not, for another reason.
    #[error("{message}")]
    Refused {
        /// The engine's words.
        message: String,
    },
}

impl EngineError {
    /// Whether the engine gave no answer, so that the same call may succeed once it is back.
    pub fn is_down(&self) -> bool {
        matches!(self, Self::Down { .. })
    }

    /// An answer with the status `code` of HTTP.
    pub(super) fn from_status(code: u16, message: String) -> Self {
        match code {
            404 => Self::NotFound { message },
            409 => Self::Conflict { message },
            502..=504 => Self::Down { reason: message },
            _ => Self::Refused { message },
        }
    }
}

impl From<bollard::errors::Error> for EngineError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all that are not an answer mean that there was none")]
    fn from(error: bollard::errors::Error) -> Self {
        use bollard::errors::Error as Api;
        match error {
            Api::DockerResponseServerError { status_code, message } => {
                Self::from_status(status_code, message.trim().to_owned())
            }
            // What a pull ends with when the registry says no.
            Api::DockerStreamError { error } => Self::Refused { message: error.trim().to_owned() },
            Api::JsonDataError { message, .. } => {
                Self::Refused { message: format!("answer that cannot be read: {message}") }
            }
            other => Self::Down { reason: chain(&other) },
        }
    }
}

/// The error with all that it rests on, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}
