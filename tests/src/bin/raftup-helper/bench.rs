//! Both ends of the benches: bytes one way, and requests in a closed loop. Whatever was not received, or was
//! answered wrongly, is an error and no figure.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{Failure, dns, http::Head};

const CONNECT: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_secs(30);
const BLOCK: usize = 128 << 10;
const FILLER: u8 = 0x5a;
/// The last byte of all: no proxy has to pass a half-closed connection on.
const LAST: u8 = 0xff;

/// Accepts connections, reads each to its last byte and says how many there were, for ever.
pub(crate) fn sink(port: &str) -> Result<(), Failure> {
    let listener = TcpListener::bind(("0.0.0.0", port.parse::<u16>()?))?;
    println!("swallowing on {port}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || {
            let (mut buffer, mut count) = (vec![0; BLOCK], 0u64);
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                count += length as u64;
                if buffer[length - 1] == LAST {
                    // The source misses the answer if this fails.
                    let _ = stream.write_all(&count.to_be_bytes());
                }
            }
        });
    }
    Ok(())
}

/// Sends for so many seconds over one connection and prints what arrived, by the sink's own count.
pub(crate) fn source(target: &str, seconds: &str) -> Result<(), Failure> {
    let length = Duration::from_secs_f64(seconds.parse()?);
    let mut stream = TcpStream::connect_timeout(&dns::socket_address(target)?, CONNECT)?;
    stream.set_read_timeout(Some(READ))?;
    let block = vec![FILLER; BLOCK];
    let start = Instant::now();
    let mut sent = 1u64;
    while start.elapsed() < length {
        stream.write_all(&block)?;
        sent += block.len() as u64;
    }
    stream.write_all(&[LAST])?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let took = start.elapsed().as_secs_f64();
    if u64::from_be_bytes(count) != sent {
        return Err(format!("sent {sent} bytes, {} arrived", u64::from_be_bytes(count)).into());
    }
    println!("{{\"bytes\":{sent},\"seconds\":{took:.3},\"mb_per_s\":{:.1}}}", sent as f64 / took / 1e6);
    Ok(())
}

/// Asks `http://HOST:PORT/` for so many seconds from so many clients, each of which sends when it has its answer,
/// over one connection (`keep`) or a new one each (`fresh`). Prints how many answers there were and how long
/// they took. Errs with the first request that was not answered by a helper.
pub(crate) fn requests(target: &str, seconds: &str, clients: &str, mode: &str) -> Result<(), Failure> {
    let keep = match mode {
        "keep" => true,
        "fresh" => false,
        other => return Err(format!("no mode `{other}`: keep or fresh").into()),
    };
    let (addr, length) = (dns::socket_address(target)?, Duration::from_secs_f64(seconds.parse()?));
    let start = Instant::now();
    let clients: Vec<_> = (0..clients.parse()?)
        .map(|_: u32| thread::spawn(move || client(addr, start, length, keep)))
        .collect();
    let mut micros = Vec::new();
    for client in clients {
        micros.extend(client.join().map_err(|_| "a client panicked")??);
    }
    let took = start.elapsed().as_secs_f64();
    micros.sort_unstable();
    let at = |share: f64| {
        let rank = (share * micros.len() as f64).ceil() as usize;
        micros.get(rank.saturating_sub(1)).map_or(0.0, |micros| f64::from(*micros) / 1e3)
    };
    println!(
        "{{\"requests\":{},\"seconds\":{took:.3},\"per_s\":{:.1},\"p50_ms\":{:.3},\"p99_ms\":{:.3}}}",
        micros.len(),
        micros.len() as f64 / took,
        at(0.5),
        at(0.99)
    );
    Ok(())
}

/// Microseconds that each request took.
fn client(addr: SocketAddr, start: Instant, length: Duration, keep: bool) -> Result<Vec<u32>, Failure> {
    let word = if keep { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: {addr}\r\nConnection: {word}\r\n\r\n");
    let (mut kept, mut micros) = (None, Vec::new());
    while start.elapsed() < length {
        let began = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => connect(addr)?,
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let head = Head::read(&mut stream)?.ok_or("closed without an answer")?;
        let mut body = Vec::new();
        head.body(&mut stream, true, &mut body)?;
        if head.word(1) != "200" || !body.starts_with(b"{\"task\":") {
            return Err(format!("answered `{}`", head.first).into());
        }
        micros.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        kept = keep.then_some(stream);
    }
    Ok(micros)
}

fn connect(addr: SocketAddr) -> Result<BufReader<TcpStream>, Failure> {
    let stream = TcpStream::connect_timeout(&addr, CONNECT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ))?;
    Ok(BufReader::new(stream))
}
