//! Kernel settings, limits, devices, routes, resolvers and rights.

use super::{Act::Sh, FAULT, Fault, Mend, check, is_prompt, served};

const FAULTS: &[Fault] = &[
    Fault {
        name: "nothing is forwarded",
        plant: &[Sh("h2", "sysctl -qw net.ipv4.ip_forward=0")],
        found: &[("h2 forwarding", "net.ipv4.ip_forward is 0")],
        ..FAULT
    },
    Fault {
        name: "nothing is forwarded on the fabric's device",
        plant: &[Sh("h2", "sysctl -qw net.ipv4.conf.ru-fabric.forwarding=0")],
        found: &[("h2 forwarding", "net.ipv4.conf.ru-fabric.forwarding is 0")],
        ..FAULT
    },
    Fault {
        name: "strict reverse path filtering",
        plant: &[Sh("h2", "sysctl -qw net.ipv4.conf.all.rp_filter=1")],
        found: &[("h2 reverse path", "net.ipv4.conf.all.rp_filter is 1")],
        clear: &[Sh("h2", "sysctl -qw net.ipv4.conf.all.rp_filter=0")],
        ..FAULT
    },
    Fault {
        name: "the table of connections is full (its limit is a file of the test: the kernel's is the whole machine's)",
        plant: &[Sh(
            "h2",
            "cat /proc/sys/net/netfilter/nf_conntrack_count > /tmp/max && mount --bind /tmp/max /proc/sys/net/netfilter/nf_conntrack_max",
        )],
        found: &[("h2 connection table", "new connections are dropped")],
        clear: &[Sh("h2", "umount /proc/sys/net/netfilter/nf_conntrack_max")],
        ..FAULT
    },
    Fault {
        name: "too few open files",
        plant: &[Sh("h2", "prlimit --pid $(cat /run/lab-daemon.pid) --nofile=256:")],
        found: &[("h2 open files", "of at most 256")],
        ..FAULT
    },
    Fault {
        name: "one host without IPv6",
        plant: &[Sh("h2", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1")],
        found: &[("h2 ipv6", "IPv6 is off, and other nodes have it")],
        ..FAULT
    },
    Fault {
        name: "packets of a bridge pass by the rules",
        plant: &[Sh(
            "h1",
            "echo 0 > /sys/class/net/$(ls /sys/class/net | grep '^ru-' | grep -v -e fabric -e wire -e plain | head -1)/bridge/nf_call_iptables",
        )],
        mend: Mend::Itself,
        ..FAULT
    },
    Fault {
        name: "a bridge is down",
        plant: &[Sh(
            "h1",
            "ip link set $(ls /sys/class/net | grep '^ru-' | grep -v -e fabric -e wire -e plain | head -1) down",
        )],
        found: &[("h1 bridges", "of network `shop_default` is down")],
        ..FAULT
    },
    Fault {
        name: "the fabric's device is down",
        plant: &[Sh("h2", "ip link set ru-fabric down")],
        mend: Mend::Itself,
        ..FAULT
    },
    Fault {
        name: "a device is left over from another cluster",
        plant: &[Sh("h2", "ip link add ru-old type bridge")],
        found: &[("h2 leftovers", "device `ru-old` belongs to no network")],
        ..FAULT
    },
    Fault {
        name: "a route of the host leads into the cluster's addresses",
        plant: &[Sh("h2", "ip route add 10.70.0.0/16 dev eth0")],
        found: &[("h2 addresses", "10.70.0.0/16, which this host reaches through `eth0`")],
        ..FAULT
    },
    Fault {
        name: "a network of the engine has addresses of the cluster's",
        plant: &[Sh("h2", "docker network create --subnet 10.77.0.0/24 other")],
        found: &[("h2 addresses", "10.77.0.0/24, which this host reaches through `br-")],
        ..FAULT
    },
    Fault {
        name: "search list and ndots",
        plant: &[Sh(
            "h2",
            "cp /etc/resolv.conf /tmp/resolv; printf 'search corp.lan\\noptions ndots:5\\n' >> /etc/resolv.conf",
        )],
        found: &[("h2 names", "`search corp.lan` and `ndots:5`")],
        clear: &[Sh("h2", "cp /tmp/resolv /etc/resolv.conf")],
        ..FAULT
    },
    Fault {
        name: "a resolver that is dead, beside one that answers",
        plant: &[Sh("h2", "echo nameserver 127.0.0.99 >> /etc/resolv.conf")],
        found: &[("h2 resolvers", "resolver 127.0.0.99 of /etc/resolv.conf does not answer")],
        ..FAULT
    },
    Fault {
        name: "a resolver that is dead, and no other",
        plant: &[Sh("h2", "cp /etc/resolv.conf /tmp/resolv; echo nameserver 127.0.0.99 > /etc/resolv.conf")],
        found: &[("h2 resolvers", "resolver 127.0.0.99 of /etc/resolv.conf does not answer")],
        mend: Mend::ByHand(
            "which resolver there is, nobody on the host knows",
            &[Sh("h2", "cp /tmp/resolv /etc/resolv.conf")],
        ),
        ..FAULT
    },
    Fault {
        name: "everybody may write to the data directory",
        plant: &[Sh("h2", "chmod 777 /var/lib/raftup")],
        found: &[("h2 rights", "can be written to by others (mode 777)")],
        ..FAULT
    },
    Fault {
        name: "everybody may read keys",
        plant: &[Sh("h2", "chmod 644 /var/lib/raftup/fabric-keys.json")],
        found: &[("h2 rights", "`/var/lib/raftup/fabric-keys.json` can be read by others")],
        ..FAULT
    },
    Fault {
        name: "the data directory is another user's",
        plant: &[Sh("h2", "chown 65534 /var/lib/raftup")],
        found: &[("h2 rights", "belongs to user 65534")],
        ..FAULT
    },
];

#[test]
fn settings_of_hosts() {
    let lab = served("itplantset");
    check(&lab, FAULTS);
    is_prompt(&lab);
}
