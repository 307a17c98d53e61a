//! Networks.

use raftup_proto::api::NetworkView;

use super::{
    Look, Text,
    fields::Fields,
    table::{Table, Tone, cell},
    time,
};

/// The table of networks.
pub(crate) fn list(networks: &[NetworkView], look: Look) -> Text {
    let mut table = Table::new(["NAME", "ID", "STACK", "SUBNET", "SERVICES", "OPTIONS"]);
    for network in networks {
        table.row([
            cell(&network.name, Tone::Plain),
            cell(network.id, Tone::Plain),
            cell(stack(network), Tone::Plain),
            cell(network.subnet, Tone::Plain),
            cell(network.services.len(), Tone::Plain),
            cell(options(network).join(", "), if network.removing { Tone::Waiting } else { Tone::Plain }),
        ]);
    }
    table.render(look)
}

fn stack(network: &NetworkView) -> &str {
    network.stack.as_ref().map_or("-", |stack| stack.as_str())
}

fn options(network: &NetworkView) -> Vec<&'static str> {
    let all = [
        (network.removing, "removing"),
        (network.encrypted, "encrypted"),
        (network.internal, "internal"),
        (network.attachable, "attachable"),
    ];
    all.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect()
}

/// All there is to know about a network.
pub(crate) fn inspect(network: &NetworkView, look: Look) -> Text {
    Fields::default()
        .put("ID", network.id)
        .put("Name", &network.name)
        .put("Stack", stack(network))
        .put("Subnet", network.subnet)
        .list("Options", options(network))
        .list("Labels", network.labels.iter().map(|(key, value)| format!("{key}={value}")))
        .list("Services", &network.services)
        .put("Created", time::exact(look.now, network.created))
        .render()
}
