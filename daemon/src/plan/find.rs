//! From what a person types to the object: an id, a unique beginning of one, or a name.
//!
//! Names win over beginnings of ids; what is being removed is found only if nothing else is.

use std::sync::Arc;

use raftup_proto::{
    refusal::{Code, Refusal},
    spec::BlobKind,
};

use crate::model::{Blob, Cluster, Network, Node, Service, Stack};

use super::ports::listed;

/// The node of that id or host name. Errors: none, or several.
pub fn node<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Arc<Node>, Refusal> {
    let all = || cluster.nodes.values();
    // Node ids are numbers: a beginning of `n12` is another node's id, so only whole ones count.
    let by_id = all().filter(|node| node.id.to_string() == text);
    let by_name = all().filter(|node| node.info.hostname == text);
    one(
        "node",
        text,
        |node| format!("`{}` ({})", node.id, node.info.hostname),
        [by_id.collect(), by_name.collect()],
    )
}

/// The stack of that name or id. Errors: none, or several.
pub fn stack<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Arc<Stack>, Refusal> {
    let all = || cluster.stacks.values();
    let by_name = all().filter(|stack| stack.name.as_str() == text);
    let by_id = all().filter(|stack| begins(&stack.id, text));
    one(
        "stack",
        text,
        |stack| format!("`{}` ({})", stack.id, stack.name),
        [by_name.collect(), by_id.collect()],
    )
}

/// The network of that full name or id. Errors: none, or several.
pub fn network<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Arc<Network>, Refusal> {
    let all = |removing| cluster.networks.values().filter(move |network| network.removing == removing);
    let by_name = all(false).filter(|network| network.full_name() == text);
    let by_id = all(false).filter(|network| begins(&network.id, text));
    let old = all(true).filter(|network| network.full_name() == text || begins(&network.id, text));
    let both = |network: &Network| format!("`{}` ({})", network.id, network.full_name());
    one("network", text, both, [by_name.collect(), by_id.collect(), old.take(1).collect()])
}

/// The service of that full name (`shop_web`), name if no other stack has it, or id. Errors: none, or several.
pub fn service<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Arc<Service>, Refusal> {
    let all = || cluster.services.values().filter(|service| !service.removing);
    let full = all().filter(|service| service.full_name() == text);
    let short = all().filter(|service| service.name.as_str() == text);
    let by_id = all().filter(|service| begins(&service.id, text));
    let going = || cluster.services.values().filter(|service| service.removing);
    let old = going().filter(|service| service.full_name() == text || begins(&service.id, text));
    let both = |service: &Service| format!("`{}` ({})", service.id, service.full_name());
    one("service", text, both, [full.collect(), short.collect(), by_id.collect(), old.take(1).collect()])
}

/// The secret or config of that name or id. Errors: none, or several.
pub fn blob<'a>(cluster: &'a Cluster, kind: BlobKind, text: &str) -> Result<&'a Arc<Blob>, Refusal> {
    let all = || cluster.blobs.values().filter(|blob| blob.kind == kind && !blob.replaced);
    let by_name = all().filter(|blob| blob.name == text);
    let by_id = all().filter(|blob| begins(&blob.id, text));
    let both = |blob: &Blob| format!("`{}` ({})", blob.id, blob.name);
    one(&kind.to_string(), text, both, [by_name.collect(), by_id.collect()])
}

fn begins(id: &impl ToString, text: &str) -> bool {
    !text.is_empty() && id.to_string().starts_with(text)
}

fn one<'a, T, const N: usize>(
    noun: &str,
    text: &str,
    name: impl Fn(&T) -> String,
    ways: [Vec<&'a Arc<T>>; N],
) -> Result<&'a Arc<T>, Refusal> {
    for found in ways {
        match found[..] {
            [] => {}
            [only] => return Ok(only),
            [..] => {
                let message = format!("{} {noun}s are meant by `{text}`", found.len());
                let names: Vec<String> = found.iter().map(|one| name(one)).collect();
                return Err(
                    Refusal::new(Code::Invalid, message).hint(format!("give one of {}", listed(&names)))
                );
            }
        }
    }
    Err(Refusal::new(Code::NotFound, format!("no {noun} `{text}`"))
        .hint(format!("`raftup {noun} ls` lists them")))
}
