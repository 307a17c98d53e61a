//! What people see, as text.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use expect_test::{Expect, expect};
use raftup_proto::{
    api::*,
    compose::{Diagnostic, Excerpt, Problems},
    id::{ClusterId, NodeId, ServiceId, StackId, TaskId},
    peer::{Platform, Role, TaskState},
    refusal::{Code, Refusal},
    spec::*,
    unit::{CpuMillis, MemBytes, UnixMillis},
};

use super::{Log, Look, board::Plain, error};
use crate::failure::Failure;

const NOW: UnixMillis = UnixMillis(1_795_255_320_000);
const PLAIN: Look = Look { now: NOW, width: None, colour: false, short: true };

fn ago(seconds: u64) -> UnixMillis {
    UnixMillis(NOW.0 - seconds * 1000)
}

fn check(text: impl AsRef<str>, expected: Expect) {
    expected.assert_eq(text.as_ref());
}

fn node(number: u64, manager: Option<ManagerState>) -> NodeView {
    NodeView {
        id: NodeId::new(number),
        hostname: format!("web{number}"),
        state: NodeState::Ready,
        message: None,
        availability: Availability::Active,
        role: Role::Manager,
        pinned: None,
        manager,
        addr: format!("192.0.2.{number}:7238").parse().unwrap(),
        labels: BTreeMap::new(),
        version: "0.1.0".to_owned(),
        platform: Platform {
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            kernel: "6.12".to_owned(),
            engine: Some("28.5.1".to_owned()),
            engine_labels: Vec::new(),
            cpu: CpuMillis(4000),
            memory: MemBytes(8 << 30),
            generic: Default::default(),
        },
        tasks: 7,
        created: ago(90_000),
        problems: Vec::new(),
        this: number == 1,
    }
}

fn three_nodes() -> Vec<NodeView> {
    let mut second = node(2, Some(ManagerState::Unreachable));
    second.state = NodeState::Down;
    second.message = Some("not heard of for 12 s".to_owned());
    second.platform.engine = None;
    let mut third = node(3, None);
    third.availability = Availability::Drain;
    third.labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    third.pinned = Some(false);
    vec![node(1, Some(ManagerState::Leader)), second, third]
}

fn service(name: &str, running: u32, replicas: u32) -> ServiceView {
    let spec = ServiceSpec {
        mode: Mode::Replicated { replicas },
        container: ContainerSpec {
            image: "nginx:1.27".to_owned(),
            command: Some(vec!["nginx".to_owned(), "-g".to_owned(), "daemon off;".to_owned()]),
            env: BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())]),
            mounts: vec![Mount {
                read_only: true,
                ..Mount::new("/data", MountSource::Volume { name: "data".parse().unwrap(), nocopy: false })
            }],
            ..ContainerSpec::default()
        },
        networks: vec![NetworkAttachment {
            network: "default".parse().unwrap(),
            aliases: vec!["www".to_owned()],
            external: None,
        }],
        ports: vec![PortSpec::new(Protocol::Tcp, 80, 8080)],
        endpoint_mode: Default::default(),
        restart: RestartPolicy { delay: Duration::from_secs(5), ..RestartPolicy::default() },
        placement: Placement {
            constraints: vec![Constraint {
                attribute: NodeAttribute::Label("disk".to_owned()),
                equal: true,
                value: "ssd".to_owned(),
            }],
            ..Placement::default()
        },
        resources: Resources {
            reservations: Amounts { cpu: Some(CpuMillis(500)), memory: Some(MemBytes(64 << 20)) },
            ..Resources::default()
        },
        labels: BTreeMap::new(),
        update: Default::default(),
        rollback: Default::default(),
        routing: Default::default(),
        order: Default::default(),
        depends_on: Default::default(),
        any_ports: Vec::new(),
        build: None,
    };
    let waiting = if running < replicas {
        vec!["slot 3: no node fits: 1 not ready, 2 short of memory".to_owned()]
    } else {
        Vec::new()
    };
    ServiceView {
        id: ServiceId::from_random(11),
        stack: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
        mode: spec.mode,
        running,
        complete: 0,
        desired: replicas,
        image: spec.container.image.clone(),
        ports: spec.ports.clone(),
        removing: false,
        waiting,
        problems: Vec::new(),
        update: Some(UpdateStatus {
            state: UpdateState::Completed,
            started: ago(90),
            completed: Some(ago(61)),
            message: "update completed".to_owned(),
        }),
        version: 2,
        versions: vec![
            VersionView { number: 2, at: ago(90), image: "nginx:1.27@sha256:0123".to_owned() },
            VersionView { number: 1, at: ago(7200), image: "nginx:1.26".to_owned() },
        ],
        spec,
        created: ago(7200),
        updated: ago(61),
    }
}

