//! The secrets of the join tokens.
//!
//! The state holds their digests, to check a joining node, and the secrets themselves sealed with the managers' key,
//! so that a token can be shown again. Rotating one puts a fresh secret in its place; the old token is then refused.

use raftup_proto::{
    peer::Role,
    refusal::{Code, Refusal},
};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    model::{ChangeSet, ClusterInfo, RequestKey, TokenHashes},
    secret::{self, Key},
    store::Store,
};

/// What the sealed secrets are bound to.
const CONTEXT: &str = "join-tokens";

/// Bytes of one secret.
const SECRET_BYTES: usize = 16;

/// The secrets of both tokens.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secrets {
    /// Of the token for nodes that may become managers.
    pub manager: [u8; SECRET_BYTES],
    /// Of the token for nodes that only run tasks.
    pub worker: [u8; SECRET_BYTES],
}

impl Secrets {
    /// Fresh ones.
    pub fn random() -> Self {
        Self { manager: rand::random(), worker: rand::random() }
    }

    /// What the state holds of them.
    pub fn hashes(&self, key: &Key) -> TokenHashes {
        let both = [self.manager, self.worker].concat();
        TokenHashes {
            manager: Sha256::digest(self.manager).into(),
            worker: Sha256::digest(self.worker).into(),
            sealed: secret::seal(key, CONTEXT, &both),
        }
    }
}

/// The secrets in the state. Errors: the key is not the one that they were sealed with.
pub fn open(info: &ClusterInfo, key: &Key) -> Result<Secrets, Refusal> {
    let sealed =
        || Refusal::new(Code::Internal, "the join tokens cannot be unsealed with this manager's key");
    let both = secret::open(key, CONTEXT, &info.tokens.sealed).map_err(|_| sealed())?;
    let (manager, worker) = both.split_at_checked(SECRET_BYTES).ok_or_else(sealed)?;
    let fixed = |bytes: &[u8]| bytes.try_into().map_err(|_| sealed());
    Ok(Secrets { manager: fixed(manager)?, worker: fixed(worker)? })
}

/// Puts a fresh secret in the place of the one for `role`; once, however often `request` asks.
pub async fn rotate(store: &Store, key: &Key, role: Role, request: RequestKey) -> Result<(), Refusal> {
    let fresh = Secrets::random();
    let change = |cluster: &crate::model::Cluster, now| {
        let none = || Refusal::new(Code::Internal, "the cluster has no settings yet");
        let mut info = cluster.info.as_deref().cloned().ok_or_else(none)?;
        let mut secrets = open(&info, key)?;
        match role {
            Role::Manager => secrets.manager = fresh.manager,
            Role::Worker => secrets.worker = fresh.worker,
        }
        info.tokens = secrets.hashes(key);
        let mut set = ChangeSet::new(now);
        set.update(info);
        Ok((set, ()))
    };
    store.change_once(request, change).await?;
    Ok(())
}
