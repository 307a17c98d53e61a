//! Containers whose name the user chose (`container_name`).
//!
//! Everyone else knows a container by its task's name, which is unique; the engine has it in a label. Owns: finding the
//! container of a task's name where the engine knows it by another, and handing a chosen name from an old container to the
//! next one.

use std::collections::HashMap;

use bollard::{
    Docker,
    query_parameters::{
        InspectContainerOptions, ListContainersOptionsBuilder, RenameContainerOptionsBuilder,
    },
};

use super::{DockerEngine, EngineError, labels};

impl DockerEngine {
    /// The id of the container that belongs to a task's name, whatever the engine calls it.
    pub(super) async fn by_label(
        &self,
        client: &Docker,
        task_name: &str,
    ) -> Result<Option<String>, EngineError> {
        let filters = HashMap::from([("label", vec![format!("{}={task_name}", labels::TASK_NAME)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.answer(client.list_containers(Some(options)).await)?;
        Ok(listed.into_iter().find_map(|container| container.id))
    }

    /// Frees a name that a container of the same cluster has: it gets its task's name. False if the name is someone
    /// else's.
    pub(super) async fn take_name(
        &self,
        client: &Docker,
        name: &str,
        cluster: &str,
    ) -> Result<bool, EngineError> {
        let found = match self.answer(client.inspect_container(name, None::<InspectContainerOptions>).await) {
            Ok(found) => found,
            Err(EngineError::NotFound { .. }) => return Ok(true),
            Err(error) => return Err(error),
        };
        let theirs = found.config.and_then(|config| config.labels).unwrap_or_default();
        let ours = theirs.get(labels::CLUSTER).is_some_and(|theirs| theirs == cluster);
        let (Some(id), Some(task_name), true) = (found.id, theirs.get(labels::TASK_NAME), ours) else {
            return Ok(false);
        };
        let options = RenameContainerOptionsBuilder::new().name(task_name).build();
        match self.answer(client.rename_container(&id, options).await) {
            Ok(()) | Err(EngineError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
