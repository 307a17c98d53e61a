//! The encoding of gossip messages.
//!
//! Pure: bytes to messages and back. The format is chitchat's, without its compression: blocks of values that are
//! compressed are skipped, so a message never takes more memory than its own size. Holds: every length is checked before
//! it is used, and no input panics; what [`Message::encode`] writes reaches no assertion of chitchat.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use raftup_proto::{id::NodeId, peer::Hello};

/// The first bytes of a message: a magic number and the version of the format.
const START: [u8; 3] = [0x53, 0xb0, 0];

/// Kinds of messages.
const SYN: u8 = 0;
const SYN_ACK: u8 = 1;
const ACK: u8 = 2;
const BAD_CLUSTER: u8 = 3;

/// Kinds of blocks that values are carried in.
const END: u8 = 0;
const COMPRESSED: u8 = 1;
const PLAIN: u8 = 2;

/// Kinds of records inside of the blocks.
const NODE: u8 = 0;
const VALUE: u8 = 1;
const VERSION: u8 = 2;

/// Bytes of values in one block.
const BLOCK: usize = 16_384;

/// Values that a node may publish.
pub(super) const MAX_VALUES: usize = 16;

/// Bytes of the name of a value.
pub(super) const MAX_KEY: usize = 64;

/// Bytes of a value.
pub(super) const MAX_VALUE: usize = 1024;

/// Versions count changes of values.
const VERSION_MAX: u64 = 1 << 48;

/// A version that no node reaches. It stands for "send nothing" in entries about third nodes: nodes take values from
/// their owner alone, and chitchat would send those of everybody.
const NOTHING_WANTED: u64 = u64::MAX;

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Longer than any message of a node.
    #[error("a message is too large")]
    TooLarge,
    /// It ends before it should, or goes on after that.
    #[error("a message has the wrong length")]
    Length,
    /// No message of this format.
    #[error("a message has an unknown format")]
    Format,
    /// It was meant for another cluster, or the sender takes this node for one of another cluster.
    #[error("a message belongs to another cluster")]
    Cluster,
    /// The sender publishes more or longer values than a node may, or numbers them in a way that no node does.
    #[error("a message has too many or too long values, or their versions are out of order")]
    Values,
}

/// What a message says of the life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) node: NodeId,
    /// Identifies the process: differs from start to start.
    pub(super) generation: u64,
    /// Grows for as long as the process lives.
    pub(super) heartbeat: u64,
    /// About the sender: the version of its values. About the receiver: the version that the sender has of them.
    pub(super) version: u64,
}

/// One value that a node publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: String,
    pub(super) value: String,
    /// Versions grow by one with each change of a value.
    pub(super) version: u64,
}

/// What a node publishes of itself, in order of the versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) generation: u64,
    pub(super) values: Vec<Value>,
}

/// A gossip message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Begins an exchange.
    Syn { entries: Vec<Entry> },
    /// Answers [`Self::Syn`].
    SynAck { entries: Vec<Entry>, published: Option<Published> },
    /// Ends an exchange. Sent only if there is something in it.
    Ack { published: Option<Published> },
}

/// Bytes that a message may have.
pub(super) fn max_len() -> usize {
    usize::try_from(Hello::Gossip.cap()).unwrap_or(usize::MAX)
}

/// The address that stands for a node in messages: it holds the number, and nobody sends to it.
pub(super) fn addr_of(node: NodeId) -> SocketAddr {
    (Ipv6Addr::from(u128::from(node.number())), 1).into()
}

/// The node that an address stands for.
pub(super) fn node_at(addr: SocketAddr) -> Option<NodeId> {
    match addr {
        SocketAddr::V6(addr) => u64::try_from(u128::from(*addr.ip())).ok().map(NodeId::new),
        SocketAddr::V4(_) => None,
    }
}

/// Bytes of the entry about a node in a message.
pub(super) fn entry_len(node: NodeId) -> usize {
    // Length and text of the id, generation, kind and bytes of the address, port, three versions.
    2 + node.to_string().len() + 8 + 17 + 2 + 3 * 8
}

