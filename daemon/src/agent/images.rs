//! Images of this node's tasks: present, or pulled.
//!
//! Owns: which pulls run. Holds: one pull of an image at a time with the same credential, whoever waits for it; a pull
//! that nobody waits for any more still ends, since the image will be wanted again; few pulls at a time. Without a leader
//! nobody knows which credential a registry asks for: that a pull without one failed is then no answer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture};
use raftup_proto::{api::Credential, id::TaskId, refusal::Refusal, spec::PullPolicy};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::engine::{Engine, EngineError, Image};

/// Pulls at a time; more only share the same link and disk.
const PULLS: usize = 3;

/// Images whose digests are looked up at a time, and how long all of them may take.
const PINS: usize = 8;
const PIN: Duration = Duration::from_secs(5);

/// Without a leader for so long, a pull is tried without a credential: public images need none. An election takes a few
/// seconds.
const ALONE: Duration = Duration::from_secs(30);

/// Knows what the registry of an image asks for.
#[async_trait]
pub(super) trait Credentials: Send + Sync + 'static {
    /// What the registry of the task's image asks for; none if the stack was deployed without. Waits for a leader who can
    /// say so. Errors: the leader refuses to say. Cancel-safe.
    async fn credential(&self, task: TaskId) -> Result<Option<Credential>, Refusal>;
}

type Answer = Result<Image, EngineError>;

/// Which image is meant, and whether it may be pulled.
#[derive(Clone, Copy, Default)]
pub(super) struct How<'a> {
    /// Its platform, where not the host's.
    pub(super) platform: Option<&'a str>,
    /// When it is pulled.
    pub(super) policy: PullPolicy,
}

/// What is looked for, or pulled with which credential.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Look {
    image: String,
    platform: Option<String>,
    /// None to look on this host; else a pull, with a credential's user name and secret.
    pull: Option<Option<(String, String, bool)>>,
}

/// The images of this host, as far as tasks need them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Images {
    engine: Arc<dyn Engine>,
    credentials: Arc<dyn Credentials>,
    found: Arc<Mutex<HashMap<String, Image>>>,
    looks: Arc<Mutex<HashMap<Look, watch::Receiver<Option<Answer>>>>>,
    pulls: Arc<Semaphore>,
}

impl Images {
    pub(super) fn new(engine: Arc<dyn Engine>, credentials: Arc<dyn Credentials>) -> Self {
        Self {
            engine,
            credentials,
            found: Arc::default(),
            looks: Arc::default(),
            pulls: Arc::new(Semaphore::new(PULLS)),
        }
    }

    /// The image, pulled for `task` if it is not there. What was found once is found at once. Cancel-safe.
    pub(super) async fn ensure(&self, image: &str, task: TaskId, how: How<'_>) -> Answer {
        if let Some(found) = lock(&self.found).get(image) {
            return Ok(found.clone());
        }
        let here = Look { image: image.to_owned(), platform: None, pull: None };
        let found = match self.shared(here, None).await {
            Err(EngineError::NotFound { .. }) => match how.policy {
                PullPolicy::Never => {
                    let message = "it is not on this node, and `pull_policy` is `never`".to_owned();
                    return Err(EngineError::NotFound { message });
                }
                PullPolicy::Missing | PullPolicy::Always => self.pulled(image, task, how).await?,
            },
            answer => answer?,
        };
        lock(&self.found).insert(image.to_owned(), found.clone());
        Ok(found)
    }

    /// The image as its registry has it now. Cancel-safe.
    pub(super) async fn renew(&self, image: &str, task: TaskId, how: How<'_>) -> Answer {
        let found = self.pulled(image, task, how).await?;
        lock(&self.found).insert(image.to_owned(), found.clone());
        Ok(found)
    }

    /// The image is not there after all, or the next task shall look again.
    pub(super) fn forget(&self, image: &str) {
        lock(&self.found).remove(image);
    }

    /// Pulls with what the leader says that the registry asks for.
    async fn pulled(&self, image: &str, task: TaskId, how: How<'_>) -> Answer {
        loop {
            match timeout(ALONE, self.credentials.credential(task)).await {
                Ok(Ok(credential)) => return self.pull(image, task, how, credential).await,
                Ok(Err(refusal)) => {
                    let message = format!("the leader does not give the registry's credential: {refusal}");
                    return Err(EngineError::Refused { message });
                }
                Err(_) => match self.pull(image, task, how, None).await {
                    Err(error) if !error.is_down() => {
                        tracing::warn!(image, %task, %error, "no pull without a leader, who knows the credentials");
                    }
                    answer => return answer,
                },
            }
        }
    }

