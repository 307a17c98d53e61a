//! What is on the wire between hosts, and what gets into the fabric: with captures on every host's link.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use raftup_tests::lab::{Host, Lab, Options, What, wait_for};

use crate::cluster::{Asking, SOON, deploy, join, lab, load, lossless, well};

/// Where load goes.
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

/// Goes along with every request; nobody may read it on the way.
const CANARY: &str = "canary-5f3a9c1d77";

/// Ports between hosts.
const CONTROL: u16 = 7238;
const FABRIC: u16 = 7239;
/// VXLAN inside of encrypted links.
const INSIDE: u16 = 7240;

/// One server on every host, and one that asks.
const STACK: &str = "services:
  web:
    image: raftup/helper:1
    ports: ['8080:8080']
    healthcheck: {disable: true}
    deploy: {mode: global}
  asker:
    image: raftup/helper:1
    healthcheck: {disable: true}
    deploy: {mode: global}
";

/// A cluster with the stack on it.
fn cluster(id: &str, hosts: u8, init: &[&str]) -> Lab {
    let lab = lab(&Options::new(id, hosts).unwrap());
    let first = lab.host("h1");
    well(first.raftup(&[&["init"], init].concat()).unwrap());
    lab.hosts().skip(1).for_each(|host| join(first, host));
    well(deploy(&lab, first, "shop", STACK));
    lab
}

/// A capture of one device of a host, for as long as it is not ended.
pub(crate) struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Returns once frames are seen.
    pub(crate) fn start(lab: &Lab, host: &Host, device: &str) -> Self {
        let file = lab.share().join(format!("{}-{device}.pcap", host.name()));
        let path = file.display().to_string();
        // That of an earlier capture would be taken for this one's.
        let _ = std::fs::remove_file(&file);
        let argv = ["tcpdump", "-Z", "root", "-i", device, "-s", "0", "-U", "-B", "65536", "-w", &path];
        let child = host.command(&argv).unwrap().stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The file's header is written when the device is open.
        let begun = || Ok(std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24).then_some(()));
        wait_for(SOON, "capture", begun).unwrap();
        Self { child, file }
    }

    /// The frames so far.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(&self.file).unwrap();
        let (mut rest, mut frames) = (bytes.get(24..).unwrap_or_default(), Vec::new());
        while let Some((record, after)) = rest.split_at_checked(16) {
            let length = u32::from_ne_bytes(record[8..12].try_into().unwrap()) as usize;
            let Some((frame, after)) = after.split_at_checked(length) else { break };
            frames.push(frame.to_vec());
            rest = after;
        }
        frames
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn holds(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Source, destination, and the ports where it is UDP.
type Addresses = (Ipv4Addr, Ipv4Addr, Option<(u16, u16)>);

/// Those of an IPv4 frame.
fn addresses(frame: &[u8]) -> Option<Addresses> {
    let packet = frame.strip_prefix(&frame[..12])?.strip_prefix(&[8, 0])?;
    let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok().map(Ipv4Addr::from);
    let header = usize::from(packet.first()? & 15) * 4;
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let ports = match packet.get(9) {
        Some(17) => Some((port(header)?, port(header + 2)?)),
        _ => None,
    };
    Some((address(12)?, address(16)?, ports))
}

/// Requests with the canary from each host: to all other hosts' containers by name, through the mesh, and by UDP.
fn talk(lab: &Lab) {
    for host in lab.hosts() {
        let asker = "docker exec $(docker ps -q -f name=shop_asker) /helper";
        let own = host.addr();
        for _ in 0..6 {
            host.sh(&format!("{asker} get http://web:8080/?{CANARY}")).unwrap();
            host.sh(&format!("{asker} get http://{own}:8080/?{CANARY}")).unwrap();
            host.sh(&format!("curl -sf http://127.0.0.1:8080/?{CANARY}")).unwrap();
            host.sh(&format!("{asker} udp web:8080 {CANARY}")).unwrap();
        }
    }
}

/// Frames between hosts that hold the canary, and those that are on no port of ours.
pub(crate) fn told(lab: &Lab, captures: &[Capture], canary: &str) -> (usize, Vec<String>) {
    let hosts: Vec<Ipv4Addr> = lab.hosts().map(Host::addr).collect();
    let (mut readable, mut elsewhere, mut seen) = (0, Vec::new(), 0);
    for frame in captures.iter().flat_map(Capture::frames) {
        let Some((from, to, ports)) = addresses(&frame) else {
            readable += usize::from(holds(&frame, canary));
            continue;
        };
        if !hosts.contains(&from) && !hosts.contains(&to) {
            continue;
        }
        readable += usize::from(holds(&frame, canary));
        if hosts.contains(&from) && hosts.contains(&to) {
            seen += 1;
            let ours = |port| port == CONTROL || port == FABRIC;
            if !ports.is_some_and(|(from, to)| ours(from) || ours(to)) {
                elsewhere.push(format!("{from} -> {to} {ports:?}"));
            }
        }
    }
    assert!(seen > 100, "too little was captured to tell: {seen} frames");
    (readable, elsewhere)
}

pub(crate) fn link_captures(lab: &Lab) -> Vec<Capture> {
    lab.hosts().map(|host| Capture::start(lab, host, "eth0")).collect()
}

#[test]
fn nothing_is_readable_between_hosts() {
    let lab = cluster("itwire", 3, &[]);
    let captures = link_captures(&lab);
    talk(&lab);
    let (readable, elsewhere) = told(&lab, &captures, CANARY);
    assert_eq!((readable, elsewhere), (0, Vec::new()));
}

/// That the capture above would have seen it.
#[test]
fn a_plain_fabric_is_readable_and_works() {
    let lab = cluster("itplain", 2, &["--fabric", "plain"]);
    let captures = link_captures(&lab);
    talk(&lab);
    let (readable, elsewhere) = told(&lab, &captures, CANARY);
    assert!(readable > 0);
    assert_eq!(elsewhere, Vec::<String>::new());
    let h1 = lab.host("h1");
    assert!(h1.sh("ip link show ru-wire").is_err(), "no tunnel where none is wanted");
    let wanted = format!("{STACK}networks: {{default: {{driver_opts: {{encrypted: 'true'}}}}}}\n");
    let refused = deploy(&lab, h1, "shop", &wanted);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("fabric is plain"), "{said}");
    // Where nothing is encrypted, a network that is not to be is like any other, and one that is there can say so.
    well(deploy(&lab, h1, "shop", &wanted.replace("'true'", "'false'")));
    assert!(h1.sh("ip link show ru-plain").is_err(), "no second lane where all are plain");
    // A program of a host is not taken for the fabric.
    let inside = Capture::start(&lab, lab.host("h2"), "ru-fabric");
    let frame = forged_for_web(&lab);
    send(&lab, h1, Some("nobody"), lab.host("h2").addr(), FABRIC, &frame);
    send(&lab, lab.client(), None, lab.host("h2").addr(), FABRIC, &frame);
    arrives_alone(&lab, &inside);
    h1.sh("nft flush chain ip raftup early_own").unwrap();
    send(&lab, h1, Some("nobody"), lab.host("h2").addr(), FABRIC, &frame);
    seen(&inside, CANARY);
}

