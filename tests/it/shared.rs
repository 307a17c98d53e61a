//! Stacks that share a network, chosen names of containers, ports of the cluster's choice, and options of containers, on
//! hosts with engines of both kinds.

use raftup_tests::lab::{EngineKind, Options, wait_for};

use crate::cluster::{Before, SOON, deploy, form, get, lab, refused, well};

const EDGE: &str = "services:
  edge:
    image: raftup/helper:1
    container_name: edge-1
    healthcheck: {disable: true}
    ports: ['8080', '8081:8080']
networks: {default: {name: proxy}}
";

const WIKI: &str = "services:
  app:
    image: raftup/helper:1
    container_name: wiki-app
    healthcheck: {disable: true}
    links: ['db:database']
    networks: [proxy, back]
    shm_size: 32m
    ulimits: {nofile: {soft: 4096, hard: 8192}}
    sysctls: {net.core.somaxconn: 777}
    cap_drop: [NET_RAW]
    extra_hosts: ['elsewhere:192.0.2.7']
    tmpfs: ['/scratch:size=1m,noexec']
  db:
    image: raftup/helper:1
    healthcheck: {disable: true}
    networks: [back]
networks: {proxy: {external: true}, back: {}}
";

#[test]
fn stacks_share_a_network_and_containers_have_their_options() {
    let lab = lab(&Options { engine: EngineKind::Mixed, ..Options::new("itshared", 2).unwrap() });
    form(&lab, 2);
    let empty = Before::of(&lab);
    let first = lab.host("h1");
    let early = refused(&lab, deploy(&lab, first, "wiki", WIKI));
    assert!(early.contains("there is no network `proxy` in the cluster"), "{early}");
    well(deploy(&lab, first, "edge", EDGE));
    well(deploy(&lab, first, "wiki", WIKI));

    // Every host answers on the port that the cluster chose, and on the one that the file names.
    let services = well(first.raftup(&["service", "ls"]).unwrap());
    assert!(services.contains("30000->8080/tcp"), "{services}");
    for host in lab.hosts() {
        for port in ["30000", "8081"] {
            wait_for(SOON, "an answer", || Ok(get(&lab, host, &format!("{port}/")).ok())).unwrap();
        }
    }
    // The container has its name on its host, and in the names of the network that both stacks are on.
    let on = |name: &str| {
        let mut hosts = lab.hosts();
        let here = hosts.find(|host| host.sh(&format!("docker inspect {name}")).is_ok());
        here.unwrap_or_else(|| panic!("{name} is on no host"))
    };
    let (edge, wiki) = (on("edge-1"), on("wiki-app"));
    for name in ["wiki-app", "app"] {
        edge.sh(&format!("docker exec edge-1 /helper get http://{name}:8080/")).unwrap();
    }
    wiki.sh("docker exec wiki-app /helper get http://edge-1:8080/").unwrap();
    wiki.sh("docker exec wiki-app /helper get http://database:8080/").unwrap();
    assert!(
        edge.sh("docker exec edge-1 /helper resolve database").is_err(),
        "the other network is not its own"
    );

    // What was asked for is what the process has.
    let file = |path: &str| {
        let url = format!("http://127.0.0.1:8080/file?path={path}");
        wiki.sh(&format!("docker exec wiki-app /helper get '{url}'")).unwrap()
    };
    let limits = file("/proc/self/limits");
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(open_files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4096", "8192"]);
    assert_eq!(file("/proc/sys/net/core/somaxconn").trim(), "777");
    let hosts = file("/etc/hosts");
    let named = |line: &str| line.split_whitespace().eq(["192.0.2.7", "elsewhere"]);
    assert!(hosts.lines().any(named), "{hosts}");
    let mounts = file("/proc/self/mounts");
    let of =
        |target: &str| mounts.lines().find(|line| line.contains(&format!(" {target} "))).unwrap().to_owned();
    assert!(of("/dev/shm").contains("size=32768k"), "{mounts}");
    assert!(of("/scratch").contains("noexec") && of("/scratch").contains("size=1024k"), "{mounts}");
    let status = file("/proc/self/status");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    let net_raw = 1_u64 << 13;
    assert_eq!(u64::from_str_radix(bounding.trim(), 16).unwrap() & net_raw, 0, "{status}");

    // A second deploy changes nothing; a forced update hands the name on.
    let again = well(deploy(&lab, first, "wiki", WIKI));
    assert!(!again.contains("updated"), "{again}");
    well(first.raftup(&["service", "update", "--force", "wiki_app"]).unwrap());
    edge.sh("docker exec edge-1 /helper get http://wiki-app:8080/").unwrap();

    let kept = refused(&lab, first.raftup(&["stack", "rm", "edge"]).unwrap());
    assert!(kept.contains("service `wiki_app` is on it"), "{kept}");
    well(first.raftup(&["stack", "rm", "wiki"]).unwrap());
    well(first.raftup(&["stack", "rm", "edge"]).unwrap());
    empty.again();
}

const JOINED: &str = "services:
  app:
    image: raftup/helper:1
    healthcheck: {disable: true}
    networks: [proxy]
    deploy: {mode: global}
networks: {proxy: {external: true}}
";

/// As `docker network create` and compose files with `external: true` have it on one host.
#[test]
fn a_network_of_no_stack_joins_stacks_and_containers_by_hand() {
    let lab = lab(&Options::new("itproxy", 2).unwrap());
    form(&lab, 2);
    let empty = Before::of(&lab);
    let (first, second) = (lab.host("h1"), lab.host("h2"));
    let early = refused(&lab, deploy(&lab, first, "wiki", JOINED));
    assert!(early.contains("raftup network create proxy"), "{early}");
    well(first.raftup(&["network", "create", "-d", "overlay", "--attachable", "proxy"]).unwrap());
    for stack in ["wiki", "blog"] {
        well(deploy(&lab, second, stack, JOINED));
    }
    // A container that somebody runs by hand, on either host, reaches the services of both stacks by their names.
    for host in [first, second] {
        for service in ["wiki_app", "blog_app"] {
            let run = "docker run --rm --network proxy --entrypoint /helper raftup/helper:1 get";
            wait_for(SOON, "an answer", || Ok(host.sh(&format!("{run} http://{service}:8080/")).ok()))
                .unwrap();
        }
    }
    let listed = well(second.raftup(&["network", "ls"]).unwrap());
    let line = listed.lines().find(|line| line.starts_with("proxy ")).unwrap();
    assert_eq!(
        line.split_whitespace().skip(2).step_by(2).take(2).collect::<Vec<_>>(),
        ["-", "2"],
        "{listed}"
    );
    let kept = refused(&lab, first.raftup(&["network", "rm", "proxy"]).unwrap());
    assert!(kept.contains("_app` is on it"), "{kept}");
    for stack in ["wiki", "blog"] {
        well(first.raftup(&["stack", "rm", stack]).unwrap());
    }
    assert!(first.sh("docker network inspect proxy").is_ok(), "it outlives the stacks");
    well(second.raftup(&["network", "prune", "--force"]).unwrap());
    empty.again();
}
