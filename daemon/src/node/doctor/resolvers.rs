//! The resolvers of this host, which answer the names that containers ask for outside of the cluster.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use futures_util::future::join_all;
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use raftup_proto::api::Finding;
use tokio::{net::UdpSocket, time::timeout};

/// Where containers have their search list and options from, and the cluster's resolver those that it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How long one answer may take, and how often a resolver is asked: datagrams get lost.
const ANSWER: Duration = Duration::from_millis(700);
const ASKED: usize = 2;

const CHECK: &str = "resolvers";

pub(super) async fn look() -> Vec<Finding> {
    let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let resolvers = named(&text);
    let answers = join_all(resolvers.iter().map(|(_, address)| ask(*address))).await;
    let answers: Vec<_> = resolvers.into_iter().map(|(line, _)| line).zip(answers).collect();
    let mut findings = answering(&answers, Path::new(RESOLV_CONF).is_symlink());
    findings.extend(search(&text));
    findings
}

/// The resolvers of a `resolv.conf`, as they are written there.
fn named(text: &str) -> Vec<(String, IpAddr)> {
    let name = |line: &str| {
        let mut words = line.split_whitespace();
        let written = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        let address = written.split('%').next()?.parse().ok()?;
        Some((written.to_owned(), address))
    };
    text.lines().filter_map(name).collect()
}

/// Asks for the name servers of the root, which every resolver knows; any answer will do. Errors: none in time.
async fn ask(server: IpAddr) -> Result<(), String> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::root(), RecordType::NS));
    let exchange = async {
        let question = message.to_vec().map_err(io::Error::other)?;
        let any: IpAddr = match server {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(SocketAddr::from((server, 53))).await?;
        let mut last = io::Error::other("no answer");
        for _ in 0..ASKED {
            let answered = async {
                socket.send(&question).await?;
                socket.recv(&mut [0; 512]).await
            };
            match timeout(ANSWER, answered).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    };
    exchange.await.map_err(|error: io::Error| error.to_string())
}

fn answering(answers: &[(String, Result<(), String>)], is_symlink: bool) -> Vec<Finding> {
    if answers.is_empty() {
        return vec![Finding::warning(
            CHECK,
            format!(
                "{RESOLV_CONF} names no resolver: containers cannot ask for names outside of the cluster"
            ),
            format!("add a line `nameserver ADDRESS` to {RESOLV_CONF}"),
        )];
    }
    let alive = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
    if alive == answers.len() {
        let all: Vec<&str> = answers.iter().map(|(server, _)| server.as_str()).collect();
        return vec![Finding::fine(CHECK, format!("{} answers", all.join(", ")))];
    }
    let dead = answers.iter().filter_map(|(server, answer)| Some((server, answer.as_ref().err()?)));
    dead.map(|(server, error)| {
        let found = format!("resolver {server} of {RESOLV_CONF} does not answer: {error}");
        if alive == 0 {
            let next = format!("start that resolver, or name one that answers in {RESOLV_CONF}");
            return Finding::problem(CHECK, found, next);
        }
        if is_symlink {
            let next =
                format!("{RESOLV_CONF} is written by another program: remove the resolver from its settings");
            return Finding::warning(CHECK, found, next);
        }
        Finding::warning(CHECK, found, "remove it; another one answers")
            .run(format!("sed -i '/^nameserver {server}$/d' {RESOLV_CONF}"))
    })
    .collect()
}

/// A search list that containers copy, and with `ndots` above 1 ask before the name itself: where a domain of the list
/// answers every name, a service's name leads outside.
fn search(resolv_conf: &str) -> Option<Finding> {
    let mut domains: Vec<&str> = Vec::new();
    let mut dots = 1;
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("search" | "domain") => domains = words.collect(),
            Some("options") => {
                dots = words
                    .filter_map(|word| word.strip_prefix("ndots:")?.parse().ok())
                    .next_back()
                    .unwrap_or(dots);
            }
            Some(_) | None => {}
        }
    }
    domains.retain(|domain| *domain != ".");
    if domains.is_empty() || dots < 2_u32 {
        return None;
    }
    let first = domains.first().copied().unwrap_or_default();
    let found = format!(
        "containers copy `search {}` and `ndots:{dots}` from {RESOLV_CONF}: they ask for `web.{first}` before `web`, and a \
         domain that answers every name leads them outside",
        domains.join(" ")
    );
    let next =
        "set it to 1, then deploy again; or set `\"dns-opts\": [\"ndots:1\"]` in /etc/docker/daemon.json";
    let command = format!("sed -i --follow-symlinks 's/ndots:{dots}/ndots:1/' {RESOLV_CONF}");
    Some(Finding::warning("names", found, next).run(command))
}

#[cfg(test)]
mod tests {
    use raftup_proto::api::Health;

    use super::*;

    #[test]
    fn search_lists_that_are_asked_first_are_told() {
        let told = |text: &str| search(text).map(|finding| finding.found);
        assert_eq!(told("nameserver 10.0.0.2\nsearch corp.lan\n"), None, "one dot is the default");
        assert_eq!(told("options ndots:5\n"), None, "nothing to search");
        assert_eq!(told("search .\noptions ndots:5\n"), None, "the root alone");
        let found = told("search corp.lan lab\noptions timeout:1 ndots:5\n").unwrap();
        assert!(found.contains("`search corp.lan lab` and `ndots:5`"), "{found}");
        assert!(found.contains("`web.corp.lan` before `web`"), "{found}");
    }

    #[test]
    fn a_resolver_that_is_dead_is_removed_only_where_another_answers() {
        let dead = || Err("no answer".to_owned());
        let (one, two) = ("10.0.0.1".to_owned(), "10.0.0.2".to_owned());
        let both = answering(&[(one.clone(), Ok(())), (two.clone(), dead())], false);
        assert_eq!(both[0].advice().unwrap().1, ["sed -i '/^nameserver 10.0.0.2$/d' /etc/resolv.conf"]);
        let alone = answering(&[(one.clone(), dead())], false);
        assert_eq!((alone[0].health, alone[0].advice().unwrap().1.len()), (Health::Problem, 0));
        assert_eq!(answering(&[], false)[0].health, Health::Warning);
        assert_eq!(answering(&[(one, Ok(())), (two, Ok(()))], true)[0].health, Health::Ok);
    }

    #[tokio::test]
    async fn a_port_without_a_program_answers_that_at_once() {
        // Nobody listens on this address of the loopback network.
        assert!(ask("127.99.99.99".parse().unwrap()).await.is_err());
        assert_eq!(named("nameserver 10.0.0.1\nnameserver fe80::1%eth0\n# nameserver 10.0.0.9\n").len(), 2);
    }
}