    async fn pull(&self, image: &str, task: TaskId, how: How<'_>, credential: Option<Credential>) -> Answer {
        let key = credential.clone().map(|known| (known.username, known.secret, known.identity_token));
        tracing::info!(image, %task, "pulling image");
        let platform = how.platform.map(str::to_owned);
        self.shared(Look { image: image.to_owned(), platform, pull: Some(key) }, credential).await
    }

    /// The answer to a look that may be under way already.
    async fn shared(&self, look: Look, credential: Option<Credential>) -> Answer {
        let mut answer = {
            let mut looks = lock(&self.looks);
            match looks.get(&look) {
                Some(running) => running.clone(),
                None => {
                    let (found, running) = watch::channel(None);
                    looks.insert(look.clone(), running.clone());
                    let images = self.clone();
                    tokio::spawn(async move {
                        let answer = images.get(&look, credential).await;
                        lock(&images.looks).remove(&look);
                        found.send_replace(Some(answer));
                    });
                    running
                }
            }
        };
        let answer = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err(EngineError::Down { reason: "the pull was given up".to_owned() }))
    }

    async fn get(&self, look: &Look, credential: Option<Credential>) -> Answer {
        let image = &look.image;
        if look.pull.is_some() {
            let _turn = self.pulls.acquire().await;
            self.engine.pull(image, look.platform.as_deref(), credential.as_ref()).await?;
        }
        let gone = || EngineError::NotFound { message: "it was pulled, but is not there".to_owned() };
        self.engine.image(image).await?.ok_or_else(gone)
    }
}

