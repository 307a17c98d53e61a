//! `raftupd names` and `raftupd fabric` as processes: what they may do, and that they work with it. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do: by panicking")]

use std::{
    fs,
    io::{BufRead, BufReader, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use raftup_daemon::unix_socket;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

const NOBODY: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(10);

/// A helper process; it ends with the test.
struct Helper {
    child: Child,
    socket: PathBuf,
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Helper {
    /// `part` of raftupd, as its daemon starts it, by way of the programs in `through`.
    fn start(dir: &Path, name: &str, through: &[&str], part: &str) -> Self {
        let socket = dir.join(name);
        let listener = unix_socket::listen(&socket, 0o600, None).unwrap();
        let mut argv = through.to_vec();
        argv.extend([env!("CARGO_BIN_EXE_raftupd"), part]);
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).current_dir("/").stdin(Stdio::from(OwnedFd::from(listener)));
        Self { child: command.spawn().unwrap(), socket }
    }

    /// A connection to it, and its greeting.
    fn greet(&self) -> Daemon {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut daemon = Daemon { lines: BufReader::new(stream.try_clone().unwrap()), stream };
        assert!(daemon.hear().contains("Hello"));
        daemon
    }

    /// Waits for its end.
    fn end(&mut self) {
        let begun = std::time::Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it ends");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// No thread of it may do anything that a user without rights may not, and nobody gets at its memory.
    fn has_no_rights(&self) {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let threads: Vec<_> = fs::read_dir(proc.join("task")).unwrap().collect();
        for thread in &threads {
            let status = fs::read_to_string(thread.as_ref().unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
                line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
            };
            for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities}\n{status}");
            }
            assert_eq!(field("NoNewPrivs"), ["1"], "{status}");
            for ids in ["Uid", "Gid"] {
                assert_eq!(field(ids), [NOBODY.to_string().as_str(); 4], "{ids}\n{status}");
            }
            assert_eq!(field("Groups"), [""; 0], "{status}");
        }
        let limits = fs::read_to_string(proc.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{limits}");
        // What of a process can be dumped belongs to its user; else to root.
        assert_eq!(fs::metadata(proc.join("environ")).unwrap().uid(), 0);
    }
}

/// The other end of a helper's socket.
struct Daemon {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Daemon {
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, order: &str) -> String {
        (&self.stream).write_all(format!("{order}\n").as_bytes()).unwrap();
        self.hear()
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn the_resolver_works_without_rights_and_hands_its_sockets_on() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut names = Helper::start(dir.path(), "names.sock", &["env"], "names");
    let mut daemon = names.greet();
    names.has_no_rights();
    let set = r#"{"Set":{"pool":"127.0.0.0/8","gateways":["127.0.0.1"],"own":{},
        "update":{"base":null,"generation":1,"put":[],"remove":[]}}}"#;
    assert_eq!(daemon.ask(&set.replace('\n', "")), r#"{"Done":["127.0.0.1"]}"#, "sockets are missing");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = udp.local_addr().unwrap();
    assert_eq!(daemon.ask(r#""Adopt""#), r#""Ready""#);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let fds = [udp.as_fd(), tcp.as_fd()];
    assert!(beside.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&daemon.stream, &[IoSlice::new(&[127, 0, 0, 1])], &mut beside, SendFlags::NOSIGNAL).unwrap();
    (&daemon.stream).write_all(&[0; 4]).unwrap();
    assert_eq!(daemon.hear(), r#"{"Done":[]}"#);
    drop((udp, tcp));
    let ask = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x00\x00\x01\x00\x01", at).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        assert!(
            length > 12 && buffer[..2] == *b"\x12\x34" && buffer[2] & 0x80 != 0,
            "{:?}",
            &buffer[..length]
        );
    };
    ask();
    names.has_no_rights();
    assert_eq!(daemon.ask(&set.replace('\n', "")), r#"{"Done":[]}"#, "it has the sockets");

    // As a daemon of another version takes them.
    (&daemon.stream).write_all(b"\"HandOver\"\n").unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut address = [0; 4];
    recvmsg(&daemon.stream, &mut [IoSliceMut::new(&mut address)], &mut beside, RecvFlags::CMSG_CLOEXEC)
        .unwrap();
    let taken: Vec<OwnedFd> =
        beside
            .drain()
            .flat_map(|message| {
                if let RecvAncillaryMessage::ScmRights(fds) = message { fds.collect() } else { Vec::new() }
            })
            .collect();
    assert_eq!((address, taken.len()), ([127, 0, 0, 1], 2));
    names.end();
}

#[test]
fn the_tunnel_works_without_rights_and_hands_device_and_socket_on() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // In a network of its own: the device has a fixed name. The second one shares it.
    let older = Helper::start(dir.path(), "older.sock", &["unshare", "--net"], "fabric");
    let key = data_encoding::BASE64.encode(&[7; 32]);
    let set = format!(
        r#"{{"Set":{{"listen":"0.0.0.0:7239","address":"10.64.0.1","keys":["{key}"],"alone":0,"peers":[]}}}}"#
    );
    let mut daemon = older.greet();
    assert_eq!(daemon.ask(r#""Status""#), r#"{"Links":[]}"#);
    assert_eq!(daemon.ask(&set), r#""Done""#);
    older.has_no_rights();
    assert_eq!(daemon.ask(r#""Status""#), r#"{"Links":[]}"#);
    // Whoever connects then is answered beside it.
    assert_eq!(older.greet().ask(&set), r#""Done""#);
    let pid = older.child.id().to_string();
    let newer = Helper::start(dir.path(), "newer.sock", &["nsenter", "--net", "-t", &pid, "--"], "fabric");
    let mut daemon = newer.greet();
    let take_over = format!(r#"{{"TakeOver":"{}"}}"#, older.socket.display());
    assert_eq!(daemon.ask(&take_over), r#""Done""#);
    newer.has_no_rights();
    assert_eq!(daemon.ask(&set), r#""Done""#);
}
