//! One request and its answer.

use std::{
    io::{self, ErrorKind},
    net::Ipv4Addr,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{plan::Target, report::Class};

/// Longest answer that is taken.
const LONGEST: u64 = 16 << 20;

pub(crate) type Wrong = (Class, String);

/// A connection on which the last answer was read to its end.
pub(crate) type Connection = BufReader<TcpStream>;

/// A whole answer, and the connection if the server keeps it.
pub(crate) struct Answer {
    pub(crate) body: String,
    pub(crate) kept: Option<Connection>,
}

/// Why there is no answer.
pub(crate) enum NoAnswer {
    /// On a kept connection, which the server had closed before it sent a byte: sending again is safe.
    Stale,
    Failed(Wrong),
}

/// Asks over `kept`, else over a new connection. The whole of it takes at most `within`.
pub(crate) async fn http(
    target: &Target,
    kept: Option<Connection>,
    keep: bool,
    within: Duration,
) -> Result<Answer, NoAnswer> {
    let is_kept = kept.is_some();
    let mut from = None;
    let exchange = async {
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(target.addr).await.map_err(|error| failed(&error))?;
                stream.set_nodelay(true).map_err(|error| failed(&error))?;
                BufReader::new(stream)
            }
        };
        from = connection.get_ref().local_addr().ok();
        let connection_word = if keep { "keep-alive" } else { "close" };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection_word}\r\n\r\n",
            target.path, target.addr
        );
        let first = send(&mut connection, &request).await;
        let first = first.map_err(|error| if is_kept { NoAnswer::Stale } else { failed(&error) })?;
        let (status, body, close) = read(&mut connection, &first).await.map_err(|error| failed(&error))?;
        if !(200..300).contains(&status) {
            return Err(NoAnswer::Failed((Class::Status, first.trim().to_owned())));
        }
        Ok(Answer { body, kept: (keep && !close).then_some(connection) })
    };
    let result = timeout(within, exchange)
        .await
        .unwrap_or_else(|_| Err(NoAnswer::Failed((Class::Timeout, format!("no answer in {within:?}")))));
    result.map_err(|why| match (why, from) {
        // For whoever looks it up in a capture.
        (NoAnswer::Failed((class, detail)), Some(from)) => {
            let connection = if is_kept { "kept" } else { "new" };
            NoAnswer::Failed((
                class,
                format!("{detail}, on a {connection} connection from port {}", from.port()),
            ))
        }
        (why, _) => why,
    })
}

/// Sends the request and reads the first line of the answer.
async fn send(connection: &mut Connection, request: &str) -> io::Result<String> {
    connection.get_mut().write_all(request.as_bytes()).await?;
    let mut first = String::new();
    if connection.read_line(&mut first).await? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(first)
}

/// Reads the rest of an answer: its status, its body, whether the server closes.
async fn read(connection: &mut Connection, first: &str) -> io::Result<(u16, String, bool)> {
    let bad = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
    let status =
        first.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| bad("no status"))?;
    let (mut length, mut close) = (None, false);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        let Some((name, value)) = line.split_once(':') else { break };
        match name {
            "content-length" => length = value.trim().parse::<u64>().ok(),
            "connection" => close = value.trim() == "close",
            "transfer-encoding" => return Err(bad("chunked answers are not read here")),
            _ => {}
        }
    }
    let limit = length.unwrap_or(LONGEST).min(LONGEST);
    let mut body = Vec::new();
    let read = (&mut *connection).take(limit).read_to_end(&mut body).await?;
    if length.is_some_and(|length| read as u64 != length) {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned(), close || length.is_none()))
}

/// Sends a datagram and waits for one back.
pub(crate) async fn udp(target: &Target, within: Duration) -> Result<String, Wrong> {
    let exchange = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(target.addr).await?;
        socket.send(b"load").await?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).await?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    match timeout(within, exchange).await {
        Ok(result) => result.map_err(|error| class(&error)),
        Err(_) => Err((Class::Timeout, format!("no answer in {within:?}"))),
    }
}

/// Asks for the address of a name.
pub(crate) async fn dns(target: &Target, within: Duration) -> Result<String, Wrong> {
    let exchange = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(target.addr).await?;
        let question = question(target.path.trim_start_matches('/'));
        socket.send(&question).await?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).await?;
        Ok(buffer.get(..length).unwrap_or_default().to_vec())
    };
    match timeout(within, exchange).await {
        Ok(Ok(answer)) => named(&answer),
        Ok(Err(error)) => Err(class(&error)),
        Err(_) => Err((Class::Timeout, format!("no answer in {within:?}"))),
    }
}

/// A question for the address of a name. The port that it is sent from tells questions apart.
fn question(name: &str) -> Vec<u8> {
    let mut packet = vec![0x72, 0x75, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or_default());
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// Whether an answer names an address.
fn named(answer: &[u8]) -> Result<String, Wrong> {
    let (code, count) = match answer {
        [_, _, _, flags, _, _, high, low, ..] => (flags & 0xf, u16::from_be_bytes([*high, *low])),
        _ => return Err((Class::Other, "not an answer".to_owned())),
    };
    match (code, count) {
        (0, 1..) => Ok(String::new()),
        (0, 0) => Err((Class::Status, "no address".to_owned())),
        (3, _) => Err((Class::NoName, "NXDOMAIN".to_owned())),
        (code, _) => Err((Class::Status, format!("code {code}"))),
    }
}

fn failed(error: &io::Error) -> NoAnswer {
    NoAnswer::Failed(class(error))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's kinds, of which new ones come")]
fn class(error: &io::Error) -> Wrong {
    let class = match error.kind() {
        ErrorKind::ConnectionRefused => Class::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => Class::Reset,
        ErrorKind::TimedOut => Class::Timeout,
        _ => Class::Other,
    };
    (class, error.to_string())
}
