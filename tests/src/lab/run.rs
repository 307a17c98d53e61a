//! A lab as a whole: up, open, down.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum as _;
use rustix::fs::{FlockOperation, flock};

use super::{
    clean::clear,
    disk,
    engine::EngineKind,
    host::{Host, boot_switch},
    net::{SWITCH, Subnet},
    place::{LabId, Place},
    record::{HostRecord, Process, Record},
};

/// The name of the outside client among the hosts.
pub const CLIENT: &str = "client";
/// Addresses of hosts end at 10.99.x.254.
const MOST_HOSTS: u8 = 200;
const TOOL: &str = "raftup-lab";
const PROGRAMS: [&str; 3] = ["raftupd", "raftup", TOOL];

/// What kind of lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// A lab with the same id that is still there is taken away first.
    pub id: LabId,
    /// How many hosts with an engine, `h1` and up.
    pub hosts: u8,
    /// Their engines.
    pub engine: EngineKind,
    /// Whether `raftupd` is started; it is looked for beside the `raftup-lab` program.
    pub daemon: bool,
    /// Whether containers outlive their engine. Docker Swarm refuses engines that let them.
    pub live_restore: bool,
}

impl Options {
    /// Hosts with `raftupd` and the machine's own engine, or the kind that the variable `RAFTUP_LAB_ENGINE` names.
    ///
    /// Errors: the id is none, or the variable names no kind.
    pub fn new(id: &str, hosts: u8) -> anyhow::Result<Self> {
        let engine = match env::var("RAFTUP_LAB_ENGINE") {
            Ok(name) if !name.is_empty() => EngineKind::from_str(&name, false)
                .map_err(|why| anyhow::anyhow!("RAFTUP_LAB_ENGINE: {why}"))?,
            Ok(_) | Err(_) => EngineKind::Debian,
        };
        Ok(Self { id: id.parse()?, hosts, engine, daemon: true, live_restore: true })
    }
}

/// What all hosts of a lab know.
pub(crate) struct Shared {
    pub(crate) place: Place,
    pub(crate) record: Record,
}

impl Shared {
    pub(crate) fn subnet(&self) -> Subnet {
        Subnet(self.record.subnet)
    }

    pub(crate) fn switch(&self) -> anyhow::Result<Process> {
        Process::read(&self.place.host(SWITCH).init_pid()).context("the lab has no switch")
    }

    pub(crate) fn has_daemon(&self) -> bool {
        self.record.daemon
    }
}

/// A lab that is up. Dropped, it is taken down, also by a panic, unless it was opened or [kept](Lab::keep).
pub struct Lab {
    shared: Arc<Shared>,
    hosts: BTreeMap<String, Host>,
    client: Host,
    owned: bool,
    /// Held against another run with the same id.
    _lock: Option<File>,
}

impl Lab {
    /// Brings a lab up; about four seconds for three hosts once images and disks are in the cache.
    ///
    /// Errors: no root, no engine on the machine, a program that is missing, or the lab is in use by a process
    /// that runs. What an earlier run left under this id is no error.
    pub fn up(options: &Options) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the lab needs root: it makes namespaces and mounts");
        ensure!(options.hosts <= MOST_HOSTS, "a lab has at most {MOST_HOSTS} hosts");
        let place = Place::new(&options.id);
        fs::create_dir_all(place.base()).with_context(|| format!("making {}", place.base().display()))?;
        let lock = lock(&place)?;
        clear(&place)?;
        let tool = tool()?;
        let mut templates = BTreeMap::new();
        for index in 0..usize::from(options.hosts) {
            let kind = options.engine.of_host(index);
            if let Entry::Vacant(place) = templates.entry(kind.to_string()) {
                place.insert(disk::template(kind, &tool)?);
            }
        }
        let shared = Arc::new(Shared { record: record(options, &place)?, place });
        shared.place_programs(&tool)?;
        shared.record.save(&shared.place)?;
        let lab = Self::with(shared, Some(lock));
        boot_switch(&lab.shared)?;
        lab.client.power_on()?;
        lab.boot_hosts(&templates)?;
        Ok(lab)
    }

    fn boot_hosts(&self, templates: &BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
        thread::scope(|scope| {
            let boots: Vec<_> = self
                .hosts
                .values()
                .map(|host| {
                    scope.spawn(|| {
                        let kind = host.engine.map(|kind| kind.to_string()).unwrap_or_default();
                        let template = templates.get(&kind).context("no disk for this engine")?;
                        fs::create_dir_all(host.files().dir)?;
                        disk::copy(template, &host.files())?;
                        host.power_on().with_context(|| format!("host {}", host.name()))
                    })
                })
                .collect();
            for boot in boots {
                match boot.join() {
                    Ok(result) => result?,
                    Err(_) => bail!("a host's start panicked"),
                }
            }
            Ok(())
        })
    }

    /// A handle on a lab that another process brought up; dropping it leaves the lab alone.
    pub fn open(id: &LabId) -> anyhow::Result<Self> {
        let place = Place::new(id);
        let record = Record::load(&place)?;
        Ok(Self::with(Arc::new(Shared { place, record }), None))
    }

    fn with(shared: Arc<Shared>, lock: Option<File>) -> Self {
        let hosts = shared.record.hosts.iter();
        let hosts = hosts.map(|record| (record.name.clone(), Host::new(&shared, record))).collect();
        let addr = shared.subnet().client();
        let client = Host { shared: shared.clone(), name: CLIENT.into(), addr, engine: None };
        Self { shared, hosts, client, owned: lock.is_some(), _lock: lock }
    }

    /// Takes a lab down, with whatever is left of it. Errors: a process that runs is using it.
    pub fn down(id: &LabId) -> anyhow::Result<()> {
        let place = Place::new(id);
        if !place.base().exists() {
            return Ok(());
        }
        let lock = lock(&place)?;
        clear(&place)?;
        fs::remove_file(place.lock_file()).context("removing the lab's lock")?;
        drop(lock);
        // Goes with the last of the labs.
        let _ = fs::remove_dir(place.base());
        Ok(())
    }

    /// Leaves the lab up when this handle is dropped.
    pub fn keep(mut self) {
        self.owned = false;
    }

    /// The host of that name, `h1` and up, or the client.
    ///
    /// Panics: there is none. A test that names a host that it did not ask for is wrong.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        match self.find(name) {
            Ok(host) => host,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`host`](Self::host), for names that a person typed.
    pub fn find(&self, name: &str) -> anyhow::Result<&Host> {
        if name == CLIENT {
            return Ok(&self.client);
        }
        let known = || self.hosts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.hosts.get(name).with_context(|| format!("no host `{name}`; there are {}, client", known()))
    }

    /// All hosts with an engine, in order.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// The namespace on the same bridge that is not part of the cluster.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The `raftup-lab` program that this lab runs on; the client has it under the same path.
    #[must_use]
    pub fn tool(&self) -> &Path {
        &self.shared.record.tool
    }

    /// A directory that all hosts and the machine see under the same path.
    #[must_use]
    pub fn share(&self) -> PathBuf {
        self.shared.place.share()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Err(error) = clear(&self.shared.place) {
            eprintln!("lab: {error:#}; `raftup-lab --id {} down` tries again", self.shared.place.id);
        }
        // The lock is still held, so nobody else uses this file.
        let _ = fs::remove_file(self.shared.place.lock_file());
    }
}

