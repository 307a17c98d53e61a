//! Who may ask what, and one question with its answer.

use std::time::Duration;

use raftup_proto::{
    peer::{Answer, Hello, Reply, Request, Role},
    refusal::{Code, Refusal},
};
use tokio::time::timeout;

use super::{Caller, FrameError, Net, NetError, Peer, Stream, error::CallError, serve::Server};

/// How long a question may take, the dial included.
const CALL_TIME: Duration = Duration::from_secs(5);

/// How long a node may work on an answer before the caller is told that it takes too long. More than [`CALL_TIME`],
/// for callers that set their own.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Whether a caller may open a stream of the kind; `role` is none without a certificate.
pub fn allowed(hello: &Hello, role: Option<Role>) -> bool {
    match (hello, role) {
        // A manager passes on what it was asked by a node that joins.
        (Hello::Join, None | Some(Role::Manager)) => true,
        (Hello::Rpc | Hello::Session | Hello::Gossip, Some(Role::Manager | Role::Worker)) => true,
        (Hello::Raft | Hello::Api, Some(Role::Manager)) => true,
        (Hello::Join | Hello::Raft | Hello::Api, Some(Role::Worker)) => false,
        (Hello::Rpc | Hello::Session | Hello::Gossip | Hello::Raft | Hello::Api, None) => false,
    }
}

/// Whether a caller may ask; which node it asks about or for is for the one who answers to check.
pub fn allowed_request(request: &Request, role: Role) -> bool {
    match request {
        Request::Probe { .. }
        | Request::Renew { .. }
        | Request::Leave
        | Request::Credential { .. }
        | Request::Examine => true,
        Request::BecomeManager { .. } | Request::LeaveManagers { .. } | Request::Removed => {
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
    let request: Request = stream.read_frame(Hello::Rpc.cap()).await?;
    let answer = if allowed_request(&request, caller.role) {
        let answer = timeout(ANSWER_TIME, server.serve.rpc(caller, request)).await;
        answer.unwrap_or_else(|_| Err(Refusal::new(Code::Unavailable, "the answer takes too long")))
    } else {
        Err(Refusal::new(Code::Forbidden, format!("a {} may not ask this", caller.role)))
    };
    stream.write_frame(&answer, Hello::Rpc.cap()).await?;
    stream.send.finish().await
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use raftup_proto::id::{NodeId, TaskId};

    use super::*;

    /// All kinds and requests by role, cell by cell.
    #[test]
    fn table() {
        let hellos = [Hello::Join, Hello::Rpc, Hello::Session, Hello::Gossip, Hello::Raft, Hello::Api];
        let requests = [
            Request::Probe { about: NodeId::new(1), at: ([127, 0, 0, 1], 1).into() },
            Request::Renew { csr: Vec::new() },
            Request::BecomeManager { term: 1, member: 1, key: [0; 32] },
            Request::LeaveManagers { term: 1, member: 1 },
            Request::Leave,
            Request::Removed,
            Request::Credential { task: TaskId::from_random(1) },
            Request::Examine,
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
            Join            yes      -        yes
            Rpc             yes      yes      -
            Session         yes      yes      -
            Gossip          yes      yes      -
            Raft            yes      -        -
            Api             yes      -        -
            Probe           yes      yes      -
            Renew           yes      yes      -
            BecomeManager   yes      -        -
            LeaveManagers   yes      -        -
            Leave           yes      yes      -
            Removed         yes      -        -
            Credential      yes      yes      -
            Examine         yes      yes      -
        "#]]
        .assert_eq(&table);
    }
}
