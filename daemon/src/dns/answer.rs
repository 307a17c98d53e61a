//! From the bytes of a question to the bytes of an answer, or to the word that others must answer it; pure.

use std::net::Ipv4Addr;

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, PTR, SRV},
    },
};
use ipnet::IpNet;
use raftup_proto::id::NetworkId;

use super::names::{Found, Names};

/// Seconds that an answer may be kept.
const TTL: u32 = 1;

/// Most records of one answer; so many fit into a message over TCP.
const MOST_RECORDS: usize = 1000;

/// Largest answer over UDP that we promise to take ourselves; fits into one packet of every link.
const UDP_MAX: u16 = 1232;

/// Bytes before the questions of a message.
pub(super) const HEADER: usize = 12;

/// Records beside a question: what is asked for extended DNS, a cookie, a signature.
const MOST_BESIDE: u16 = 4;

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send these bytes.
    Answer(Vec<u8>),
    /// Others know, or nobody; the asker is of this network.
    Forward(NetworkId),
    /// Not even a question; say nothing.
    Ignore,
}

/// How the question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Udp,
    Tcp,
}

/// What to do with `question`, asked from `asker`.
pub(super) fn answer(names: &Names, asker: Ipv4Addr, question: &[u8], carrier: Carrier) -> Verdict {
    match header(question) {
        Some(Header { is_answer: true, .. }) | None => return Verdict::Ignore,
        Some(Header { is_query: false, .. }) => return failure(question, ResponseCode::NotImp),
        Some(Header { is_plain: false, .. }) => return failure(question, ResponseCode::FormErr),
        Some(_) => {}
    }
    // Others would have us ask for them, or send to whoever's address they forge.
    let Some(network) = names.network_of(asker) else { return failure(question, ResponseCode::Refused) };
    let Ok(message) = Message::from_vec(question) else { return failure(question, ResponseCode::FormErr) };
    let [query] = message.queries.as_slice() else { return failure(question, ResponseCode::FormErr) };
    let ours = query.query_class() == DNSClass::IN;
    match ours.then(|| find(names, asker, query, message.metadata.id)).flatten() {
        Some(records) => Verdict::Answer(encode(&message, query, records, carrier)),
        None if names.is_shut_in(asker) => failure(question, ResponseCode::ServFail),
        None => Verdict::Forward(network),
    }
}

/// An answer that only says what went wrong, not longer than the question.
pub(super) fn failure(question: &[u8], code: ResponseCode) -> Verdict {
    let Some(header) = header(question).filter(|header| !header.is_answer) else { return Verdict::Ignore };
    let mut message = Message::error_msg(header.id, OpCode::Query, code);
    message.metadata.recursion_available = true;
    if header.is_plain
        && let Ok(question) = Message::from_vec(question)
    {
        message.metadata.recursion_desired = question.metadata.recursion_desired;
        message.add_queries(question.queries);
    }
    let mut bytes = message.to_vec();
    if bytes.as_ref().is_ok_and(|bytes| bytes.len() > question.len()) {
        // Its name is written short.
        message.queries.clear();
        bytes = message.to_vec();
    }
    bytes.map_or(Verdict::Ignore, Verdict::Answer)
}

/// What the first bytes of a message say.
struct Header {
    id: u16,
    is_answer: bool,
    /// Not a change, a notification or something else.
    is_query: bool,
    /// One question, and not more beside it than there is a use for. Others are not even read: thousands of names take time.
    is_plain: bool,
}

/// None: it is shorter.
fn header(message: &[u8]) -> Option<Header> {
    let (fields, _) = message.split_first_chunk::<HEADER>()?;
    let number = |at: usize| u16::from_be_bytes([fields[at], fields[at + 1]]);
    let [questions, answers, authorities, additionals] = [4, 6, 8, 10].map(number);
    Some(Header {
        id: number(0),
        is_answer: fields[2] & 0x80 != 0,
        is_query: fields[2] & 0x78 == 0,
        is_plain: questions == 1 && answers == 0 && authorities == 0 && additionals <= MOST_BESIDE,
    })
}