/// See [`super::Agent::pin`].
pub(super) async fn pin(
    engine: &dyn Engine,
    images: BTreeMap<String, Option<Credential>>,
) -> (BTreeMap<String, String>, Vec<String>) {
    let until = Instant::now() + PIN;
    let mut asked: Vec<BoxFuture<'_, (String, Result<String, String>)>> = Vec::new();
    for (image, credential) in images {
        if !image.contains('@') {
            asked.push(Box::pin(async move {
                let found = match timeout_at(until, engine.digest(&image, credential.as_ref())).await {
                    Ok(found) => found.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {PIN:?}")),
                };
                (image, found)
            }));
        }
    }
    let mut answers = futures_util::stream::iter(asked).buffered(PINS);
    let (mut pinned, mut warnings) = (BTreeMap::new(), Vec::new());
    while let Some((image, found)) = answers.next().await {
        match found {
            Ok(digest) => _ = pinned.insert(image.clone(), format!("{image}@{digest}")),
            Err(error) => warnings.push(format!(
                "image `{image}` could not be accessed on a registry to record its digest; nodes may run different versions \
                 of it: {error}"
            )),
        }
    }
    (pinned, warnings)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::FakeEngine;

    pub(crate) struct None_;

    #[async_trait]
    impl Credentials for None_ {
        async fn credential(&self, _: TaskId) -> Result<Option<Credential>, Refusal> {
            Ok(None)
        }
    }

    /// A leader that may be away, and knows the credentials of tasks by their number.
    struct Leader {
        here: watch::Receiver<bool>,
        known: HashMap<TaskId, Option<Credential>>,
    }

    #[async_trait]
    impl Credentials for Leader {
        async fn credential(&self, task: TaskId) -> Result<Option<Credential>, Refusal> {
            let _ = self.here.clone().wait_for(|here| *here).await;
            let unknown = || Refusal::new(raftup_proto::refusal::Code::Forbidden, "not your task");
            self.known.get(&task).cloned().ok_or_else(unknown)
        }
    }

    fn credential(secret: &str) -> Credential {
        Credential { username: "u".to_owned(), secret: secret.to_owned(), identity_token: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_private_image_waits_for_a_leader() {
        let engine = FakeEngine::new();
        engine.add_private_image("ghcr.io/shop/web:1", credential("right"));
        engine.add_remote_image("public:1", Duration::ZERO);
        let (leader, here) = watch::channel(false);
        let [right, wrong, foreign] = [1, 2, 3].map(TaskId::from_random);
        let known = HashMap::from([(right, Some(credential("right"))), (wrong, None)]);
        let images = Images::new(Arc::new(engine.clone()), Arc::new(Leader { here, known }));
        let wait = |image: &'static str, task| {
            let images = images.clone();
            tokio::spawn(async move { images.ensure(image, task, How::default()).await })
        };
        let private = wait("ghcr.io/shop/web:1", right);
        // An election: nothing is pulled with what may be the wrong credential.
        tokio::time::sleep(ALONE - Duration::from_secs(1)).await;
        assert_eq!(engine.pulls(), 0);
        // No leader for long: what is public comes all the same, and what is not is no failure.
        let public = wait("public:1", right);
        tokio::time::sleep(10 * ALONE).await;
        assert!(public.await.unwrap().is_ok());
        assert!(!private.is_finished() && engine.pulls() > 1);
        leader.send_replace(true);
        assert!(private.await.unwrap().is_ok());

        // The registry's no, and the leader's, are answers; each task is judged by its own credential.
        images.forget("ghcr.io/shop/web:1");
        engine.remove_image("ghcr.io/shop/web:1");
        let (denied, refused, pulled) = (
            wait("ghcr.io/shop/web:1", wrong),
            wait("ghcr.io/shop/web:1", foreign),
            wait("ghcr.io/shop/web:1", right),
        );
        assert!(matches!(denied.await.unwrap(), Err(EngineError::NotFound { .. })));
        let refused = refused.await.unwrap().unwrap_err().to_string();
        assert!(refused.contains("not your task"), "{refused}");
        assert!(pulled.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn tags_are_pinned_as_far_as_registries_answer() {
        let engine = FakeEngine::new();
        engine.set_digest("app:latest", "sha256:1");
        engine.add_private_image("ghcr.io/shop/web", credential("right"));
        engine.set_digest("ghcr.io/shop/web", "sha256:2");
        let images = [
            ("app:latest", None),
            ("ghcr.io/shop/web", Some(credential("right"))),
            ("built:here", None),
            ("by:digest@sha256:3", None),
        ];
        let images = images.map(|(image, credential)| (image.to_owned(), credential));
        let (pinned, warnings) = pin(&engine, images.clone().into()).await;
        let pinned: Vec<_> = pinned.values().map(String::as_str).collect();
        assert_eq!(pinned, ["app:latest@sha256:1", "ghcr.io/shop/web@sha256:2"]);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].starts_with("image `built:here` could not be accessed on a registry"),
            "{warnings:?}"
        );
        engine.set_down(true);
        let (pinned, warnings) = pin(&engine, images.into()).await;
        assert_eq!((pinned.len(), warnings.len()), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_pulled_must_be_there() {
        let engine = FakeEngine::new();
        engine.add_remote_image("app:1", Duration::ZERO);
        let images = Images::new(Arc::new(engine.clone()), Arc::new(None_));
        let never = How { policy: PullPolicy::Never, ..How::default() };
        let missing = images.ensure("app:1", TaskId::from_random(1), never).await.unwrap_err().to_string();
        assert!(missing.contains("`pull_policy` is `never`"), "{missing}");
        assert_eq!(engine.pulls(), 0);
        engine.add_image("app:1");
        assert!(images.ensure("app:1", TaskId::from_random(1), never).await.is_ok());
        // What is there is pulled all the same where the file asks for it.
        assert!(images.renew("app:1", TaskId::from_random(1), How::default()).await.is_ok());
        assert_eq!(engine.pulls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_pull_for_all_who_wait() {
        let engine = FakeEngine::new();
        engine.add_remote_image("app:1", Duration::from_secs(60));
        let images = Images::new(Arc::new(engine.clone()), Arc::new(None_));
        let wait = |number| {
            let images = images.clone();
            async move { images.ensure("app:1", TaskId::from_random(number), How::default()).await }
        };
        // One stops waiting; the others get it all the same.
        assert!(tokio::time::timeout(Duration::from_secs(1), wait(1)).await.is_err());
        let (two, three) = tokio::join!(wait(2), wait(3));
        assert!(two.is_ok() && three.is_ok());
        assert_eq!(engine.pulls(), 1);
        let missing = images.ensure("nowhere:1", TaskId::from_random(1), How::default()).await;
        assert!(matches!(missing, Err(EngineError::NotFound { .. })));
        // What failed is tried again by the next one.
        engine.add_remote_image("nowhere:1", Duration::ZERO);
        assert!(images.ensure("nowhere:1", TaskId::from_random(1), How::default()).await.is_ok());
    }
}
