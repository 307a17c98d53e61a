//! A node becomes a member, and stops being one.
//!
//! Each step on disk is made so that a crash between two of them leaves a node that can be started: the identity is
//! written last when a node enters, and erased first when it leaves.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use raftup_proto::{
    api::{Finding, Init, Join, Leave},
    id::{ClusterId, NodeId},
    peer::{NodeInfo, Request, Role},
    refusal::{Code, Refusal},
    token::Token,
    unit::UnixMillis,
};
use tokio::sync::{Mutex, watch};
use tracing::{debug, info, warn};

use super::{
    clock::{self, Clock},
    doctor, host,
    member::{self, Running, Start},
    record::{ManagerRecord, Record},
    serve,
};
use crate::{
    agent,
    api::{Api, Lifecycle, Member},
    config::Config,
    control::tokens::Secrets,
    engine::Engine,
    fabric::wire::Keys,
    net::{
        CallError, Identity, Net,
        ca::{self, Authority, KeyRequest},
        join,
    },
    plan,
    secret::{self, Key},
};

/// What the sealed key of the authority is bound to.
pub(super) const CA_KEY_CONTEXT: &str = "ca-key";

/// The daemon on its host, in a cluster or not. Cheap to clone.
#[derive(Clone)]
pub(super) struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    engine: Arc<dyn Engine>,
    clock: Clock,
    /// Of the encrypted links; made at the first start.
    keys: watch::Sender<Keys>,
    api: OnceLock<Api>,
    /// The parts of a member. Held over each change, so that there is one at a time.
    running: Mutex<Option<Running>>,
    /// The same for readers, which must not wait for a change.
    member: std::sync::RwLock<Option<Arc<Member>>>,
}