#[test]
fn what_is_no_member_is_not_delivered() {
    let lab = cluster("itforged", 2, &[]);
    let (h1, h2, client) = (lab.host("h1"), lab.host("h2"), lab.client());
    let inside = Capture::start(&lab, h2, "ru-fabric");
    let frame = forged_for_web(&lab);
    let end = wire_address(h2);
    for port in [FABRIC, INSIDE] {
        // From outside, to its address on the link, and to that inside of the links.
        send(&lab, client, None, h2.addr(), port, &frame);
        client.sh(&format!("ip route replace {end} via {}", h2.addr())).unwrap();
        send(&lab, client, None, end, port, &frame);
        // By programs without rights, of another host and of its own.
        send(&lab, h1, Some("nobody"), h2.addr(), port, &frame);
        send(&lab, h1, Some("nobody"), end, port, &frame);
        send(&lab, h2, Some("nobody"), end, port, &frame);
        send(&lab, h2, Some("nobody"), Ipv4Addr::LOCALHOST, port, &frame);
    }
    arrives_alone(&lab, &inside);
    // The frame is right: what kept it out were the rules, on either side.
    h1.sh("nft flush chain ip raftup early_own").unwrap();
    send(&lab, h1, Some("nobody"), end, INSIDE, &frame);
    seen(&inside, CANARY);
}

/// A real request comes after the forged frames: once it was seen, they would have been.
fn arrives_alone(lab: &Lab, inside: &Capture) {
    let mark = "after-all-of-it";
    let asker = "docker exec $(docker ps -q -f name=shop_asker) /helper";
    let to = address_of_web(lab.host("h2"));
    lab.host("h1").sh(&format!("{asker} get http://{to}:8080/?{mark}")).unwrap();
    seen(inside, mark);
    assert!(!inside.frames().iter().any(|frame| holds(frame, CANARY)), "a forged frame was delivered");
}

pub(crate) fn seen(inside: &Capture, text: &str) {
    let there = || Ok(inside.frames().iter().any(|frame| holds(frame, text)).then_some(()));
    wait_for(SOON, "the frame", there).unwrap();
}

