//! `raftup debug`.

use raftup_proto::api::ControllerView;

use crate::{
    args::DebugCommand,
    client::{Client, Path},
    failure::Failure,
    show::{self, Look},
};

pub(super) async fn run(client: &Client, command: DebugCommand) -> Result<(), Failure> {
    match command {
        DebugCommand::Controllers { json } => {
            let controllers: Vec<ControllerView> = client.get(Path::new(["debug", "controllers"])).await?;
            if json {
                return Ok(show::json(&controllers)?);
            }
            Ok(show::answer(show::controllers(&controllers, Look::stdout()))?)
        }
    }
}
