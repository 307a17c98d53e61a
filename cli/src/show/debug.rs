//! The cluster's own works.

use std::time::Duration;

use raftup_proto::api::ControllerView;

use super::{
    Look, Text,
    table::{Table, Tone, cell},
};

/// The table of controllers.
pub(crate) fn controllers(controllers: &[ControllerView], look: Look) -> Text {
    let mut table = Table::new(["CONTROLLER", "RUNS", "WOKEN BY", "TOOK", "LAST RUN"]);
    for controller in controllers {
        table.row([
            cell(&controller.name, Tone::Plain),
            cell(controller.runs, Tone::Plain),
            cell(&controller.woken_by, Tone::Plain),
            cell(format!("{:?}", Duration::from_micros(controller.took_us)), Tone::Plain),
            cell(&controller.last, Tone::Plain),
        ]);
    }
    table.render(look)
}
