//! Who may ask what, and one question with its answer.

use std::time::Duration;

use raftup_proto::{
    peer::{Answer, Hello, Reply, Request, Role},
    refusal::{Code, Refusal},
};
use tokio::time::timeout;

use super::{
    Caller, FrameError, Net, NetError, Peer, Stream,
    error::CallError,
    serve::{GREETING_TIME, Server},
};

/// How long a question may take, the dial included.
const CALL_TIME: Duration = Duration::from_secs(5);

/// How long a node may work on an answer before the caller is told that it takes too long. More than [`CALL_TIME`],
/// for callers that set their own.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// How long a caller may take to take in an answer.
const TAKING_TIME: Duration = Duration::from_secs(30);

/// Most bytes of a question; the largest has a signing request in it.
const REQUEST_CAP: u64 = 64 << 10;

/// Whether a caller may open a stream of the kind; `role` is none without a certificate.
pub fn allowed(hello: &Hello, role: Option<Role>) -> bool {
    match (hello, role) {
        (Hello::Join, None) => true,
        // Managers alone say where a request came from.
        (Hello::ForwardedJoin { .. }, role) => role == Some(Role::Manager),
        (Hello::Rpc | Hello::Session | Hello::Gossip, Some(Role::Manager | Role::Worker)) => true,
        (Hello::Raft | Hello::Api, Some(Role::Manager)) => true,
        (Hello::Join, Some(Role::Manager | Role::Worker)) => false,
        (Hello::Raft | Hello::Api, Some(Role::Worker)) => false,
        (Hello::Rpc | Hello::Session | Hello::Gossip | Hello::Raft | Hello::Api, None) => false,
    }
}

/// Whether a caller may ask; which node it asks about or for is for the one who answers to check.
pub fn allowed_request(request: &Request, role: Role) -> bool {
    match request {
        Request::Renew { .. }
        | Request::Leave
        | Request::Credential { .. }
        | Request::Blob { .. }
        | Request::Examine => true,
        Request::Probe { .. } | Request::BecomeManager { .. } | Request::LeaveManagers { .. } => {
            role == Role::Manager
        }
    }
}

impl Net {
    /// Asks a node one question and waits for the answer, a few seconds at most.
    ///
    /// Errors: the node was not reached or did not answer in time (it may have acted all the same), or it refused.
    pub async fn call(&self, peer: Peer, request: Request) -> Result<Reply, CallError> {
        self.call_within(CALL_TIME, peer, request).await
    }

    /// As [`Net::call`], with its own limit of time.
    pub async fn call_within(
        &self,
        limit: Duration,
        peer: Peer,
        request: Request,
    ) -> Result<Reply, CallError> {
        match timeout(limit, ask(self, peer, &request)).await {
            Ok(answer) => Ok(answer??),
            Err(_) => {
                let message = format!("no answer within {limit:?}");
                Err(NetError::Lost { addr: peer.addr, message }.into())
            }
        }
    }
}

impl Net {
    /// Whether the node answers within `limit`. A refusal is an answer too: only managers may ask to probe.
    pub async fn answers(&self, limit: Duration, peer: Peer) -> Result<(), NetError> {
        let itself = Request::Probe { about: peer.node, at: peer.addr };
        match self.call_within(limit, peer, itself).await {
            Ok(_) | Err(CallError::Refused(_)) => Ok(()),
            Err(CallError::Unreachable(error)) => Err(error),
        }
    }
}

async fn ask(net: &Net, peer: Peer, request: &Request) -> Result<Answer, NetError> {
    let lost = |error: FrameError| NetError::Lost { addr: peer.addr, message: error.to_string() };
    let cap = Hello::Rpc.cap();
    let mut stream = net.open(peer, Hello::Rpc).await?;
    stream.write_frame(request, cap).await.map_err(lost)?;
    stream.send.finish().await.map_err(lost)?;
    stream.read_frame(cap).await.map_err(lost)
}

/// Answers the one question of a stream.
pub(super) async fn answer(server: &Server, caller: Caller, mut stream: Stream) -> Result<(), FrameError> {
    let request: Request = stream.read_frame_within(GREETING_TIME, REQUEST_CAP).await?;
    let answer = if allowed_request(&request, caller.role) {
        let answer = timeout(ANSWER_TIME, server.serve.rpc(caller, request)).await;
        answer.unwrap_or_else(|_| Err(Refusal::new(Code::Unavailable, "the answer takes too long")))
    } else {
        Err(Refusal::new(Code::Forbidden, format!("a {} may not ask this", caller.role)))
    };
    let say = async {
        stream.write_frame(&answer, Hello::Rpc.cap()).await?;
        stream.send.finish().await
    };
    let late = |_| FrameError::Lost { reason: format!("the answer was not taken within {TAKING_TIME:?}") };
    timeout(TAKING_TIME, say).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use raftup_proto::id::{BlobId, NodeId, TaskId};

    use super::*;

    /// All kinds and requests by role, cell by cell.
    #[test]
    fn table() {
        let from = ([127, 0, 0, 1], 1).into();
        let hellos = [
            Hello::Join,
            Hello::ForwardedJoin { from },
            Hello::Rpc,
            Hello::Session,
            Hello::Gossip,
            Hello::Raft,
            Hello::Api,
        ];
        let requests = [
            Request::Probe { about: NodeId::new(1), at: from },
            Request::Renew { csr: Vec::new() },
            Request::BecomeManager { term: 1, member: 1, key: [0; 32].into() },
            Request::LeaveManagers { term: 1, member: 1 },
            Request::Leave,
            Request::Credential { task: TaskId::from_random(1) },
            Request::Examine,
            Request::Blob { task: TaskId::from_random(1), blob: BlobId::from_random(1) },
        ];
        let yes = |allowed| if allowed { "yes" } else { "-" };
        let word = |value: &dyn std::fmt::Debug| {
            let text = format!("{value:?}");
            text.split([' ', '(']).next().unwrap_or_default().to_owned()
        };
        let mut table = format!("{:<16}{:<9}{:<9}nobody\n", "", "manager", "worker");
        for hello in hellos {
            let [m, w, n] =
                [Some(Role::Manager), Some(Role::Worker), None].map(|role| yes(allowed(&hello, role)));
            table += &format!("{:<16}{m:<9}{w:<9}{n}\n", word(&hello));
        }
        for request in requests {
            let [m, w] = [Role::Manager, Role::Worker].map(|role| yes(allowed_request(&request, role)));
            table += &format!("{:<16}{m:<9}{w:<9}-\n", word(&request));
        }
        expect![[r#"
                            manager  worker   nobody
            Join            -        -        yes
            ForwardedJoin   yes      -        -
            Rpc             yes      yes      -
            Session         yes      yes      -
            Gossip          yes      yes      -
            Raft            yes      -        -
            Api             yes      -        -
            Probe           yes      -        -
            Renew           yes      yes      -
            BecomeManager   yes      -        -
            LeaveManagers   yes      -        -
            Leave           yes      yes      -
            Credential      yes      yes      -
            Examine         yes      yes      -
            Blob            yes      yes      -
        "#]]
        .assert_eq(&table);
    }
}
