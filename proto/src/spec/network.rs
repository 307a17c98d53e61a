//! The networks of a stack, and a service on one of them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::name::NetworkName;

/// A service on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Key of the network in the stack.
    pub network: NetworkName,
    /// Further names of the service on it.
    pub aliases: Vec<String>,
    /// The network's full name in the cluster, where it belongs to another stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
}

/// What a container's end of a network is told besides its address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mac_address: Option<String>,
    /// Options of the driver.
    #[serde(default, skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, String>,
    /// Further addresses, of 169.254.0.0/16.
    #[serde(default, skip_serializing_if = "is_default")]
    pub link_local_ips: Vec<Ipv4Addr>,
}

/// A network of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether what goes between hosts is encrypted; as the cluster's fabric is, where not given. One that is plain
    /// cannot give more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Its containers reach each other and nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// Containers that are not the cluster's may be on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attachable: bool,
    /// Its full name, where that is not the stack's name and its key: what other stacks name it by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub name: Option<String>,
    /// It belongs to another stack, and has to be there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external: bool,
    /// Options of the driver that mean nothing to the cluster.
    #[serde(default, skip_serializing_if = "is_default")]
    pub driver_opts: BTreeMap<String, String>,
    /// Addresses that were asked for. The cluster gives each network addresses of its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipam: Vec<Subnet>,
}

/// Addresses that a file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Such as `172.20.0.0/16`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subnet: Option<String>,
    /// The part that containers have addresses of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ip_range: Option<String>,
    /// The gateway's address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: Option<String>,
}

impl NetworkSpec {
    /// What goes between hosts need not be encrypted.
    pub fn is_plain(&self) -> bool {
        self.encrypted == Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `encrypted` was a switch, and written only where it was on.
    #[test]
    fn networks_of_the_first_version_are_read() {
        let read = |text: &str| serde_json::from_str::<NetworkSpec>(text).unwrap();
        let on = read(r#"{"labels":{},"encrypted":true}"#);
        assert_eq!((on.encrypted, on.is_plain()), (Some(true), false));
        assert_eq!(read(r#"{"labels":{}}"#), NetworkSpec::default());
    }
}
