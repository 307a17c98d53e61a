//! The lab's network: one bridge in a namespace of its own, a port for each host, an uplink to the machine.
//!
//! The bridge is not on the machine itself, where a firewall made for containers would drop what passes it.

use std::{net::Ipv4Addr, time::Duration};

use super::{
    enter::{run, run_with_input},
    place::Place,
    record::Process,
    wait::wait_for,
};

/// The name of the bridge's namespace among the hosts.
pub(crate) const SWITCH: &str = "switch";
const UNPLUG: Duration = Duration::from_secs(5);
/// The addresses on the far side of a router.
const INSIDE_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(crate) const INSIDE_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// What a router does.
const NAT: &str = "table ip nat {
    chain leaving { type nat hook postrouting priority srcnat; oifname \"eth0\" masquerade; }
    chain passing { type filter hook forward priority filter; iifname \"eth0\" ct state new drop; }
}
";

/// The addresses of a lab, `10.99.SUBNET.0/24`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subnet(pub(crate) u8);

impl Subnet {
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, 1)
    }

    /// The machine's own address in the lab.
    pub(crate) fn machine(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, 2)
    }

    pub(crate) fn client(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, 5)
    }

    /// The address of host `h<number>`, counted from 1.
    pub(crate) fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.0, 10 + number)
    }
}

fn ip_batch(init: Process, script: &str) -> anyhow::Result<()> {
    run_with_input(&["nsenter", "--target", &init.pid.to_string(), "--net", "ip", "-batch", "-"], script)
        .map(drop)
}

/// Makes the bridge in the switch's namespace and connects the machine to it. A switch looks at frames alone: the kernel's
/// filters for packets are off in it.
pub(crate) fn make_switch(place: &Place, subnet: Subnet, switch: Process) -> anyhow::Result<()> {
    ip_batch(
        switch,
        &format!(
            "link add name br type bridge forward_delay 0 stp_state 0\n\
             addr add {}/24 dev br\nlink set dev br up\n",
            subnet.gateway()
        ),
    )?;
    // None where the kernel has no such filters, or not yet.
    let unfiltered =
        "for key in /proc/sys/net/bridge/bridge-nf-call-*; do ! [ -e $key ] || echo 0 > $key; done";
    run(&["nsenter", "--target", &switch.pid.to_string(), "--net", "sh", "-c", unfiltered])?;
    let uplink = place.uplink();
    run(&[
        "ip",
        "link",
        "add",
        &uplink,
        "type",
        "veth",
        "peer",
        "name",
        "uplink",
        "netns",
        &switch.pid.to_string(),
    ])?;
    run(&["ip", "addr", "add", &format!("{}/24", subnet.machine()), "dev", &uplink])?;
    run(&["ip", "link", "set", &uplink, "up"])?;
    ip_batch(switch, "link set dev uplink master br\nlink set dev uplink up\n")
}

/// Gives a host its `eth0`: the other end is the switch's port with the host's name.
pub(crate) fn plug_in(
    subnet: Subnet,
    switch: Process,
    name: &str,
    addr: Ipv4Addr,
    host: Process,
) -> anyhow::Result<()> {
    let [_, _, third, last] = addr.octets();
    let mac = format!("02:72:75:{third:02x}:00:{last:02x}");
    ip_batch(
        switch,
        &format!(
            "link add name {name} type veth peer name eth0 address {mac} netns {}\n\
             link set dev {name} master br\nlink set dev {name} up\n",
            host.pid
        ),
    )?;
    ip_batch(
        host,
        &format!(
            "addr add {addr}/24 dev eth0\nlink set dev eth0 up\nroute add default via {}\n",
            subnet.gateway()
        ),
    )
}

/// Gives a host another address in the place of the one that it has.
pub(crate) fn readdress(subnet: Subnet, host: Process, addr: Ipv4Addr) -> anyhow::Result<()> {
    let gateway = subnet.gateway();
    ip_batch(
        host,
        &format!(
            "addr flush dev eth0 scope global\naddr add {addr}/24 dev eth0\nroute add default via {gateway}\n"
        ),
    )
}

/// Puts a router between the switch and a host that has no cable now. It has a cable of its own already, lets the host out
/// in its own name, and nobody in.
pub(crate) fn plug_in_behind(router: Process, host: Process) -> anyhow::Result<()> {
    ip_batch(
        router,
        &format!(
            "link add name inside type veth peer name eth0 netns {}\n\
             addr add {INSIDE_ROUTER}/24 dev inside\nlink set dev inside up\n",
            host.pid
        ),
    )?;
    ip_batch(
        host,
        &format!(
            "addr add {INSIDE_HOST}/24 dev eth0\nlink set dev eth0 up\nroute add default via {INSIDE_ROUTER}\n"
        ),
    )?;
    let inside = ["nsenter", "--target", &router.pid.to_string(), "--net", "--"];
    run_with_input(&[&inside[..], &["nft", "-f", "-"]].concat(), NAT)?;
    run(&[&inside[..], &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"]].concat()).map(drop)
}

/// Cuts a host's cable, or mends it.
pub(crate) fn set_port(switch: Process, name: &str, up: bool) -> anyhow::Result<()> {
    ip_batch(switch, &format!("link set dev {name} {}\n", if up { "up" } else { "down" }))
}

/// Removes the port of a host that is off; it may still be there while the kernel takes the namespace down.
pub(crate) fn unplug(switch: Process, name: &str) -> anyhow::Result<()> {
    let pid = switch.pid.to_string();
    let there = || run(&["nsenter", "--target", &pid, "--net", "ip", "link", "show", "dev", name]).is_ok();
    wait_for(UNPLUG, "end of the port", || {
        if there() {
            // It may vanish between the two commands.
            let _ = ip_batch(switch, &format!("link del dev {name}\n"));
        }
        Ok((!there()).then_some(()))
    })
}

/// Removes the machine's end of the uplink, where it is still there.
pub(crate) fn remove_uplink(place: &Place) -> bool {
    let dir = std::path::Path::new("/sys/class/net").join(place.uplink());
    if dir.exists() {
        // The kernel may be at it already, the switch's namespace being gone.
        let _ = run(&["ip", "link", "del", &place.uplink()]);
    }
    !dir.exists()
}