pub(crate) fn wire_address(host: &Host) -> Ipv4Addr {
    let text = host.sh("ip -4 -o addr show ru-wire | awk '{print $4}' | cut -d/ -f1").unwrap();
    text.trim().parse().unwrap()
}

fn address_of_web(host: &Host) -> Ipv4Addr {
    address_of(host, "web")
}

/// That of the container of a service that is on one network.
pub(crate) fn address_of(host: &Host, service: &str) -> Ipv4Addr {
    let ask = "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' $(docker ps -q -f name=shop_";
    host.sh(&format!("{ask}{service})")).unwrap().trim().parse().unwrap()
}

/// VXLAN network id of the fabric.
pub(crate) const VNI: u32 = 7238;

fn forged_for_web(lab: &Lab) -> Vec<u8> {
    forged(lab, ("ru-fabric", VNI), "web", CANARY)
}

/// What VXLAN of h1's device would send to h2 from a container of a service to the one there: a datagram.
pub(crate) fn forged(lab: &Lab, (device, vni): (&str, u32), service: &str, payload: &str) -> Vec<u8> {
    let mac = |host: &Host| -> Vec<u8> {
        let text = host.sh(&format!("cat /sys/class/net/{device}/address")).unwrap();
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    };
    let (from, to) = (address_of(lab.host("h1"), service), address_of(lab.host("h2"), service));
    let payload = payload.as_bytes();
    let length = |more: usize| ((more + payload.len()) as u16).to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(28));
    packet.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x30, 0x39, 0x1f, 0x90]);
    packet.extend(length(8));
    packet.extend([0, 0]);
    packet.extend(payload);
    let vxlan = [0x0800_0000_u32.to_be_bytes(), (vni << 8).to_be_bytes()].concat();
    [&vxlan[..], &mac(lab.host("h2")), &mac(lab.host("h1")), &[8, 0], &packet].concat()
}

/// One datagram. As `user`, it is sent by a program without any rights.
pub(crate) fn send(lab: &Lab, from: &Host, user: Option<&str>, to: Ipv4Addr, port: u16, datagram: &[u8]) {
    let file = lab.share().join("datagram");
    std::fs::write(&file, datagram).unwrap();
    // One write, and so one datagram: what the shell itself writes, it cuts at line ends.
    let script = format!("cat {} > /dev/udp/{to}/{port}", file.display());
    let mut argv = vec!["bash", "-c", &script];
    if let Some(user) = user {
        argv.splice(0..0, ["setpriv", "--reuid", user, "--clear-groups", "--bounding-set=-all", "--"]);
    }
    let output = from.exec(&argv).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // The host's own rules may say no already; anything else is a mistake of this test.
    assert!(output.status.success() || said.contains("not permitted"), "{said}");
}

/// Processes of a host that outlive its daemon: the tunnel and the resolver.
const PARTS: [&str; 2] = ["fabric", "names"];

fn process(host: &Host, part: &str) -> String {
    host.sh(&format!("pgrep -f '[r]aftupd {part}'")).unwrap()
}

fn parts(host: &Host) -> [String; 2] {
    PARTS.map(|part| process(host, part))
}

#[test]
fn tunnel_and_resolver_outlive_the_daemon_and_come_back_if_they_die() {
    let lab = cluster("ittunnel", 3, &[]);
    let before: Vec<_> = lab.hosts().map(parts).collect();
    let (running, names) = (load(&lab, &HOSTS), Asking::start(&lab, lab.host("h2")));
    for host in lab.hosts() {
        host.kill_daemon().unwrap();
    }
    let addresses: Vec<Ipv4Addr> = lab.hosts().map(address_of_web).collect();
    for (host, to) in lab.hosts().flat_map(|host| addresses.iter().map(move |to| (host, to))) {
        host.sh(&format!("docker exec $(docker ps -q -f name=shop_asker) /helper get http://{to}:8080/"))
            .unwrap();
    }
    for host in lab.hosts() {
        host.start_daemon().unwrap();
    }
    let taken = |host: &Host| {
        let log = host.log(What::Daemon);
        ["tunnel", "resolver"]
            .iter()
            .all(|what| log.contains(&format!("{what} of an earlier run is taken over")))
    };
    wait_for(SOON, "parts taken over", || Ok(lab.hosts().all(taken).then_some(()))).unwrap();
    talk(&lab);
    lossless(&running.stop().unwrap(), 100);
    names.all_answered(100);
    assert_eq!(lab.hosts().map(parts).collect::<Vec<_>>(), before, "the same processes");

    // Whoever kills one gets another.
    let h2 = lab.host("h2");
    let asker = "docker exec $(docker ps -q -f name=shop_asker) /helper";
    for (part, to) in PARTS.into_iter().zip([address_of_web(lab.host("h3")).to_string(), "web".to_owned()]) {
        h2.sh(&format!("kill -9 {}", process(h2, part))).unwrap();
        let ask = format!("{asker} get http://{to}:8080/");
        wait_for(SOON, &format!("an answer with a new {part}"), || Ok(h2.sh(&ask).ok())).unwrap();
    }
    well(h2.raftup(&["leave"]).unwrap());
    let clean = || {
        Ok((h2.sh("pgrep -f '[r]aftupd [fn]a'").is_err() && h2.sh("ip link show ru-wire").is_err())
            .then_some(()))
    };
    wait_for(SOON, "the parts to end with the membership", clean).unwrap();
}

