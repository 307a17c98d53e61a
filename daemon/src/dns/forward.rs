//! Passes questions on to the host's resolvers.
//!
//! Bytes go through as they are, but for the id, which is drawn anew; over the carrier that the container chose. Names in
//! answers are not followed. An answer counts if it comes from where the question went, and is one to it.
//! `/etc/resolv.conf` is looked at again when a question comes and a second has passed since.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_proto::op::Message;
use ipnet::Ipv4Net;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::answer::{Carrier, HEADER};

/// Resolvers that are asked at most, as the C library has it.
const MOST_RESOLVERS: usize = 3;

/// Time for one resolver; all of them must be through before the engine's resolver gives up, after 4 s.
const PATIENCE: Duration = Duration::from_millis(1500);

/// After so much silence the next resolver is asked beside those that were.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// How long a look at the file counts.
const FRESH: Duration = Duration::from_secs(1);

/// Longest answer over UDP that is passed on, as longest question that is taken; of a longer one, that it is longer.
pub(super) const DATAGRAM_MAX: usize = 4096;

/// What takes no more over UDP than that takes this much.
const PAYLOAD_LEAST: usize = 512;

/// Flag: the answer is not whole.
const TRUNCATED: u8 = 0x02;

/// Response codes after which another resolver may know better: SERVFAIL, NOTIMP, REFUSED.
const UNWILLING: [u8; 3] = [2, 4, 5];

/// Asks others.
#[derive(Debug)]
pub(super) struct Forwarder {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    resolvers: Arc<[SocketAddr]>,
}

impl Forwarder {
    /// With the resolvers that `file` names, in the form of `resolv.conf`.
    pub(super) fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), known: Mutex::default() }
    }

    /// The first willing resolver's answer. Resolvers within `pool` are left out: they are ourselves.
    ///
    /// Errors: no resolver answered.
    pub(super) async fn ask(
        &self,
        question: &[u8],
        carrier: Carrier,
        pool: Option<Ipv4Net>,
    ) -> io::Result<Vec<u8>> {
        let answer = ask_all(&self.resolvers(pool), question, carrier).await?;
        Ok(match carrier {
            Carrier::Udp => fitted(question, answer),
            Carrier::Tcp => answer,
        })
    }

    fn resolvers(&self, pool: Option<Ipv4Net>) -> Arc<[SocketAddr]> {
        // Nothing that holds the lock can leave it half done.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|looked| looked.elapsed() >= FRESH) {
            known.looked = Some(Instant::now());
            let changed = fs::metadata(&self.file).and_then(|metadata| metadata.modified()).ok();
            if changed.is_none() || changed != known.changed {
                known.changed = changed;
                let text = fs::read_to_string(&self.file).unwrap_or_default();
                known.resolvers = parse(&text, pool).into();
            }
        }
        Arc::clone(&known.resolvers)
    }
}

/// The first willing answer of `resolvers`, in their order as far as they answer soon.
async fn ask_all(resolvers: &[SocketAddr], question: &[u8], carrier: Carrier) -> io::Result<Vec<u8>> {
    let mut last = Err(io::Error::other("the host has no resolver"));
    let mut left = resolvers.iter();
    let mut asked = FuturesUnordered::new();
    loop {
        if let Some(resolver) = left.next() {
            asked.push(timeout(PATIENCE, ask_one(*resolver, question, carrier)));
        }
        let wait = if left.len() > 0 { IMPATIENCE } else { PATIENCE };
        match timeout(wait, asked.next()).await {
            Ok(None) => return last,
            Ok(Some(Ok(Ok(answer)))) => {
                if answer.get(3).is_some_and(|code| !UNWILLING.contains(&(code & 0x0f))) {
                    return Ok(answer);
                }
                last = Ok(answer);
            }
            Ok(Some(Ok(Err(error)))) if last.is_err() => last = Err(error),
            Ok(Some(Err(late))) if last.is_err() => last = Err(late.into()),
            // Silent so far, or of no more use than what another one said.
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

async fn ask_one(resolver: SocketAddr, question: &[u8], carrier: Carrier) -> io::Result<Vec<u8>> {
    match carrier {
        Carrier::Udp => over_udp(resolver, question).await,
        Carrier::Tcp => over_tcp(resolver, question).await,
    }
}

fn parse(text: &str, pool: Option<Ipv4Net>) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let addresses = named.filter_map(|word| word.parse::<IpAddr>().ok());
    let others = addresses.filter(|address| match address {
        IpAddr::V4(address) => pool.is_none_or(|pool| !pool.contains(address)),
        IpAddr::V6(_) => true,
    });
    others.take(MOST_RESOLVERS).map(|address| SocketAddr::new(address, 53)).collect()
}

async fn over_udp(resolver: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let from: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from).await?;
    socket.connect(resolver).await?;
    let sent = with_id(question, rand::random())?;
    socket.send(&sent).await?;
    // One byte more, to tell an answer that is too long.
    let mut buffer = vec![0; DATAGRAM_MAX + 1];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anybody can send us something; only an answer to this very question counts.
        if answers(&buffer[..length], &sent) {
            buffer.truncate(length);
            return with_id(&buffer, id_of(question)?);
        }
    }
}

