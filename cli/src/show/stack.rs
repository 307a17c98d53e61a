//! Stacks, and what a change did to their objects.

use raftup_proto::api::{Action, ChangeView, StackView};

use super::{
    Look, Text,
    table::{Table, Tone, cell},
    text::line,
    time,
};

/// The table of stacks.
pub(crate) fn list(stacks: &[StackView], look: Look) -> Text {
    let mut table = Table::new(["NAME", "ID", "SERVICES", "TASKS", "UPDATED", "STATUS"]);
    for stack in stacks {
        let (status, tone) = match (stack.removing, stack.running >= stack.desired) {
            (true, _) => ("Removing", Tone::Waiting),
            (false, true) => ("Running", Tone::Plain),
            (false, false) => ("Waiting", Tone::Waiting),
        };
        table.row([
            cell(&stack.name, Tone::Plain),
            cell(stack.id, Tone::Plain),
            cell(stack.services, Tone::Plain),
            cell(format!("{}/{}", stack.running, stack.desired), tone),
            cell(time::ago(look.now, stack.updated), Tone::Plain),
            cell(status, tone),
        ]);
    }
    table.render(look)
}

/// What was done to each object, one line an object.
pub(crate) fn changes(changes: &[ChangeView]) -> Text {
    let each = |change: &ChangeView| {
        format!("{} {} {}\n", verb(change.action), line(&change.kind), line(&change.name))
    };
    Text::of_parts(changes.iter().map(each).collect())
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Created => "Creating",
        Action::Updated => "Updating",
        Action::Removed => "Removing",
        Action::Unchanged => "Unchanged",
    }
}
