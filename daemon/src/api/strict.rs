//! Bodies of requests.

use axum::{
    extract::{FromRequest, Request},
    http::header::CONTENT_TYPE,
};
use bytes::Bytes;
use raftup_proto::refusal::{Code, Refusal};
use serde::de::DeserializeOwned;

use super::refuse::Refused;

/// A JSON body of which every field is known. The state passes over fields of a newer release; a client's wish that this
/// one does not know is refused instead, with its place.
pub(super) struct Strict<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Strict<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        // A page in a browser can send plain text anywhere, JSON only where it may.
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            return Err(invalid("the body is not declared as `application/json`").into());
        }
        let body = Bytes::from_request(request, state).await.map_err(|error| invalid(error.body_text()))?;
        parse(&body).map(Self).map_err(Refused)
    }
}

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Invalid, what)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let mut unknown = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_ignored::deserialize(&mut json, |path| unknown.push(path.to_string()))
        .and_then(|value| json.end().map(|()| value))
        .map_err(|error| invalid(format!("the body cannot be read: {error}")))?;
    match unknown.first() {
        None => Ok(value),
        Some(field) => Err(invalid(format!("raftupd {} does not know `{field}`", env!("CARGO_PKG_VERSION")))
            .hint("the request was made for a newer release: update raftupd on all nodes, or leave it out")),
    }
}

#[cfg(test)]
mod tests {
    use raftup_proto::api::ServiceUpdate;

    use super::*;

    #[test]
    fn a_field_that_is_not_known_is_refused_with_its_place() {
        assert_eq!(parse::<ServiceUpdate>(br#"{"force": true}"#).map(|update| update.force), Ok(true));
        let refusal = parse::<ServiceUpdate>(br#"{"force": true, "color": 1}"#).unwrap_err();
        assert!(refusal.message.contains("`color`"), "{refusal}");
        for bad in [&b""[..], b"{", b"7", br#"{"force": 7}"#, br#"{"force": true} x"#] {
            assert_eq!(parse::<ServiceUpdate>(bad).map(|_| ()).unwrap_err().code, Code::Invalid);
        }
    }
}
