//! `post_start` and `pre_stop`.

use std::collections::BTreeMap;

use super::{environment, item::Item, keys, mounts, service};
use crate::spec::Hook;

/// Reads the hooks of one kind.
pub(super) fn read(item: &Item<'_>) -> Vec<Hook> {
    item.items().iter().filter_map(hook).collect()
}

fn hook(item: &Item<'_>) -> Option<Hook> {
    let fields = item.fields()?;
    let given = fields.given("command");
    let command = given.as_ref().and_then(service::command).unwrap_or_default();
    if given.is_none() {
        item.error_help("has no `command`", "write `command: [\"sh\", \"-c\", \"...\"]`");
    } else if let Some(given) = given.filter(|given| command.is_empty() && given.is_list()) {
        given.error("is an empty command");
    }
    let mut env = BTreeMap::new();
    if let Some(item) = fields.get("environment") {
        environment::variables(&item, &mut env);
    }
    let hook = Hook {
        command,
        user: fields.given("user").and_then(|item| item.filled().map(str::to_owned)),
        privileged: fields.given("privileged").and_then(|item| item.flag()).unwrap_or_default(),
        working_dir: fields
            .given("working_dir")
            .and_then(|item| item.parse(|text| mounts::absolute(text, "the directory"))),
        env,
    };
    fields.end(&keys::HOOK);
    (!hook.command.is_empty()).then_some(hook)
}