/// Requests from h2's container to h1's, one after the other, for as long as this is not ended.
struct Datagrams<'a> {
    host: &'a Host,
    child: Child,
}

impl<'a> Datagrams<'a> {
    fn start(host: &'a Host, to: Ipv4Addr) -> Self {
        let asker = "docker exec $(docker ps -q -f name=shop_asker) /helper";
        let ask = format!(
            "n=0; while [ -e /tmp/go ]; do {asker} udp {to}:8080 >/dev/null || echo lost; n=$((n+1)); done; echo $n"
        );
        host.sh("touch /tmp/go").unwrap();
        let mut command = host.command(&["sh", "-c", &ask]).unwrap();
        Self { host, child: command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap() }
    }

    /// Every datagram had its answer.
    fn end(self, least: u32) {
        self.host.sh("rm /tmp/go").unwrap();
        let said = String::from_utf8(self.child.wait_with_output().unwrap().stdout).unwrap();
        assert!(!said.contains("lost"), "{said}");
        let asked: u32 = said.trim().parse().unwrap();
        assert!(asked >= least, "too few to tell: {asked}");
    }
}

#[test]
fn a_newer_version_takes_over_without_a_lost_packet_or_name() {
    let lab = cluster("itnewer", 3, &[]);
    let (h1, h2) = (lab.host("h1"), lab.host("h2"));
    let (running, asking) = (load(&lab, &HOSTS), Datagrams::start(h2, address_of_web(h1)));
    let (names, before) = (Asking::start(&lab, h1), parts(h1));
    h1.kill_daemon().unwrap();
    // The same program under another version, as the next release would be.
    let bin = lab.tool().with_file_name("raftupd");
    let version = env!("CARGO_PKG_VERSION");
    let newer: String = version.chars().map(|c| if c == '.' { '.' } else { '9' }).collect();
    let program = std::fs::read(&bin).unwrap();
    std::fs::write(bin.with_extension("new"), replaced(&program, version, &newer)).unwrap();
    h1.sh(&format!("chmod +x {0}.new && mv {0}.new {0}", bin.display())).unwrap();
    h1.start_daemon().unwrap();
    let other = |now: &[String; 2]| {
        now.iter().zip(&before).all(|(now, before)| now.lines().count() == 1 && now != before)
    };
    wait_for(SOON, "the older parts to be let go", || Ok(Some(parts(h1)).filter(other))).unwrap();
    for what in ["tunnel", "resolver"] {
        assert!(h1.log(What::Daemon).contains(&format!("goes on where the older {what} was")));
    }
    talk(&lab);
    names.all_answered(100);
    asking.end(50);
    lossless(&running.stop().unwrap(), 100);
}

/// The program with one text in the place of another of the same length.
fn replaced(program: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut program = program.to_vec();
    let places: Vec<usize> =
        (0..program.len() - from.len()).filter(|at| program[*at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty());
    for at in places {
        program[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    program
}

#[test]
fn a_new_key_takes_over_without_a_lost_packet() {
    let lab = cluster("itkey", 3, &[]);
    let h1 = lab.host("h1");
    let keys = || h1.sh("cat /var/lib/raftup/fabric-keys.json").unwrap().matches("private").count();
    assert_eq!(keys(), 1);
    let (running, asking) = (load(&lab, &HOSTS), Datagrams::start(lab.host("h2"), address_of_web(h1)));
    for name in ["h1", "h2"] {
        well(lab.host("h3").raftup(&["node", "update", "--rotate-fabric-key", name]).unwrap());
    }
    wait_for(SOON, "a second key", || Ok((keys() == 2).then_some(()))).unwrap();
    wait_for(Duration::from_secs(240), "the old key to be forgotten", || Ok((keys() == 1).then_some(())))
        .unwrap();
    talk(&lab);
    asking.end(300);
    lossless(&running.stop().unwrap(), 100);
}