impl Shared {
    /// Copies our programs into the lab's directory.
    fn place_programs(&self, tool: &Path) -> anyhow::Result<()> {
        let Self { place, record } = self;
        for dir in [place.bin(), place.share()] {
            fs::create_dir_all(dir)?;
        }
        let built = tool.parent().context("the lab's program is in no directory")?;
        for program in PROGRAMS {
            let from = built.join(program);
            if from.exists() {
                fs::copy(&from, place.bin().join(program))?;
            } else {
                ensure!(!record.daemon, "no {} to run; build the workspace first", from.display());
            }
        }
        Ok(())
    }
}

fn record(options: &Options, place: &Place) -> anyhow::Result<Record> {
    fs::create_dir_all(place.dir())?;
    let subnet = free_subnet(place)?;
    let hosts = (1..=options.hosts)
        .map(|number| HostRecord {
            name: format!("h{number}"),
            addr: Subnet(subnet).host(number),
            engine: options.engine.of_host(usize::from(number) - 1),
        })
        .collect();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
    let tool = place.bin().join(TOOL);
    let (daemon, live_restore) = (options.daemon, options.live_restore);
    Ok(Record { subnet, hosts, tool, binds: vec![sources.to_owned()], daemon, live_restore })
}

/// A third octet that no other lab of this machine has.
fn free_subnet(place: &Place) -> anyhow::Result<u8> {
    // One lab at a time looks and takes, or two would take the same.
    let guard = File::open(place.base())?;
    flock(&guard, FlockOperation::LockExclusive)?;
    let mut taken = Vec::new();
    for entry in fs::read_dir(place.base())?.flatten() {
        let number = fs::read_to_string(entry.path().join("subnet")).ok();
        taken.extend(number.and_then(|text| text.trim().parse::<u8>().ok()));
    }
    let wanted = place.id.to_string().bytes().fold(7u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    let free = (0..=u8::MAX).map(|step| wanted.wrapping_add(step)).find(|octet| !taken.contains(octet));
    let free = free.context("no network is left for another lab")?;
    fs::write(place.dir().join("subnet"), free.to_string())?;
    Ok(free)
}

/// Takes the lab's lock, which a test holds for as long as it uses its lab.
fn lock(place: &Place) -> anyhow::Result<File> {
    let file = File::create(place.lock_file()).context("creating the lab's lock")?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("lab `{}` is in use by a process that runs", place.id))?;
    Ok(file)
}

/// The `raftup-lab` program: this one, or the one beside the test that runs.
fn tool() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the own program")?;
    if own.file_name().is_some_and(|name| name == TOOL) {
        return Ok(own);
    }
    let dirs = own.ancestors().skip(1).take(3);
    let found = dirs.map(|dir| dir.join(TOOL)).find(|path| path.is_file());
    found.context("no raftup-lab beside this program; run `cargo build -p raftup-tests --bins` first")
}