fn task(id: u64, slot: u64, state: TaskState) -> TaskView {
    TaskView {
        id: TaskId::from_random(id),
        service: ServiceId::from_random(11),
        stack: "shop".parse().unwrap(),
        service_name: "web".parse().unwrap(),
        slot,
        image: "nginx:1.27@sha256:0123".to_owned(),
        node: Some(NodeId::new(1)),
        hostname: Some("web1".to_owned()),
        desired: !state.is_over(),
        lost: false,
        state,
        since: ago(125),
        message: None,
        container: None,
        exit_code: None,
    }
}

fn tasks() -> Vec<TaskView> {
    let failed = TaskView { exit_code: Some(137), ..task(1_000_001, 1, TaskState::Failed) };
    let waits = TaskView {
        node: None,
        hostname: None,
        message: Some("no node fits: 1 not ready, 2 short of memory".to_owned()),
        ..task(1_000_002, 2, TaskState::Pending)
    };
    vec![task(1_000_000, 1, TaskState::Running), failed, waits]
}

fn progress(name: &str, running: u32, desired: u32, waiting: &[&str]) -> ServiceProgress {
    let waiting = waiting.iter().map(|reason| (*reason).to_owned()).collect();
    ServiceProgress {
        name: name.to_owned(),
        running,
        complete: 0,
        desired,
        waiting,
        update: None,
        problems: Vec::new(),
    }
}

fn failure(failure: &Failure) -> String {
    anstream::adapter::strip_str(error::failure(failure).as_ref()).to_string()
}

