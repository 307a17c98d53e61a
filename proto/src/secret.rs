//! Values that are never shown.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A key, token or password. `Debug` does not show it, and its memory is overwritten when it is dropped.
///
/// On the wire and on disk it is encoded as the value itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use data_encoding::{BASE64, HEXLOWER};

    use super::*;
    use crate::{
        api::{Credential, Deploy, Join, Tokens},
        codec,
        id::TaskId,
        peer::{Reply, Request, Role},
        spec::{BlobSpec, StackSpec},
        token::Token,
    };

    /// No part of `shown` is `bytes` in a form that a log could have them in.
    fn check(shown: &str, bytes: &[u8]) {
        let decimal: Vec<String> = bytes.iter().map(u8::to_string).collect();
        let forms = [
            HEXLOWER.encode(bytes),
            BASE64.encode(bytes),
            String::from_utf8_lossy(bytes).into_owned(),
            decimal.join(","),
        ];
        let lower: String = shown.to_lowercase().split_whitespace().collect();
        for form in forms {
            // A part of it would be too much as well.
            let part: String = form.chars().take(8).collect();
            assert!(!lower.contains(&part.to_lowercase()), "{shown} has {part}");
        }
    }

    fn secret_of(key: &[u8]) -> BlobSpec {
        let data = Some(key.to_vec().into());
        BlobSpec { name: "shop_key".to_owned(), external: false, labels: BTreeMap::new(), data }
    }

    #[test]
    fn types_that_hold_secrets_do_not_show_them() {
        let key: [u8; 32] = std::array::from_fn(|i| b'A' + i as u8);
        let text = String::from_utf8(key.to_vec()).unwrap();
        let secret: [u8; 16] = std::array::from_fn(|i| b'a' + i as u8);
        let order = Request::BecomeManager { term: 3, member: 7, key: key.into() };
        check(&format!("{order:?}{order:#?}"), &key);
        let token = Token {
            ca_digest: [1; 32],
            role: Role::Worker,
            secret,
            managers: vec!["192.0.2.1:1".parse().unwrap()],
        };
        check(&format!("{token:?}{token:#?}"), &secret);
        let join = Join { token: token.to_string().into(), advertise: None, via: Vec::new() };
        let tokens = Tokens { manager: token.to_string().into(), worker: token.to_string().into() };
        let shown = format!("{join:?}{join:#?}{tokens:?}{tokens:#?}");
        check(&shown, &secret);
        assert!(!shown.contains(&token.to_string()["RAFTUP-1-".len()..]), "{shown}");
        let credential =
            Credential { username: "ann".to_owned(), secret: text.clone(), identity_token: false };
        let reply = Reply::Credential(Some(credential.clone()));
        let deploy = Deploy {
            spec: StackSpec {
                name: "shop".parse().unwrap(),
                services: BTreeMap::new(),
                networks: BTreeMap::new(),
                volumes: BTreeMap::new(),
                secrets: BTreeMap::from([("key".parse().unwrap(), secret_of(&key))]),
                configs: BTreeMap::new(),
            },
            credentials: BTreeMap::from([("docker.io".to_owned(), credential)]),
            keep: false,
        };
        check(&format!("{reply:?}{reply:#?}{deploy:?}{deploy:#?}"), &key);
        let task = Request::Credential { task: TaskId::from_random(1) };
        assert!(format!("{task:?}").contains("Credential"), "the rest is shown");
    }

    #[test]
    fn a_secret_is_encoded_as_its_value() {
        let plain: ([u8; 32], String) = ([7; 32], "word".to_owned());
        let secret = (Secret::from(plain.0), Secret::from(plain.1.clone()));
        assert_eq!(codec::encode(&secret, 64).unwrap(), codec::encode(&plain, 64).unwrap());
        assert_eq!(serde_json::to_string(&secret).unwrap(), serde_json::to_string(&plain).unwrap());
    }
}