impl Message {
    /// Reads a message of `from`. Cost: one pass. Second: entries that were left out because they name no node, or a
    /// node with the address of another.
    pub(super) fn decode(bytes: &[u8], from: NodeId, cluster: &str) -> Result<(Self, usize), Malformed> {
        if bytes.len() > max_len() {
            return Err(Malformed::TooLarge);
        }
        let mut input = Input(bytes);
        if input.take(START.len())? != START {
            return Err(Malformed::Format);
        }
        let (message, dropped) = match input.u8()? {
            SYN => {
                let (entries, dropped) = input.entries()?;
                if input.text()? != cluster.as_bytes() {
                    return Err(Malformed::Cluster);
                }
                (Self::Syn { entries }, dropped)
            }
            SYN_ACK => {
                let (entries, dropped) = input.entries()?;
                (Self::SynAck { entries, published: input.published(from)? }, dropped)
            }
            ACK => (Self::Ack { published: input.published(from)? }, 0),
            BAD_CLUSTER => return Err(Malformed::Cluster),
            _ => return Err(Malformed::Format),
        };
        if input.0.is_empty() { Ok((message, dropped)) } else { Err(Malformed::Length) }
    }

    /// Writes a message from `me` to `to`.
    pub(super) fn encode(&self, me: NodeId, to: NodeId, cluster: &str) -> Bytes {
        let mut out = Vec::from(START);
        match self {
            Self::Syn { entries } => {
                out.push(SYN);
                write_entries(&mut out, entries, &[me, to]);
                write_text(&mut out, cluster);
            }
            Self::SynAck { entries, published } => {
                out.push(SYN_ACK);
                write_entries(&mut out, entries, &[me, to]);
                write_published(&mut out, me, published.as_ref());
            }
            Self::Ack { published } => {
                out.push(ACK);
                write_published(&mut out, me, published.as_ref());
            }
        }
        out.into()
    }
}

fn write_entries(out: &mut Vec<u8>, entries: &[Entry], versioned: &[NodeId]) {
    // The bound holds by far: chitchat knows about a thousand processes.
    let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    out.extend(count.to_le_bytes());
    for entry in entries.iter().take(count.into()) {
        write_id(out, entry.node, entry.generation);
        out.extend(entry.heartbeat.to_le_bytes());
        // The version up to which deleted values are forgotten; nothing is deleted.
        out.extend(0_u64.to_le_bytes());
        let version = if versioned.contains(&entry.node) { entry.version } else { NOTHING_WANTED };
        out.extend(version.to_le_bytes());
    }
}

fn write_id(out: &mut Vec<u8>, node: NodeId, generation: u64) {
    write_text(out, &node.to_string());
    out.extend(generation.to_le_bytes());
    let addr = addr_of(node);
    match addr.ip() {
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
    }
    out.extend(addr.port().to_le_bytes());
}

/// Texts are ids and values within [`MAX_KEY`] and [`MAX_VALUE`]; longer ones would be cut.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(len.to_le_bytes());
    out.extend(text.bytes().take(len.into()));
}