async fn over_tcp(resolver: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let sent = with_id(question, rand::random())?;
    stream.write_all(&framed(&sent)).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if !answers(&answer, &sent) {
        return Err(io::Error::other("the resolver answered another question"));
    }
    with_id(&answer, id_of(question)?)
}

/// A message as it goes over TCP: its length first. Messages are never longer than the length can say.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), &message[..usize::from(length)]].concat()
}

fn id_of(message: &[u8]) -> io::Result<u16> {
    match message {
        [first, second, ..] => Ok(u16::from_be_bytes([*first, *second])),
        _ => Err(io::Error::other("a message without an id")),
    }
}

fn with_id(message: &[u8], id: u16) -> io::Result<Vec<u8>> {
    id_of(message)?;
    Ok([&id.to_be_bytes(), &message[2..]].concat())
}

/// The answer; where it is longer than the asker takes over UDP, the word that it has to ask over TCP.
fn fitted(question: &[u8], answer: Vec<u8>) -> Vec<u8> {
    if answer.len() <= PAYLOAD_LEAST {
        return answer;
    }
    let most = Message::from_vec(question).map_or(PAYLOAD_LEAST, |message| message.max_payload().into());
    if answer.len() <= most.min(DATAGRAM_MAX) {
        return answer;
    }
    let mut short = answer.get(..HEADER).unwrap_or_default().to_vec();
    if let Some(flags) = short.get_mut(2) {
        *flags |= TRUNCATED;
    }
    // One question, and nothing besides.
    short.truncate(4);
    short.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    short.extend(question.get(HEADER..question_end(question)).unwrap_or_default());
    short
}

/// Same id, an answer, and the same question; letters may differ in case.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    let end = question_end(question);
    let same = |part: std::ops::Range<usize>| match (answer.get(part.clone()), question.get(part)) {
        (Some(answer), Some(question)) => answer.eq_ignore_ascii_case(question),
        _ => false,
    };
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let failed = answer.get(3).is_some_and(|flags| flags & 0x0f != 0);
    // A resolver that cannot read the question may leave it out, and has no records then either.
    let bare = failed && answer.get(4..HEADER) == Some(&[0; 8]);
    let asked = answer.get(4..6) == Some(&[0, 1]) && same(HEADER..end);
    answer.get(..2) == question.get(..2) && is_answer && (bare || asked)
}