impl Host {
    /// Errors: the keys cannot be read or made.
    pub(super) fn new(config: Config, engine: Arc<dyn Engine>) -> anyhow::Result<Self> {
        let keys = watch::Sender::new(Keys::load_or_make(&config.data_dir, ca::now())?);
        let inner = Inner {
            config,
            engine,
            clock: Clock::default(),
            keys,
            api: OnceLock::new(),
            running: Mutex::new(None),
            member: std::sync::RwLock::new(None),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn keys(&self) -> watch::Sender<Keys> {
        self.inner.keys.clone()
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.inner.config.run_dir.clone()
    }

    /// UDP ports of control and fabric.
    pub(super) fn ports(&self) -> [u16; 2] {
        [self.inner.config.listen.port(), self.inner.config.fabric_port]
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.inner.engine
    }

    /// What is wrong with the clock and the disk.
    fn troubles(&self) -> Vec<String> {
        let disk = doctor::disk::problem(&self.inner.config.data_dir);
        self.inner.clock.problem().into_iter().chain(disk).collect()
    }

    /// Looks at clock and disk now and then, and tells the cluster what is wrong. Never ends; drop it at any time.
    pub(super) async fn watch_host(&self) {
        loop {
            let troubles = self.troubles();
            if let Some(member) = Lifecycle::member(self) {
                member.agent.info().send_if_modified(|info| {
                    std::mem::replace(&mut info.troubles, troubles.clone()) != troubles
                });
            }
            tokio::time::sleep(clock::EVERY).await;
        }
    }

    pub(super) fn docker_socket(&self) -> PathBuf {
        self.inner.config.docker_socket.clone()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    pub(super) fn set_api(&self, api: Api) {
        // Set once, by `Node::run`; a second value would be the same.
        let _ = self.inner.api.set(api);
    }

    /// Takes its place again, if it had one.
    pub(super) async fn resume(&self) -> anyhow::Result<()> {
        let dir = &self.inner.config.data_dir;
        let Some(identity) = Identity::load(dir)? else {
            info!("in no cluster; waiting for `raftup init` or `raftup join`");
            return Ok(());
        };
        let record = Record::load(dir)?.with_context(|| {
            format!(
                "`{}` has an identity but no record; `raftup leave --force` and join again",
                dir.display()
            )
        })?;
        let net =
            Net::bind(self.inner.config.listen).with_context(|| listen_failed(self.inner.config.listen))?;
        let record = match self.inner.config.advertise {
            Some(advertise) => Record { advertise, named: true, ..record },
            None => record,
        };
        let info = self.describe(record.advertise).await;
        let start = Start { identity: Arc::new(identity), record, info, first: None, view: None };
        let mut running = self.inner.running.lock().await;
        *running = Some(Running::start(self.clone(), net, start).await?);
        Ok(())
    }

    /// Stops all parts of a member; containers and routing stay in force.
    pub(super) async fn stop(&self) {
        if let Some(running) = self.inner.running.lock().await.take() {
            running.stop().await;
        }
        self.show(None);
    }

    /// Does `work` on the running parts. Errors: this node is in no cluster.
    pub(super) async fn with_running<T>(
        &self,
        work: impl AsyncFnOnce(&Running) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let running = self.inner.running.lock().await;
        work(running.as_ref().context("this node is in no cluster")?).await
    }

    pub(super) fn show(&self, member: Option<Arc<Member>>) {
        *self.inner.member.write().unwrap_or_else(std::sync::PoisonError::into_inner) = member;
    }

    pub(super) fn api(&self) -> Option<&Api> {
        self.inner.api.get()
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.inner.config.data_dir.clone()
    }

    /// What this node says of itself; an engine that does not answer leaves its part empty.
    pub(super) async fn describe(&self, advertise: IpAddr) -> NodeInfo {
        let platform = agent::platform(self.engine().as_ref()).await;
        NodeInfo {
            hostname: host::hostname(),
            control: SocketAddr::new(advertise, self.inner.config.listen.port()),
            underlay: advertise,
            fabric_port: self.inner.config.fabric_port,
            fabric_keys: self.inner.keys.borrow().announced(ca::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            level: plan::level::NEWEST,
            platform,
            deaf: Vec::new(),
            troubles: Vec::new(),
        }
    }

    async fn check_engine(&self) -> Result<(), Refusal> {
        self.inner.engine.info().await.map(drop).map_err(|error| {
            let socket = self.inner.config.docker_socket.display();
            Refusal::new(Code::Unavailable, format!("Docker Engine does not answer at `{socket}`: {error:#}"))
                .hint("start it (`systemctl start docker`), or name its socket: `raftupd --docker-host unix://PATH`")
        })
    }

    fn bind(&self) -> Result<Net, Refusal> {
        Net::bind(self.inner.config.listen).map_err(|error| {
            Refusal::new(Code::Conflict, format!("{}: {error}", listen_failed(self.inner.config.listen)))
                .hint("stop the program that has the port (`ss -lunp`), or choose another: `raftupd --listen-addr`")
        })
    }

    fn refuse_member(&self) -> Result<(), Refusal> {
        let Some(member) = Lifecycle::member(self) else { return Ok(()) };
        let message = format!("this node is in cluster {} already, as {}", member.cluster, member.node);
        Err(Refusal::new(Code::Conflict, message)
            .hint("`raftup leave` first, if it should enter another one"))
    }

    /// Starts the parts and writes what lets them start again; undoes all of it if that fails.
    async fn enter(&self, net: Net, start: Start) -> Result<Running, Refusal> {
        let identity = Arc::clone(&start.identity);
        let record = start.record.clone();
        let dir = self.data_dir();
        let entered = async {
            record.save(&dir)?;
            let running = Running::start(self.clone(), net.clone(), start).await?;
            if let Err(error) = identity.save(&dir) {
                running.leave().await;
                return Err(error.into());
            }
            anyhow::Ok(running)
        };
        match entered.await {
            Ok(running) => Ok(running),
            Err(error) => {
                self.show(None);
                net.stop().await;
                erase(&dir);
                Err(Refusal::new(Code::Internal, format!("{error:#}"))
                    .hint("nothing was kept; see the daemon's log"))
            }
        }
    }

    /// Another cluster gets keys that this one never saw.
    fn forget_keys(&self) {
        let dir = self.data_dir();
        match Keys::erase(&dir).and_then(|()| Keys::load_or_make(&dir, ca::now())) {
            Ok(keys) => _ = self.inner.keys.send_replace(keys),
            Err(error) => warn!(error = format!("{error:#}"), "keys of the former membership stay"),
        }
    }

    /// Ends this node's membership here, whatever the cluster thinks of it.
    pub(super) async fn forget(&self) {
        if let Some(running) = self.inner.running.lock().await.take() {
            running.leave().await;
        }
        self.show(None);
        erase(&self.data_dir());
        self.forget_keys();
        info!("left the cluster");
    }
}

fn listen_failed(listen: SocketAddr) -> String {
    format!("UDP {listen} cannot be listened on")
}

fn erase(dir: &std::path::Path) {
    let erased = [Identity::erase(dir).map_err(anyhow::Error::from), Record::erase(dir), member::erase(dir)];
    for error in erased.into_iter().filter_map(Result::err) {
        warn!(error = format!("{error:#}"), "a file of the former membership stays");
    }
}

#[async_trait]
impl Lifecycle for Host {
    async fn init(&self, init: Init) -> Result<(), Refusal> {
        let host = self;
        let mut running = host.inner.running.lock().await;
        host.refuse_member()?;
        host.check_engine().await?;
        let pool = init.pool.unwrap_or(host::DEFAULT_POOL);
        host::check_pool(pool)?;
        let named = init.advertise.or(host.inner.config.advertise);
        let advertise = named.map_or_else(host::default_address, Ok)?;
        plan::nodes::check_underlay(init.fabric, false, advertise)?;
        doctor::unfit(Some(init.fabric), advertise).await?;

        let cluster = ClusterId::from_random(rand::random());
        let now = ca::now();
        let node = plan::init::FIRST_NODE;
        let internal = |error: anyhow::Error| Refusal::new(Code::Internal, format!("{error:#}"));
        let authority = Authority::new(cluster, now).map_err(|error| internal(error.into()))?;
        let identity = first_identity(&authority, node, now).map_err(internal)?;
        let key_bytes: [u8; 32] = rand::random();
        let key = Key::from_bytes(key_bytes);
        let info = host.describe(advertise).await;
        let first = plan::init::First {
            id: cluster,
            pool,
            managers: init.managers,
            fabric: init.fabric,
            ca_certificate: authority.certificate().to_vec(),
            ca_key_sealed: secret::seal(&key, CA_KEY_CONTEXT, authority.key()),
            tokens: Secrets::random().hashes(&key),
            info: info.clone(),
        };
        let first = plan::init::cluster(first, now)?;
        let record = Record {
            advertise,
            named: named.is_some(),
            manager: Some(ManagerRecord { member: plan::init::FIRST_MEMBER, key: key_bytes }),
        };
        let start = Start { identity: Arc::new(identity), record, info, first: Some(first), view: None };
        *running = Some(host.enter(host.bind()?, start).await?);
        info!(%cluster, "made a cluster");
        Ok(())
    }

    async fn join(&self, join: Join) -> Result<(), Refusal> {
        let host = self;
        let mut running = host.inner.running.lock().await;
        host.refuse_member()?;
        let token: Token = join.token.expose().parse()?;
        host.check_engine().await?;
        let managers = if join.via.is_empty() { token.managers.clone() } else { join.via };
        let named = join.advertise.or(host.inner.config.advertise);
        let advertise = named.map_or_else(|| towards_first(&managers), Ok)?;
        doctor::unfit(None, advertise).await?;
        let net = host.bind()?;
        let info = host.describe(advertise).await;
        let (identity, admission) = match join::ask(&net, &token, &managers, info.clone()).await {
            Ok(admitted) => admitted,
            Err(refusal) => {
                net.stop().await;
                return Err(refusal);
            }
        };
        let node = admission.node;
        let record = Record { advertise, named: named.is_some(), manager: None };
        let start =
            Start { identity: Arc::new(identity), record, info, first: None, view: Some(admission.view) };
        *running = Some(host.enter(net, start).await?);
        info!(%node, "joined the cluster");
        Ok(())
    }

    async fn leave(&self, leave: Leave) -> Result<(), Refusal> {
        let Some(member) = Lifecycle::member(self) else {
            if leave.force {
                erase(&self.data_dir());
                return Ok(());
            }
            return Err(Refusal::no_cluster());
        };
        let asked = ask_to_leave(&member).await;
        match asked {
            Ok(()) => {}
            Err(refusal) if leave.force => warn!(error = %refusal, "leaving without the cluster's word"),
            Err(refusal) => return Err(refusal),
        }
        self.forget().await;
        Ok(())
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.inner.member.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn problems(&self) -> Vec<String> {
        let running = self.inner.running.try_lock().ok();
        let of_member = running.and_then(|running| running.as_ref().map(Running::problems));
        let mut problems = of_member.unwrap_or_default();
        problems.extend(self.troubles());
        problems
    }

    async fn examine(&self) -> Vec<Finding> {
        doctor::round(self).await
    }
}

fn first_identity(authority: &Authority, node: NodeId, now: UnixMillis) -> anyhow::Result<Identity> {
    let KeyRequest { key, csr } = KeyRequest::generate()?;
    let certificate = authority.issue(&csr, node, Role::Manager, now)?;
    Ok(Identity::new(certificate, authority.certificate().to_vec(), key)?)
}

/// The address that this host has on its way to the first manager of the token.
fn towards_first(managers: &[SocketAddr]) -> Result<IpAddr, Refusal> {
    let no_way = || {
        Refusal::new(Code::Unavailable, "no manager that the token names can be reached from here")
            .hint("check the network, or name one that can be: `--via ADDR:PORT`")
    };
    managers.iter().find_map(|manager| host::address_towards(*manager).ok()).ok_or_else(no_way)
}

/// How long a cluster may take to let a node go: it may have to choose another manager first.
const LEAVE_LIMIT: Duration = Duration::from_secs(30);

/// Pause before a leader that could not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Asks the leader until it says yes or no; on the leader itself, hands leadership over first.
async fn ask_to_leave(member: &Member) -> Result<(), Refusal> {
    let mut leader = member.leader.clone();
    let ask = async {
        loop {
            let known = *leader.borrow_and_update();
            match (member.leading(), known) {
                (Some(manager), _) => serve::let_go_of_leader(&manager, member.node).await?,
                (None, Some(peer)) => match member.net.call(peer, Request::Leave).await {
                    Ok(_) => return Ok(()),
                    Err(CallError::Refused(refusal)) if refusal.code != Code::Unavailable => {
                        return Err(refusal);
                    }
                    Err(CallError::Unreachable(error)) if error.is_final() => return Err(error.refusal()),
                    Err(error) => debug!(error = %error, "asking to leave again"),
                },
                (None, None) => {}
            }
            // A leader may be known before it leads, and one that is busy says so: it is asked again, without news as well.
            match tokio::time::timeout(ASK_AGAIN, leader.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return Err(Refusal::no_cluster()),
            }
        }
    };
    tokio::time::timeout(LEAVE_LIMIT, ask).await.unwrap_or_else(|_| {
        Err(Refusal::new(Code::Unavailable, "no manager let this node go in time")
            .hint("try again, or leave without the cluster's word: `raftup leave --force`, then `raftup node rm` there"))
    })
}
