//! The client's commands.

use std::{
    io::{self, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{Failure, dns, http::Head};

const CONNECT: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_secs(30);

/// Fetches `url` so many times over new connections; the bodies go to standard output.
pub(crate) fn get(url: &str, count: u32) -> Result<(), Failure> {
    let rest = url.strip_prefix("http://").ok_or("only http:// is known here")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let target = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    for _ in 0..count {
        let mut stream = TcpStream::connect_timeout(&dns::socket_address(&target)?, CONNECT)?;
        stream.set_read_timeout(Some(READ))?;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
        let mut from = BufReader::new(stream);
        let head = Head::read(&mut from)?.ok_or("closed without an answer")?;
        head.body(&mut from, true, &mut io::stdout())?;
        if !head.word(1).starts_with('2') {
            return Err(head.first.into());
        }
    }
    Ok(())
}

/// Prints what the server says until it closes.
pub(crate) fn tcp(target: &str) -> Result<(), Failure> {
    let mut stream = TcpStream::connect_timeout(&dns::socket_address(target)?, CONNECT)?;
    stream.set_read_timeout(Some(READ))?;
    io::copy(&mut stream, &mut io::stdout())?;
    Ok(())
}

/// Sends one datagram and prints the one that comes back.
pub(crate) fn udp(target: &str, text: &str) -> Result<(), Failure> {
    let target = dns::socket_address(target)?;
    let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(CONNECT))?;
    socket.connect(target)?;
    socket.send(text.as_bytes())?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    io::stdout().write_all(&buffer[..length])?;
    Ok(())
}

/// Prints records, one a line, with their time to live.
pub(crate) fn resolve(name: &str, kind: &str, server: Option<&str>) -> Result<(), Failure> {
    let records = dns::query(name, kind, server)?;
    for record in &records {
        println!("{} {}", record.value, record.ttl);
    }
    if records.is_empty() { Err(format!("`{name}` has no {kind} record").into()) } else { Ok(()) }
}
