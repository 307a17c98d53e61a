//! The client's commands.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{Failure, dns, http::Head};

const CONNECT: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_secs(30);
const BENCH_BLOCK: usize = 128 << 10;

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

/// Accepts connections and reads them empty, for ever.
pub(crate) fn bench_sink(port: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind(("0.0.0.0", port.parse::<u16>()?))?;
    println!("swallowing on {port}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let mut buffer = vec![0; BENCH_BLOCK];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
    }
    Ok(())
}

/// Sends for so many seconds over one connection and prints what went through.
pub(crate) fn bench_source(target: &str, seconds: &str) -> Result<(), Failure> {
    let length = Duration::from_secs_f64(seconds.parse()?);
    let mut stream = TcpStream::connect_timeout(&dns::socket_address(target)?, CONNECT)?;
    let block = vec![0x5a; BENCH_BLOCK];
    let start = Instant::now();
    let mut sent = 0u64;
    while start.elapsed() < length {
        stream.write_all(&block)?;
        sent += block.len() as u64;
    }
    let took = start.elapsed().as_secs_f64();
    println!("{{\"bytes\":{sent},\"seconds\":{took:.3},\"mb_per_s\":{:.1}}}", sent as f64 / took / 1e6);
    Ok(())
}
