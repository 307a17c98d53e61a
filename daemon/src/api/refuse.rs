//! Refusals as HTTP answers.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use raftup_proto::refusal::{Code, Refusal};

/// A refusal on its way out; lets handlers use `?`.
pub(super) struct Refused(pub(super) Refusal);

/// What a handler answers.
pub(super) type Answer<T> = Result<Json<T>, Refused>;

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// What to do while nobody leads.
pub(super) const NO_LEADER: &str =
    "running tasks are not affected; see `raftup status` on the managers, a majority of them must be up";

/// No leader was found in time.
pub(super) fn no_leader() -> Refusal {
    Refusal::new(Code::Unavailable, "the cluster has no leader now").hint(NO_LEADER)
}
