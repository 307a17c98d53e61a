//! Secrets and configs.

use raftup_proto::api::BlobView;

use super::{
    Look, Text,
    fields::Fields,
    table::{Table, Tone, cell},
    time,
};

/// The table of secrets, or of configs.
pub(crate) fn list(blobs: &[BlobView], look: Look) -> Text {
    let mut table = Table::new(["ID", "NAME", "STACK", "CREATED", "UPDATED"]);
    for blob in blobs {
        let stack = blob.stack.as_ref().map(ToString::to_string);
        table.row([
            cell(blob.id, Tone::Plain),
            cell(&blob.name, Tone::Plain),
            cell(stack.unwrap_or_default(), Tone::Plain),
            cell(time::ago(look.now, blob.created), Tone::Plain),
            cell(time::ago(look.now, blob.updated), Tone::Plain),
        ]);
    }
    table.render(look)
}

/// All there is to know about one. The content of a config comes last.
pub(crate) fn inspect(blob: &BlobView, look: Look) -> Text {
    let data = blob.data.as_ref().map(|data| String::from_utf8_lossy(data.expose()).into_owned());
    Fields::default()
        .put("ID", blob.id)
        .put("Name", &blob.name)
        .some("Stack", blob.stack.as_ref())
        .list("Labels", blob.labels.iter().map(|(key, value)| format!("{key}={value}")))
        .list("Used by", &blob.used_by)
        .put("Created", time::exact(look.now, blob.created))
        .put("Updated", time::exact(look.now, blob.updated))
        .list("Data", data.iter().flat_map(|data| data.lines()))
        .render()
}
