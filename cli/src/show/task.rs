//! Tasks.

use raftup_proto::{api::TaskView, peer::TaskState};

use super::{
    Look, Text,
    table::{Table, Tone, cell},
    time,
};

/// The table of tasks; an older attempt at the slot above it is set off with `\_`, as Docker does.
pub(crate) fn list(tasks: &[TaskView], look: Look) -> Text {
    let mut table = Table::new(["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "MESSAGE"]);
    let mut above: Option<&TaskView> = None;
    for task in tasks {
        let older = above.is_some_and(|above| above.service == task.service && above.slot == task.slot);
        above = Some(task);
        let branch = if older { " \\_ " } else { "" };
        table.row([
            cell(task.id, Tone::Plain),
            cell(format!("{branch}{}_{}.{}", task.stack, task.service_name, task.slot), Tone::Plain),
            cell(look.image(&task.image), Tone::Plain),
            cell(node(task), Tone::Plain),
            cell(if task.desired { "Running" } else { "Shutdown" }, Tone::Plain),
            cell(format!("{} {}", state(task), time::ago(look.now, task.since)), tone(task)),
            cell(message(task), Tone::Plain),
        ]);
    }
    table.render(look)
}

fn node(task: &TaskView) -> String {
    match (&task.hostname, task.node) {
        (Some(hostname), _) => hostname.clone(),
        (None, Some(node)) => node.to_string(),
        (None, None) => String::new(),
    }
}

/// The reason, with the exit status where that alone is known.
fn message(task: &TaskView) -> String {
    match (&task.message, task.exit_code) {
        (Some(message), _) => message.clone(),
        (None, Some(code)) if code != 0 => format!("exit status {code}"),
        (None, _) => String::new(),
    }
}

/// The state; the last one that was heard of, where nothing is heard of the node.
fn state(task: &TaskView) -> String {
    if task.lost { format!("Lost (was {})", task.state) } else { capital(task.state) }
}

fn capital(state: TaskState) -> String {
    let word = state.to_string();
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn tone(task: &TaskView) -> Tone {
    if task.lost {
        return Tone::Bad;
    }
    match task.state {
        TaskState::Failed | TaskState::Rejected | TaskState::Orphaned => Tone::Bad,
        TaskState::Running | TaskState::Complete | TaskState::Shutdown => Tone::Plain,
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting => {
            if task.desired {
                Tone::Waiting
            } else {
                Tone::Plain
            }
        }
    }
}