fn write_published(out: &mut Vec<u8>, me: NodeId, published: Option<&Published>) {
    let mut records = Vec::new();
    if let Some(published) = published {
        records.push(NODE);
        write_id(&mut records, me, published.generation);
        // Deleted values are forgotten up to here, and all values after here are given.
        records.extend([0_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat());
        for value in &published.values {
            records.push(VALUE);
            write_text(&mut records, &value.key);
            write_text(&mut records, &value.value);
            records.extend(value.version.to_le_bytes());
            records.push(0);
        }
    }
    for block in records.chunks(BLOCK) {
        out.push(PLAIN);
        out.extend(u16::try_from(block.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend(block);
    }
    out.push(END);
}

/// What is left to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// A node and its generation; no node if its text is no id, or its address is not that of the id.
    fn id(&mut self) -> Result<(Option<NodeId>, u64), Malformed> {
        let node = node_of(self.text()?);
        let generation = self.u64()?;
        let ip = match self.u8()? {
            6 => IpAddr::from(self.array::<16>()?),
            4 => IpAddr::from(self.array::<4>()?),
            _ => return Err(Malformed::Format),
        };
        let addr = SocketAddr::new(ip, self.u16()?);
        Ok((node.filter(|node| addr_of(*node) == addr), generation))
    }

    fn entries(&mut self) -> Result<(Vec<Entry>, usize), Malformed> {
        let count = usize::from(self.u16()?);
        // An entry has 50 bytes at least, so an absurd count reserves nothing that the message does not have.
        let mut entries = Vec::with_capacity(count.min(self.0.len() / 50));
        for _ in 0..count {
            let (node, generation) = self.id()?;
            let (heartbeat, _, version) = (self.u64()?, self.u64()?, self.u64()?);
            entries.extend(node.map(|node| Entry { node, generation, heartbeat, version }));
        }
        let dropped = count - entries.len();
        Ok((entries, dropped))
    }

    /// What `from` publishes of itself. What it says of values of others is skipped.
    fn published(&mut self, from: NodeId) -> Result<Option<Published>, Malformed> {
        let mut records = Vec::new();
        let mut readable = true;
        loop {
            let kind = self.u8()?;
            if kind == END {
                break;
            }
            let block = self.text()?;
            match kind {
                PLAIN => records.extend_from_slice(block),
                COMPRESSED => readable = false,
                _ => return Err(Malformed::Format),
            }
        }
        if readable { published(&records, from) } else { Ok(None) }
    }
}

fn published(records: &[u8], from: NodeId) -> Result<Option<Published>, Malformed> {
    let mut input = Input(records);
    let mut found: Option<Published> = None;
    let mut of_sender = false;
    while !input.0.is_empty() {
        match input.u8()? {
            NODE => {
                let (node, generation) = input.id()?;
                let (_, _) = (input.u64()?, input.u64()?);
                of_sender = node == Some(from);
                if of_sender && found.replace(Published { generation, values: Vec::new() }).is_some() {
                    return Err(Malformed::Format);
                }
            }
            VALUE => {
                let (key, value, version) = (input.text()?, input.text()?, input.u64()?);
                // Whether it is deleted: no node deletes any.
                let deleted = input.u8()?;
                if let Some(published) = found.as_mut().filter(|_| of_sender && deleted == 0) {
                    let before = published.values.last().map_or(0, |value| value.version);
                    if version <= before || version >= VERSION_MAX {
                        return Err(Malformed::Values);
                    }
                    published.values.push(value_of(key, value, version)?);
                    if published.values.len() > MAX_VALUES {
                        return Err(Malformed::Values);
                    }
                }
            }
            VERSION => _ = input.u64()?,
            _ => return Err(Malformed::Format),
        }
    }
    Ok(found)
}

fn value_of(key: &[u8], value: &[u8], version: u64) -> Result<Value, Malformed> {
    if key.len() > MAX_KEY || value.len() > MAX_VALUE {
        return Err(Malformed::Values);
    }
    let text = |bytes: &[u8]| str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed::Format);
    Ok(Value { key: text(key)?, value: text(value)?, version })
}

/// Reads `n42`. None for anything else, other spellings of the number included.
fn node_of(text: &[u8]) -> Option<NodeId> {
    let digits = text.strip_prefix(b"n")?;
    let canonical = digits == b"0" || !digits.starts_with(b"0");
    if !canonical || digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits
        .iter()
        .try_fold(0_u64, |number, digit| {
            let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
            number.checked_mul(10)?.checked_add(digit.into())
        })
        .map(NodeId::new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: &str = "cluster";

    fn entry(node: u64, version: u64) -> Entry {
        Entry { node: NodeId::new(node), generation: 5, heartbeat: 6, version }
    }

    fn published() -> Published {
        let value = |key: &str, version| Value { key: key.into(), value: "v".repeat(1000), version };
        Published { generation: 5, values: vec![value("one", 1), value("two", 3)] }
    }

    fn messages() -> [Message; 3] {
        let entries = vec![entry(1, 7), entry(2, 8), entry(u64::MAX, NOTHING_WANTED)];
        [
            Message::Syn { entries: entries.clone() },
            Message::SynAck { entries, published: Some(published()) },
            Message::Ack { published: Some(published()) },
        ]
    }

    fn decode(bytes: &[u8]) -> Result<(Message, usize), Malformed> {
        Message::decode(bytes, NodeId::new(1), CLUSTER)
    }

    #[test]
    fn what_is_written_is_read() {
        for message in messages() {
            let bytes = message.encode(NodeId::new(1), NodeId::new(2), CLUSTER);
            assert_eq!(decode(&bytes), Ok((message, 0)));
        }
        let nothing = Message::Ack { published: None }.encode(NodeId::new(1), NodeId::new(2), CLUSTER);
        assert_eq!(decode(&nothing), Ok((Message::Ack { published: None }, 0)));
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        for message in messages() {
            let bytes = message.encode(NodeId::new(1), NodeId::new(2), CLUSTER);
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{len} bytes of {message:?}");
            }
            assert_eq!(decode(&[&bytes, &b"x"[..]].concat()), Err(Malformed::Length));
        }
    }

    #[test]
    fn values_of_third_nodes_are_not_asked_for() {
        let message = Message::Syn { entries: vec![entry(1, 7), entry(2, 8), entry(3, 9)] };
        let bytes = message.encode(NodeId::new(1), NodeId::new(2), CLUSTER);
        let versions = Message::Syn { entries: vec![entry(1, 7), entry(2, 8), entry(3, NOTHING_WANTED)] };
        assert_eq!(decode(&bytes), Ok((versions, 0)));
    }

    #[test]
    fn other_clusters_are_refused() {
        let bytes = messages()[0].encode(NodeId::new(1), NodeId::new(2), "another");
        assert_eq!(decode(&bytes), Err(Malformed::Cluster));
        assert_eq!(decode(&[&START[..], &[BAD_CLUSTER]].concat()), Err(Malformed::Cluster));
    }

    #[test]
    fn ids_have_one_spelling() {
        for (text, number) in [("n0", Some(0)), ("n42", Some(42)), ("n18446744073709551615", Some(u64::MAX))]
        {
            assert_eq!(node_of(text.as_bytes()), number.map(NodeId::new), "{text}");
        }
        for text in
            ["", "n", "42", "n042", "n00", "n-1", "n+1", "n1 ", "n18446744073709551616", "n1\u{0}", "N1"]
        {
            assert_eq!(node_of(text.as_bytes()), None, "{text:?}");
        }
    }

    /// A message with one entry, written by hand.
    fn syn_about(id: &str, addr: SocketAddr) -> Vec<u8> {
        let mut out = [&START[..], &[SYN, 1, 0]].concat();
        write_text(&mut out, id);
        out.extend(1_u64.to_le_bytes());
        match addr.ip() {
            IpAddr::V4(ip) => out.extend([&[4][..], &ip.octets()].concat()),
            IpAddr::V6(ip) => out.extend([&[6][..], &ip.octets()].concat()),
        }
        out.extend(addr.port().to_le_bytes());
        out.extend([0; 24]);
        write_text(&mut out, CLUSTER);
        out
    }

    #[test]
    fn entries_about_no_node_are_left_out() {
        let node = NodeId::new(7);
        let right = decode(&syn_about("n7", addr_of(node))).unwrap();
        assert!(matches!(right, (Message::Syn { entries }, 0) if entries.len() == 1));
        let long = "x".repeat(65_000);
        let forged: [(&str, SocketAddr); 5] = [
            ("n7", addr_of(NodeId::new(8))),
            ("n7", ([127, 0, 0, 1], 1).into()),
            ("n7", (Ipv6Addr::from(7_u128), 2).into()),
            ("", addr_of(node)),
            (&long, addr_of(node)),
        ];
        for (id, addr) in forged {
            let nothing = Message::Syn { entries: Vec::new() };
            assert_eq!(decode(&syn_about(id, addr)), Ok((nothing, 1)), "{addr}");
        }
    }

    #[test]
    fn a_compressed_block_is_never_unpacked() {
        let mut bomb = [&START[..], &[ACK]].concat();
        // 14 bytes of zstd that unpack to 64 KiB.
        let block = [COMPRESSED, 11, 0, 0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xff, 0xfe, 0xfb, 0xff, 0x07, 0x00];
        while bomb.len() + block.len() < max_len() {
            bomb.extend(block);
        }
        bomb.push(END);
        assert_eq!(decode(&bomb), Ok((Message::Ack { published: None }, 0)));
        bomb.resize(max_len() + 1, END);
        assert_eq!(decode(&bomb), Err(Malformed::TooLarge));
    }

    #[test]
    fn values_are_counted_and_measured() {
        let say = |values: Vec<Value>| {
            let published = Some(Published { generation: 1, values });
            decode(&Message::Ack { published }.encode(NodeId::new(1), NodeId::new(2), CLUSTER))
        };
        let value = |key: usize, value: usize, version| Value {
            key: "k".repeat(key),
            value: "v".repeat(value),
            version,
        };
        let most: Vec<_> = (1..=MAX_VALUES).map(|n| value(MAX_KEY, MAX_VALUE, n as u64)).collect();
        assert!(say(most.clone()).is_ok());
        assert_eq!(say([most, vec![value(1, 1, 99)]].concat()), Err(Malformed::Values));
        assert_eq!(say(vec![value(MAX_KEY + 1, 1, 1)]), Err(Malformed::Values));
        assert_eq!(say(vec![value(1, MAX_VALUE + 1, 1)]), Err(Malformed::Values));
    }

    #[test]
    fn values_of_others_are_skipped() {
        let bytes =
            Message::Ack { published: Some(published()) }.encode(NodeId::new(3), NodeId::new(2), CLUSTER);
        assert_eq!(decode(&bytes), Ok((Message::Ack { published: None }, 0)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0_u8..5) {
            let _ = decode(&bytes);
            let _ = decode(&[&START[..], &[kind], &bytes].concat());
        }

        #[test]
        fn changed_messages_are_read_or_refused(which in 0_usize..3, at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = messages()[which].encode(NodeId::new(1), NodeId::new(2), CLUSTER).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok((message, _)) = decode(&bytes) {
                let again = message.encode(NodeId::new(1), NodeId::new(2), CLUSTER);
                prop_assert!(again.len() <= bytes.len());
            }
        }
    }
}