#[test]
fn ports_that_do_not_answer_everywhere() {
    let port = |published, target| PortSpec::new(Protocol::Tcp, published, target);
    let mut web = service("web", 3, 3);
    let address = "127.0.0.1".parse().ok();
    web.ports = vec![
        port(80, 8080),
        PortSpec { mode: PublishMode::Host, ..port(81, 8080) },
        port(8000, 80),
        PortSpec { host_ip: address, ..port(8001, 81) },
        port(8001, 81),
        PortSpec { host_ip: address, ..port(8002, 82) },
        port(8002, 83),
    ];
    web.spec.ports.clone_from(&web.ports);
    web.spec.endpoint_mode = EndpointMode::Dnsrr;
    web.problems = vec!["port 81/tcp is taken by another program on h2: it does not answer there".to_owned()];
    check(
        super::services(std::slice::from_ref(&web), PLAIN),
        expect![[r#"
        ID             NAME       MODE         REPLICAS   IMAGE        PORTS
        00000000000b   shop_web   replicated   3/3        nginx:1.27   *:80->8080/tcp, *:8000-8001->80-81/tcp, *:8002->83/tcp, *:81->8080/tcp (host), 127.0.0.1:8001-8002->81-82/tcp"#]],
    );
    check(
        super::problems(std::slice::from_ref(&web)).join("\n"),
        expect!["shop_web: port 81/tcp is taken by another program on h2: it does not answer there"],
    );
    check(
        super::service(&web, PLAIN),
        expect![[r#"
            ID:               00000000000b
            Name:             shop_web
            Stack:            shop
            Mode:             replicated
            Replicas:         3 of 3 running
            Update:           completed 1 minute ago: update completed
            Problems:         port 81/tcp is taken by another program on h2: it does not answer there
            Image:            nginx:1.27
            Command:          nginx -g "daemon off;"
            Environment:      A=1
                              B=
            Ports:            *:80->8080/tcp
                              *:8000-8001->80-81/tcp
                              *:8002->83/tcp
                              *:81->8080/tcp (host)
                              127.0.0.1:8001-8002->81-82/tcp
            Endpoint mode:    dnsrr: its name stands for its tasks
            Networks:         default (also www)
            Mounts:           /data <- volume data (read-only)
            Constraints:      node.labels.disk == ssd
            Reserved:         0.5 CPUs, 64MiB memory
            Restart:          always, after 5s
            Update policy:    1 at a time, stop-first, watched for 5s, on failure pause
            Rollback policy:  1 at a time, stop-first, watched for 5s, on failure pause
            Created:          2026-11-21 08:02:00 UTC (2 hours ago)
            Updated:          2026-11-21 10:00:59 UTC (1 minute ago)
            Versions:         2 (now) nginx:1.27@0123 1 minute ago
                              1 nginx:1.26 2 hours ago
        "#]],
    );
    let mut node = node(1, None);
    node.problems =
        vec!["port 81/tcp is taken by another program: no service answers on it there".to_owned()];
    check(
        super::node_notes(&[node]).join("\n"),
        expect!["web1: port 81/tcp is taken by another program: no service answers on it there"],
    );
}

#[test]
fn nodes_in_a_table() {
    check(
        super::nodes(&three_nodes(), PLAIN),
        expect![[r#"
            ID     HOSTNAME   STATUS   AVAILABILITY   MANAGER STATUS   ADDRESS     TASKS   ENGINE      VERSION
            n1 *   web1       Ready    Active         Leader           192.0.2.1   7       28.5.1      0.1.0
            n2     web2       Down     Active         Unreachable      192.0.2.2   7       no answer   0.1.0
            n3     web3       Ready    Drain                           192.0.2.3   7       28.5.1      0.1.0"#]],
    );
}

#[test]
fn a_node_in_full() {
    check(
        super::node(&three_nodes()[2], PLAIN),
        expect![[r#"
        ID:            n3
        Hostname:      web3
        Status:        Ready
        Availability:  Drain
        Role:          no manager, demoted by hand
        Address:       192.0.2.3:7238
        Labels:        disk=ssd
        Tasks:         7
        Version:       0.1.0
        Engine:        28.5.1
        Platform:      linux/amd64, kernel 6.12
        CPUs:          4
        Memory:        8GiB
        Joined:        2026-11-20 09:02:00 UTC (25 hours ago)
    "#]],
    );
}

#[test]
fn nodes_that_are_away_or_too_few_are_told() {
    check(super::node_notes(&three_nodes()).join("\n"), expect!["web2: not heard of for 12 s"]);
    let pair = [node(1, Some(ManagerState::Leader)), node(2, None)];
    check(
        super::node_notes(&pair).join("\n"),
        expect![
            "of two nodes one holds the cluster's state: while web1 is away nothing can be changed; a third node ends that"
        ],
    );
    assert!(super::node_notes(&[node(1, Some(ManagerState::Leader))]).is_empty());
}

#[test]
fn stacks_in_a_table() {
    let stack = |name: &str, running, removing| StackView {
        id: StackId::from_random(5),
        name: name.parse().unwrap(),
        services: 3,
        running,
        desired: 7,
        removing,
        created: ago(9000),
        updated: ago(30),
    };
    let stacks = [stack("blog", 7, false), stack("shop", 5, false), stack("vote", 2, true)];
    check(
        super::stacks(&stacks, PLAIN),
        expect![[r#"
        NAME   ID             SERVICES   TASKS   UPDATED          STATUS
        blog   000000000005   3          7/7     30 seconds ago   Running
        shop   000000000005   3          5/7     30 seconds ago   Waiting
        vote   000000000005   3          2/7     30 seconds ago   Removing"#]],
    );
    check(super::stacks(&[], PLAIN), expect!["NAME   ID   SERVICES   TASKS   UPDATED   STATUS"]);
}

#[test]
fn changes_a_line_each() {
    let change = |kind: &str, name: &str, action| ChangeView {
        kind: kind.to_owned(),
        name: name.to_owned(),
        action,
        version: None,
    };
    let changes = [
        change("network", "shop_default", Action::Unchanged),
        change("service", "shop_web", Action::Updated),
        change("service", "shop_db", Action::Created),
        change("service", "shop_old", Action::Removed),
    ];
    check(
        super::changes(&changes),
        expect![[r#"
        Unchanged network shop_default
        Updating service shop_web
        Creating service shop_db
        Removing service shop_old
    "#]],
    );
}

#[test]
fn services_in_a_table() {
    check(
        super::services(&[service("db", 1, 1), service("web", 2, 3)], PLAIN),
        expect![[r#"
            ID             NAME       MODE         REPLICAS   IMAGE        PORTS
            00000000000b   shop_db    replicated   1/1        nginx:1.27   *:80->8080/tcp
            00000000000b   shop_web   replicated   2/3        nginx:1.27   *:80->8080/tcp"#]],
    );
}

#[test]
fn services_that_wait_say_why() {
    let services = [service("db", 1, 1), service("web", 2, 3)];
    check(
        super::waiting(&services).join("\n"),
        expect!["shop_web waits: slot 3: no node fits: 1 not ready, 2 short of memory"],
    );
}

#[test]
fn a_service_in_full() {
    check(
        super::service(&service("web", 2, 3), PLAIN),
        expect![[r#"
            ID:               00000000000b
            Name:             shop_web
            Stack:            shop
            Mode:             replicated
            Replicas:         2 of 3 running
            Update:           completed 1 minute ago: update completed
            Waiting for:      slot 3: no node fits: 1 not ready, 2 short of memory
            Image:            nginx:1.27
            Command:          nginx -g "daemon off;"
            Environment:      A=1
                              B=
            Ports:            *:80->8080/tcp
            Networks:         default (also www)
            Mounts:           /data <- volume data (read-only)
            Constraints:      node.labels.disk == ssd
            Reserved:         0.5 CPUs, 64MiB memory
            Restart:          always, after 5s
            Update policy:    1 at a time, stop-first, watched for 5s, on failure pause
            Rollback policy:  1 at a time, stop-first, watched for 5s, on failure pause
            Created:          2026-11-21 08:02:00 UTC (2 hours ago)
            Updated:          2026-11-21 10:00:59 UTC (1 minute ago)
            Versions:         2 (now) nginx:1.27@0123 1 minute ago
                              1 nginx:1.26 2 hours ago
        "#]],
    );
}

#[test]
fn tasks_in_a_table() {
    check(
        super::tasks(&tasks(), PLAIN),
        expect![[r#"
        ID             NAME             IMAGE        NODE   DESIRED STATE   CURRENT STATE           MESSAGE
        00000000lfls   shop_web.1       nginx:1.27   web1   Running         Running 2 minutes ago
        00000000lflt    \_ shop_web.1   nginx:1.27   web1   Shutdown        Failed 2 minutes ago    exit status 137
        00000000lflu   shop_web.2       nginx:1.27          Running         Pending 2 minutes ago   no node fits: 1 not ready, 2 short of memory"#]],
    );
}

#[test]
fn a_terminal_wraps_the_last_column_and_colours() {
    check(
        super::tasks(&tasks(), Look { width: Some(120), ..PLAIN }),
        expect![[r#"
        ID             NAME             IMAGE        NODE   DESIRED STATE   CURRENT STATE           MESSAGE
        00000000lfls   shop_web.1       nginx:1.27   web1   Running         Running 2 minutes ago
        00000000lflt    \_ shop_web.1   nginx:1.27   web1   Shutdown        Failed 2 minutes ago    exit status 137
        00000000lflu   shop_web.2       nginx:1.27          Running         Pending 2 minutes ago   no node fits: 1 not ready, 2
                                                                                                    short of memory"#]],
    );
    let coloured = super::tasks(&tasks(), Look { colour: true, ..PLAIN });
    assert!(coloured.as_ref().contains("\u{1b}["), "{coloured:?}");
    let stripped = anstream::adapter::strip_str(coloured.as_ref()).to_string();
    assert_eq!(stripped, super::tasks(&tasks(), PLAIN).as_ref());
}

#[test]
fn status_in_and_out_of_a_cluster() {
    let outside = Status { version: "0.1.0".to_owned(), member: None, problems: Vec::new() };
    check(
        super::status(&outside, None),
        expect![[r#"
        Version:   0.1.0
        Cluster:   none (`raftup init` makes one, `raftup join TOKEN` joins one)
        Problems:  none
    "#]],
    );
    let member = Membership {
        cluster: ClusterId::from_random(77),
        node: NodeId::new(1),
        manager: true,
        leader: Some(NodeId::new(1)),
    };
    let problems = vec!["the engine does not answer".to_owned(), "the clock is 9 s behind".to_owned()];
    let inside = Status { member: Some(member), problems, ..outside };
    check(
        super::status(&inside, Some(Ok(&three_nodes()))),
        expect![[r#"
        Version:    0.1.0
        Cluster:    000000000025
        This node:  n1 (web1), manager
        Leader:     n1 (web1)
        Nodes:      2 of 3 ready (web2 down)
        Managers:   web1 (leader)
                    web2 (unreachable)
        Problems:   the engine does not answer
                    the clock is 9 s behind
    "#]],
    );
    let lost = Refusal::new(Code::Unavailable, "2 of 3 managers are missing: web2, web3");
    check(
        super::status(&inside, Some(Err(&lost))),
        expect![[r#"
        Version:    0.1.0
        Cluster:    000000000025
        This node:  n1, manager
        Leader:     n1
        Nodes:      unknown: 2 of 3 managers are missing: web2, web3
        Problems:   the engine does not answer
                    the clock is 9 s behind
    "#]],
    );
}

#[test]
fn controllers_in_a_table() {
    let controller = ControllerView {
        name: "services".to_owned(),
        runs: 41,
        woken_by: "change".to_owned(),
        took_us: 1250,
        last: "started 2 tasks".to_owned(),
    };
    check(
        super::controllers(&[controller], PLAIN),
        expect![[r#"
        CONTROLLER   RUNS   WOKEN BY   TOOK     LAST RUN
        services     41     change     1.25ms   started 2 tasks"#]],
    );
}

#[test]
fn log_lines() {
    let mut line = LogLine {
        task: TaskId::from_random(1),
        source: "shop_web.2".to_owned(),
        hostname: "web1".to_owned(),
        stderr: false,
        at_nanos: 1_795_255_320_123_456_789,
        line: "GET / 200".to_owned(),
    };
    let mut text = String::new();
    let mut log = Log::new(false, true);
    text.push_str(&log.text(&line));
    line.source = "shop_web.10".to_owned();
    text.push_str(&log.text(&line));
    line.source = "shop_web.2".to_owned();
    text.push_str(&log.text(&line));
    text.push_str(&Log::new(true, false).text(&line));
    check(
        anstream::adapter::strip_str(&text).to_string(),
        expect![[r#"
        2026-11-21T10:02:00.123456Z shop_web.2@web1 | GET / 200
        2026-11-21T10:02:00.123456Z shop_web.10@web1 | GET / 200
        2026-11-21T10:02:00.123456Z shop_web.2@web1  | GET / 200
        GET / 200
    "#]],
    );
}

#[test]
fn progress_without_a_terminal() {
    let mut board = Plain::default();
    let mut lines =
        board.update(0, &[progress("shop_db", 0, 1, &["pulls redis:7"]), progress("shop_web", 0, 2, &[])]);
    lines.extend(
        board.update(0, &[progress("shop_db", 0, 1, &["pulls redis:7"]), progress("shop_web", 1, 2, &[])]),
    );
    lines.extend(board.update(0, &[progress("shop_db", 1, 1, &[])]));
    lines.extend(board.update(1, &[progress("blog_web", 1, 1, &["a", "b"])]));
    check(
        lines.join("\n"),
        expect![[r#"
        shop_db: 0/1 running; pulls redis:7
        shop_web: 0/2 running
        shop_web: 1/2 running
        shop_db: 1/1 running
        shop_web: gone
        blog_web: 1/1 running; a; b"#]],
    );
}

#[test]
fn a_refusal_with_its_hint() {
    let refusal = Refusal::new(Code::Conflict, "service `web` publishes port 80, taken by service `proxy`")
        .hint("remove `ports: 80:80` from `web`, or `raftup service rm proxy`");
    check(
        failure(&Failure::Refused(refusal)),
        expect![[r#"
        error: service `web` publishes port 80, taken by service `proxy`
        hint: remove `ports: 80:80` from `web`, or `raftup service rm proxy`"#]],
    );
}

#[test]
fn problems_of_a_compose_file_in_full() {
    let problem = |line, message: &str| Diagnostic {
        file: PathBuf::from("compose.yaml"),
        line,
        column: 12,
        path: "services.web.ports[0]".to_owned(),
        message: message.to_owned(),
        help: Some("a port is a number from 1 to 65535".to_owned()),
        excerpt: Some(Excerpt { text: "      - \"99999:80\"".to_owned(), start: 9, width: 5 }),
    };
    let odd = Diagnostic { help: None, excerpt: None, ..problem(1, "`version` has no effect") };
    let problems = Problems {
        errors: vec![problem(5, "99999 is no port"), problem(9, "99998 is no port")],
        warnings: vec![odd],
    };
    check(
        failure(&Failure::Compose(problems)),
        expect![[r#"
        warning: compose.yaml:1:12: services.web.ports[0]: `version` has no effect

        error: compose.yaml:5:12: services.web.ports[0]: 99999 is no port
         5 |       - "99999:80"
           |          ^^^^^
           help: a port is a number from 1 to 65535

        error: compose.yaml:9:12: services.web.ports[0]: 99998 is no port
         9 |       - "99999:80"
           |          ^^^^^
           help: a port is a number from 1 to 65535

        hint: nothing was changed"#]],
    );
}

#[test]
fn the_other_failures() {
    let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert_eq!(failure(&Failure::Output(pipe)), "");
    assert_eq!(failure(&Failure::Told(3)), "");
    check(
        failure(&Failure::Output(std::io::ErrorKind::StorageFull.into())),
        expect!["error: the answer cannot be written: no storage space"],
    );
}

const TOOK: std::time::Duration = std::time::Duration::from_millis(1_300);

#[test]
fn findings_of_the_doctor() {
    let of = |finding: Finding, node: &str, to: Option<&str>| Finding {
        node: node.to_owned(),
        to: to.map(str::to_owned),
        ..finding
    };
    let well = of(Finding::fine("engine", "Docker Engine 28.5.2"), "web1", None);
    check(
        super::findings(std::slice::from_ref(&well), TOOK, PLAIN),
        expect![[r#"
        CHECK    NODE   RESULT   FOUND
        engine   web1   ok       Docker Engine 28.5.2

        1 checks in 1.3 s"#]],
    );
    let clock = of(Finding::warning("clock", "3.2 s behind the leader's", "keep it by NTP"), "web2", None);
    let fabric =
        of(Finding::problem("fabric", "nothing gets there", "is UDP 7239 open?"), "web1", Some("web2"));
    let (clock, fabric) =
        (clock.run("timedatectl set-ntp true"), fabric.run("ufw allow 7239/udp").run("ufw reload"));
    expect![[r#"{"check":"fabric","node":"web1","to":"web2","health":"problem","found":"nothing gets there","next":"is UDP 7239 open?","commands":["ufw allow 7239/udp","ufw reload"]}"#]]
        .assert_eq(&serde_json::to_string(&super::advised(std::slice::from_ref(&fabric))[0]).unwrap());
    check(
        super::findings(&[well, clock, fabric], TOOK, PLAIN),
        expect![[r#"
        CHECK    NODE           RESULT    FOUND
        engine   web1           ok        Docker Engine 28.5.2
        clock    web2           warning   3.2 s behind the leader's
        fabric   web1 -> web2   problem   nothing gets there

        What to do:
        web2, clock: keep it by NTP
            timedatectl set-ntp true
        web1 -> web2, fabric: is UDP 7239 open?
            ufw allow 7239/udp
            ufw reload

        3 checks in 1.3 s"#]],
    );
}

/// Clears the screen, sets the title, hides what follows, forges a row, reverses text.
const NASTY: &str = "x\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}8m\r\nn9  forged\tReady\u{202e}\u{7f}\u{200b}\0";

/// No control character but the line ends of `lines` lines, and colours.
fn harmless(text: impl AsRef<str>, lines: usize) {
    let text = anstream::adapter::strip_str(text.as_ref()).to_string();
    let bad = |c: char| (c.is_control() && c != '\n') || ['\u{202e}', '\u{200b}'].contains(&c);
    assert!(!text.contains(bad), "{text:?}");
    assert!(text.contains("n9  forged"), "{text:?}");
    assert_eq!(text.trim_end().lines().count(), lines, "{text}");
}

#[test]
fn text_of_others_controls_no_terminal() {
    let nasty = || NASTY.to_owned();
    for look in [PLAIN, Look { colour: true, ..PLAIN }] {
        let mut bad = node(1, Some(ManagerState::Leader));
        bad.hostname = nasty();
        bad.version = nasty();
        bad.message = Some(nasty());
        bad.problems = vec![nasty()];
        bad.labels = BTreeMap::from([(nasty(), nasty())]);
        bad.platform.engine = Some(nasty());
        bad.platform.engine_labels = vec![nasty()];
        bad.platform.kernel = nasty();
        harmless(super::nodes(std::slice::from_ref(&bad), look), 2);
        harmless(super::node(&bad, look), 18);
        let mut down = bad.clone();
        down.state = NodeState::Down;
        let member = Membership {
            cluster: ClusterId::from_random(7),
            node: bad.id,
            manager: true,
            leader: Some(bad.id),
        };
        let status = Status { version: nasty(), member: Some(member), problems: vec![nasty()] };
        harmless(super::status(&status, Some(Ok(&[bad, down]))), 8);
        harmless(super::status(&status, Some(Err(&Refusal::new(Code::Unavailable, NASTY)))), 6);

        let mut web = service("web", 1, 1);
        web.image = nasty();
        web.waiting = vec![nasty()];
        web.problems = vec![nasty()];
        web.spec.container.env = BTreeMap::from([(nasty(), nasty())]);
        web.spec.container.command = Some(vec![nasty()]);
        web.versions.truncate(1);
        harmless(super::services(std::slice::from_ref(&web), look), 2);
        harmless(super::service(&web, look), 22);

        let failed = TaskView {
            message: Some(nasty()),
            hostname: Some(nasty()),
            image: nasty(),
            ..task(1, 1, TaskState::Failed)
        };
        harmless(super::tasks(&[failed], look), 2);
        let controller =
            ControllerView { name: nasty(), runs: 1, woken_by: nasty(), took_us: 1, last: nasty() };
        harmless(super::controllers(&[controller], look), 2);
        let finding = Finding { node: nasty(), to: Some(nasty()), ..Finding::problem(NASTY, NASTY, NASTY) };
        harmless(super::findings(&[finding], TOOK, look), 7);
        let change = ChangeView { kind: nasty(), name: nasty(), action: Action::Created, version: None };
        harmless(super::changes(&[change]), 1);
    }
    let refusal = Refusal::new(Code::Conflict, NASTY).hint(NASTY);
    harmless(error::failure(&Failure::Refused(refusal)), 2);
    harmless(error::failure(&Failure::Interrupted(nasty())), 2);
    harmless(error::warning(NASTY), 1);
    harmless(super::Text::from(NASTY), 1);
    let problem = Diagnostic {
        file: PathBuf::from("compose.yaml"),
        line: 1,
        column: 1,
        path: "services".to_owned(),
        message: "\u{1b}[2J n9  forged".to_owned(),
        help: None,
        excerpt: None,
    };
    harmless(error::warning_in_full(&problem), 1);
}

#[test]
fn whose_a_log_line_is_cannot_be_forged_but_the_line_is_the_containers() {
    let line = LogLine {
        task: TaskId::from_random(1),
        source: "web\u{1b}[2J".to_owned(),
        hostname: "a\nb".to_owned(),
        stderr: false,
        at_nanos: 0,
        line: "\u{1b}[32mgreen".to_owned(),
    };
    let text = Log::new(false, false).text(&line);
    assert!(text.contains("web\\u{1b}[2J@a\\nb") && text.ends_with(" | \u{1b}[32mgreen\n"), "{text:?}");
    assert_eq!(Log::new(true, false).text(&line), "\u{1b}[32mgreen\n");
}
