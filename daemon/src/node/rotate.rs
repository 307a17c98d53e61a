//! Keeps the keys of the encrypted links young: a new one by age or on request, the old one forgotten in its time.

use std::path::Path;

use raftup_proto::{
    id::NodeId,
    view::{Item, Key, View},
};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::{agent::Agent, fabric::wire::Keys, net::ca};

/// Follows time and the view for ever. Errors are logged, and what is due is tried again with the next reason to look.
pub(super) async fn run(dir: &Path, node: NodeId, agent: Agent, keys: watch::Sender<Keys>) {
    let mut view = agent.view();
    loop {
        let turn = asked(&view.borrow_and_update(), node);
        let now = ca::now();
        let mut next = keys.borrow().clone();
        loop {
            match next.follow(dir, now, turn) {
                Ok(true) => info!(keys = ?next.announced(now), "keys of the encrypted links change"),
                Ok(false) => break,
                Err(error) => {
                    warn!(error = format!("{error:#}"), "keys of the encrypted links cannot be changed");
                    break;
                }
            }
        }
        let wait = next.next_in(now);
        agent.announce_keys(next.announced(now));
        // Also the same keys mean something else as time goes by.
        keys.send_replace(next);
        // Both only wait. A view that names this node no more ends this loop from outside.
        tokio::select! {
            changed = view.wait_for(|view| asked(view, node) > turn) => if changed.is_err() { return },
            () = sleep(wait) => {}
        }
    }
}

fn asked(view: &View, node: NodeId) -> u64 {
    match view.get(Key::Peer(node)) {
        Some(Item::Peer(me)) => me.fabric_turn,
        Some(Item::Cluster(_) | Item::Network(_) | Item::Route(_) | Item::Task(_) | Item::Endpoint(..))
        | None => 0,
    }
}
