//! A DNS client small enough to show exactly what a name server says.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use crate::Failure;

const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: u16 = 2;

/// One record of an answer.
pub(crate) struct Record {
    pub(crate) ttl: u32,
    /// Addresses as such; SRV as `priority weight port target`; names without the last dot.
    pub(crate) value: String,
}

/// The first address of a host: a literal, a line of `/etc/hosts`, or what the name server says.
pub(crate) fn address(host: &str) -> Result<IpAddr, Failure> {
    if let Ok(literal) = host.parse() {
        return Ok(literal);
    }
    for line in fs::read_to_string("/etc/hosts").unwrap_or_default().lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(addr)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if addr.is_ipv4() && words.any(|name| name == host) {
            return Ok(addr);
        }
    }
    let records = query(host, "A", None)?;
    let first = records.first().ok_or_else(|| format!("name `{host}` has no address"))?;
    Ok(first.value.parse()?)
}

/// `HOST:PORT` to an address.
pub(crate) fn socket_address(target: &str) -> Result<SocketAddr, Failure> {
    let (host, port) = target.rsplit_once(':').ok_or("no port: write HOST:PORT")?;
    Ok(SocketAddr::new(address(host)?, port.parse()?))
}

/// Asks a name server, the first of `/etc/resolv.conf` unless one is given; with the search list, as the C
/// library has it.
pub(crate) fn query(name: &str, kind: &str, server: Option<&str>) -> Result<Vec<Record>, Failure> {
    let number = match kind {
        "A" => 1,
        "PTR" => 12,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        other => return Err(format!("record type {other} is not known here").into()),
    };
    let config = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let line = |word: &str| config.lines().find_map(|line| line.strip_prefix(word)).map(str::trim);
    let server = match server.or_else(|| line("nameserver ")) {
        Some(text) => {
            text.parse::<SocketAddr>().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)))?
        }
        None => return Err("no name server in /etc/resolv.conf".into()),
    };
    let mut names = vec![name.to_owned()];
    if !name.contains('.') {
        let search = line("search ").unwrap_or_default();
        names.extend(search.split_whitespace().map(|suffix| format!("{name}.{suffix}")));
    }
    let mut last = None;
    for name in names {
        match ask(&name, number, server) {
            Ok(records) if !records.is_empty() => return Ok(records),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    last.map_or(Ok(Vec::new()), Err)
}

fn ask(name: &str, kind: u16, server: SocketAddr) -> Result<Vec<Record>, Failure> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    let mut reply = [0; 4096];
    let mut last = Failure::from("no answer");
    for id in 1..=TRIES {
        let mut packet = Vec::from(id.to_be_bytes());
        packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.trim_end_matches('.').split('.') {
            packet.push(u8::try_from(label.len())?);
            packet.extend(label.as_bytes());
        }
        packet.push(0);
        packet.extend(kind.to_be_bytes());
        packet.extend([0, 1]);
        socket.send(&packet)?;
        match socket.recv(&mut reply) {
            Ok(length) => {
                return Packet(&reply[..length]).records(kind).map_err(|e| format!("{name}: {e}").into());
            }
            Err(error) => last = format!("{name}: no answer from {server}: {error}").into(),
        }
    }
    Err(last)
}

struct Packet<'a>(&'a [u8]);

impl Packet<'_> {
    fn u16(&self, at: usize) -> Result<u16, Failure> {
        let bytes = self.0.get(at..at + 2).ok_or("the answer is cut off")?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// The name at `at`, and where the next field is.
    fn name(&self, mut at: usize) -> Result<(String, usize), Failure> {
        let (mut labels, mut end) = (Vec::new(), None);
        // A name has at most 128 labels; more means a loop of pointers.
        for _ in 0..128 {
            let length = usize::from(*self.0.get(at).ok_or("the answer is cut off")?);
            if length == 0 {
                return Ok((labels.join("."), end.unwrap_or(at + 1)));
            } else if length >= 0xc0 {
                end = end.or(Some(at + 2));
                at = usize::from(self.u16(at)? & 0x3fff);
            } else {
                let label = self.0.get(at + 1..at + 1 + length).ok_or("the answer is cut off")?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + length;
            }
        }
        Err("a name in the answer does not end".into())
    }

    fn records(&self, wanted: u16) -> Result<Vec<Record>, Failure> {
        match self.u16(2)? & 0xf {
            0 => {}
            2 => return Err("the server failed (SERVFAIL)".into()),
            3 => return Err("no such name (NXDOMAIN)".into()),
            5 => return Err("the server refused (REFUSED)".into()),
            other => return Err(format!("the server answered with code {other}").into()),
        }
        let mut at = 12;
        for _ in 0..self.u16(4)? {
            at = self.name(at)?.1 + 4;
        }
        let mut found = Vec::new();
        for _ in 0..self.u16(6)? {
            at = self.name(at)?.1;
            let ttl = u32::from(self.u16(at + 4)?) << 16 | u32::from(self.u16(at + 6)?);
            let length = usize::from(self.u16(at + 8)?);
            let data = at + 10;
            if self.u16(at)? == wanted {
                found.push(Record { ttl, value: self.value(wanted, data, length)? });
            }
            at = data + length;
        }
        Ok(found)
    }

    fn value(&self, kind: u16, at: usize, length: usize) -> Result<String, Failure> {
        let bytes = self.0.get(at..at + length).ok_or("the answer is cut off")?;
        Ok(match kind {
            1 => IpAddr::from(<[u8; 4]>::try_from(bytes)?).to_string(),
            28 => IpAddr::from(<[u8; 16]>::try_from(bytes)?).to_string(),
            12 => self.name(at)?.0,
            33 => {
                let target = self.name(at + 6)?.0;
                format!("{} {} {} {target}", self.u16(at)?, self.u16(at + 2)?, self.u16(at + 4)?)
            }
            _ => String::from_utf8_lossy(bytes.get(1..).unwrap_or_default()).into_owned(),
        })
    }
}