/// Where the first question ends: after its labels, type and class.
fn question_end(message: &[u8]) -> usize {
    let mut at = HEADER;
    while let Some(&length) = message.get(at) {
        if length >= 0xc0 {
            // A pointer ends a name.
            at += 2;
            break;
        }
        at += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    (at + 4).min(message.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resolvers_are_read_and_we_are_not_among_them() {
        let pool = Some("10.64.0.0/11".parse().unwrap());
        let text = "# nameserver 1.1.1.1\nsearch example.com\nnameserver 10.64.32.1\nnameserver 192.0.2.53 # x\n\
                    nameserver\nnameserver ::1\nnameserver fe80::1%eth0\n";
        assert_eq!(parse(text, pool), ["192.0.2.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }

    /// A resolver that answers one question over each carrier: after a wrong answer over UDP, the right one.
    async fn resolver() -> SocketAddr {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = tokio::net::TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let at = udp.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            answer[0] ^= 1;
            udp.send_to(&answer, from).await.unwrap();
            answer[0] ^= 1;
            udp.send_to(&answer, from).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            question[2] |= 0x80;
            stream.write_all(&framed(&question)).await.unwrap();
        });
        at
    }

    #[tokio::test]
    async fn answers_come_back_under_the_id_of_the_question() {
        let resolver = resolver().await;
        let question = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x00\x00\x01\x00\x01";
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        assert_eq!(over_udp(resolver, question).await.unwrap(), answer);
        assert_eq!(over_tcp(resolver, question).await.unwrap(), answer);
    }

    #[tokio::test]
    async fn without_resolvers_the_answer_is_an_error() {
        let forwarder = Forwarder::new("/nonexistent/resolv.conf");
        assert!(forwarder.ask(b"\0\0\0\0", Carrier::Udp, None).await.is_err());
    }

    /// A resolver that answers each question over UDP with this code, or not at all.
    async fn answering(code: Option<u8>) -> SocketAddr {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = udp.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                buffer[2] |= 0x80;
                if let Some(code) = code {
                    buffer[3] = code;
                    udp.send_to(&buffer[..length], from).await.unwrap();
                }
            }
        });
        at
    }

    #[tokio::test]
    async fn the_next_resolver_answers_where_one_fails_or_is_silent() {
        let question = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x00\x00\x01\x00\x01";
        let well = answering(Some(0)).await;
        let closed = {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.local_addr().unwrap()
        };
        let silent = answering(None).await;
        for bad in [closed, silent, answering(Some(2)).await, answering(Some(5)).await] {
            let begun = Instant::now();
            let answer = ask_all(&[bad, well], question, Carrier::Udp).await.unwrap();
            assert_eq!(answer[3] & 0x0f, 0, "{bad}");
            assert!(begun.elapsed() < PATIENCE, "{bad}: not after all patience");
        }
        // No such name is an answer.
        let answer = ask_all(&[answering(Some(3)).await, well], question, Carrier::Udp).await.unwrap();
        assert_eq!(answer[3] & 0x0f, 3);
        // Of those that are unwilling, one says so; if nobody says anything, it is an error in time.
        let unwilling = [silent, answering(Some(5)).await, closed];
        assert_eq!(ask_all(&unwilling, question, Carrier::Udp).await.unwrap()[3] & 0x0f, 5);
        let begun = Instant::now();
        assert!(ask_all(&[silent; MOST_RESOLVERS], question, Carrier::Udp).await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(4), "the engine's resolver waits no longer");
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let question = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x00\x00\x01\x00\x01";
        let mut answer = question.to_vec();
        assert!(!answers(&answer, question));
        answer[2] |= 0x80;
        assert!(answers(&answer, question));
        answer[13] = b'W';
        assert!(answers(&answer, question));
        answer[13] = b'x';
        assert!(!answers(&answer, question));
        for length in 0..question.len() {
            assert!(!answers(&answer[..length], question));
        }
        let mut bare = question[..HEADER].to_vec();
        bare[2] |= 0x80;
        bare[5] = 0;
        assert!(!answers(&bare, question), "no question, and no failure");
        bare[3] = 1;
        assert!(answers(&bare, question), "it could not read it");
        bare[7] = 1;
        bare.extend(b"\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07");
        assert!(!answers(&bare, question), "a record of who knows what");
    }

    #[tokio::test]
    async fn an_answer_from_elsewhere_does_not_count() {
        let question = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x00\x00\x01\x00\x01";
        let (resolver, other) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let at = resolver.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            // All of it is right, but for where it comes from.
            other.send_to(&[&answer[..], b"forged"].concat(), from).await.unwrap();
            resolver.send_to(&answer, from).await.unwrap();
        });
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        assert_eq!(over_udp(at, question).await.unwrap(), answer);
        answering.await.unwrap();
    }

    #[test]
    fn an_answer_that_is_too_long_says_so() {
        let question = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x00\x00\x01\x00\x01".to_vec();
        // The same with extended DNS, which takes 1232 bytes.
        let mut extended = [&question[..], b"\0\0\x29\x04\xd0\0\0\0\0\0\0"].concat();
        extended[11] = 1;
        let answer = |length: usize| {
            let mut answer = question.clone();
            answer[2] |= 0x80;
            answer[7] = 9;
            answer.resize(length, 7);
            answer
        };
        for (question, most) in [(&question, 512), (&extended, 1232)] {
            assert_eq!(fitted(question, answer(most)), answer(most));
            for length in [most + 1, DATAGRAM_MAX, DATAGRAM_MAX + 1] {
                let short = fitted(question, answer(length));
                let message = Message::from_vec(&short).unwrap();
                assert!(
                    message.metadata.truncation && message.answers.is_empty() && message.queries.len() == 1
                );
                assert_eq!(short[..2], question[..2]);
            }
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(
            question in prop::collection::vec(any::<u8>(), 0..80),
            answer in prop::collection::vec(any::<u8>(), 0..700),
        ) {
            let _ = (answers(&answer, &question), with_id(&answer, 7));
            prop_assert!(question_end(&question) <= question.len());
            prop_assert!(fitted(&question, answer.clone()).len() <= answer.len().max(PAYLOAD_LEAST));
        }
    }
}
