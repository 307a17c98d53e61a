//! Images of this node's tasks: present, or pulled.
//!
//! Owns: which pulls run. Holds: one pull of an image at a time, whoever waits for it; a pull that nobody waits for
//! any more still ends, since the image will be wanted again; few pulls at a time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use raftup_proto::{api::Credential, id::TaskId};
use tokio::sync::{Semaphore, watch};

use crate::engine::{Engine, EngineError, Image};

/// Pulls at a time; more only share the same link and disk.
const PULLS: usize = 3;

/// Knows what the registry of an image asks for.
#[async_trait]
pub(super) trait Credentials: Send + Sync + 'static {
    /// What the registry of the task's image asks for; none if nothing is known.
    async fn credential(&self, task: TaskId) -> Option<Credential>;
}

type Answer = Result<Image, EngineError>;

/// The images of this host, as far as tasks need them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Images {
    engine: Arc<dyn Engine>,
    credentials: Arc<dyn Credentials>,
    looks: Arc<Mutex<HashMap<String, watch::Receiver<Option<Answer>>>>>,
    pulls: Arc<Semaphore>,
}

impl Images {
    pub(super) fn new(engine: Arc<dyn Engine>, credentials: Arc<dyn Credentials>) -> Self {
        Self { engine, credentials, looks: Arc::default(), pulls: Arc::new(Semaphore::new(PULLS)) }
    }

    /// The image, pulled for `task` if it is not there. What was found once is found at once. Cancel-safe.
    pub(super) async fn ensure(&self, image: &str, task: TaskId) -> Answer {
        let mut look = self.look(image, task);
        let answer = match look.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        let answer = answer.unwrap_or(Err(EngineError::Down { reason: "the pull was given up".to_owned() }));
        if answer.is_err() {
            self.forget(image);
        }
        answer
    }

    /// The image is not there after all, or the next task shall look again.
    pub(super) fn forget(&self, image: &str) {
        let mut looks = self.lock();
        // One that still runs is as good as a new one.
        if looks.get(image).is_some_and(|look| look.borrow().is_some()) {
            looks.remove(image);
        }
    }

    fn look(&self, image: &str, task: TaskId) -> watch::Receiver<Option<Answer>> {
        let mut looks = self.lock();
        if let Some(look) = looks.get(image) {
            return look.clone();
        }
        let (found, look) = watch::channel(None);
        looks.insert(image.to_owned(), look.clone());
        let (images, image) = (self.clone(), image.to_owned());
        tokio::spawn(async move { found.send_replace(Some(images.get(&image, task).await)) });
        look
    }

    async fn get(&self, image: &str, task: TaskId) -> Answer {
        if let Some(found) = self.engine.image(image).await? {
            return Ok(found);
        }
        let _turn = self.pulls.acquire().await;
        let credential = self.credentials.credential(task).await;
        tracing::info!(image, %task, "pulling image");
        self.engine.pull(image, credential.as_ref()).await?;
        let gone = || EngineError::NotFound { message: "it was pulled, but is not there".to_owned() };
        self.engine.image(image).await?.ok_or_else(gone)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Answer>>>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::FakeEngine;

    pub(crate) struct None_;

    #[async_trait]
    impl Credentials for None_ {
        async fn credential(&self, _: TaskId) -> Option<Credential> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_pull_for_all_who_wait() {
        let engine = FakeEngine::new();
        engine.add_remote_image("app:1", Duration::from_secs(60));
        let images = Images::new(Arc::new(engine.clone()), Arc::new(None_));
        let wait = |number| {
            let images = images.clone();
            async move { images.ensure("app:1", TaskId::from_random(number)).await }
        };
        // One stops waiting; the others get it all the same.
        assert!(tokio::time::timeout(Duration::from_secs(1), wait(1)).await.is_err());
        let (two, three) = tokio::join!(wait(2), wait(3));
        assert!(two.is_ok() && three.is_ok());
        assert_eq!(engine.pulls(), 1);
        let missing = images.ensure("nowhere:1", TaskId::from_random(1)).await;
        assert!(matches!(missing, Err(EngineError::NotFound { .. })));
        // What failed is tried again by the next one.
        engine.add_remote_image("nowhere:1", Duration::ZERO);
        assert!(images.ensure("nowhere:1", TaskId::from_random(1)).await.is_ok());
    }
}