/// The records that answer a question.
#[derive(Debug, Default)]
struct Records {
    code: Option<ResponseCode>,
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

fn find(names: &Names, asker: Ipv4Addr, query: &Query, salt: u16) -> Option<Records> {
    let name = query.name().to_ascii().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    if name.ends_with(".in-addr.arpa") {
        return reverse(names, asker, query);
    }
    let (port, name) = without_port(name);
    let found = names.find(asker, name)?;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "there are more kinds of records than anybody asks for"
    )]
    let mut records = match query.query_type() {
        RecordType::A | RecordType::ANY => {
            Records { answers: addresses(query, &found), ..Records::default() }
        }
        RecordType::SRV => services(query, found, port),
        // It exists, but not as that.
        _ => Records::default(),
    };
    // Not everybody takes the first one.
    if !records.answers.is_empty() {
        let first = usize::from(salt) % records.answers.len();
        records.answers.rotate_left(first);
    }
    records.answers.truncate(MOST_RECORDS);
    records.additionals.truncate(MOST_RECORDS);
    Some(records)
}

/// `_8080._tcp.web` is port 8080 of `web`.
fn without_port(name: &str) -> (Option<u16>, &str) {
    let parts = name.strip_prefix('_').and_then(|rest| rest.split_once('.')).and_then(|(port, rest)| {
        let rest = rest.strip_prefix("_tcp.").or_else(|| rest.strip_prefix("_udp."))?;
        Some((port.parse().ok()?, rest))
    });
    parts.map_or((None, name), |(port, rest)| (Some(port), rest))
}

fn addresses(query: &Query, found: &Found) -> Vec<Record> {
    let record = |address: &Ipv4Addr| Record::from_rdata(query.name().clone(), TTL, RData::A(A(*address)));
    found.addresses.iter().map(record).collect()
}

fn services(query: &Query, found: Found, port: Option<u16>) -> Records {
    let mut records = Records::default();
    for (name, address, ports) in found.tasks {
        let Ok(name) = Name::from_ascii(&name) else { continue };
        for port in port.map_or(ports, |port| vec![port]) {
            let service = SRV::new(0, 1, port, name.clone());
            records.answers.push(Record::from_rdata(query.name().clone(), TTL, RData::SRV(service)));
        }
        records.additionals.push(Record::from_rdata(name, TTL, RData::A(A(address))));
    }
    records
}

fn reverse(names: &Names, asker: Ipv4Addr, query: &Query) -> Option<Records> {
    let address = match query.name().parse_arpa_name() {
        Ok(IpNet::V4(net)) if net.prefix_len() == 32 => net.addr(),
        _ => return None,
    };
    if !names.is_ours(address) {
        return None;
    }
    let mut records = Records::default();
    match names.name_of(asker, address).and_then(|name| Name::from_ascii(name).ok()) {
        Some(name) if matches!(query.query_type(), RecordType::PTR | RecordType::ANY) => {
            records.answers.push(Record::from_rdata(query.name().clone(), TTL, RData::PTR(PTR(name))));
        }
        Some(_) => {}
        None => records.code = Some(ResponseCode::NXDomain),
    }
    Some(records)
}

fn encode(question: &Message, query: &Query, records: Records, carrier: Carrier) -> Vec<u8> {
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.metadata.authoritative = true;
    message.metadata.recursion_desired = question.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = records.code.unwrap_or(ResponseCode::NoError);
    message.add_query(query.clone());
    message.answers = records.answers;
    message.additionals = records.additionals;
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        message.set_edns(edns);
    }
    let limit = match carrier {
        Carrier::Udp => usize::from(question.max_payload().min(UDP_MAX)),
        Carrier::Tcp => usize::from(u16::MAX),
    };
    loop {
        // Names come from our own tables and from a question that was decoded: they can be encoded.
        let bytes = message.to_vec().unwrap_or_default();
        if bytes.len() <= limit {
            return bytes;
        }
        // First what was not asked for, then as much as it takes; whoever needs all of it asks again over TCP.
        if message.additionals.is_empty() {
            message.metadata.truncation = true;
            let keep = message.answers.len() * limit / bytes.len();
            message.answers.truncate(keep.min(message.answers.len().saturating_sub(1)));
        } else {
            message.additionals.clear();
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
