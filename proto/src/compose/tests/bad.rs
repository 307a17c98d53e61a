//! What is refused, and the words for it.

use expect_test::expect;

use super::{check, check_web};

#[test]
fn not_yaml() {
    check(
        "services:\n\tweb: {image: nginx}\n",
        expect![[r#"
        compose.yaml:2:2: services: this is not YAML: tabs disallowed within this context (block indentation)
         2 |  web: {image: nginx}
           |  ^
           help: YAML is indented with spaces, never with tabs
    "#]],
    );
    check(
        "services:\n  web: {image: nginx\n",
        expect![[r#"
        compose.yaml:2:8: services.web: this is not YAML: unclosed bracket '{'
         2 |   web: {image: nginx
           |        ^
    "#]],
    );
    check(
        "services:\n  web:\n    image: 'nginx\n",
        expect![[r#"
        compose.yaml:4:1: services.web.image: this is not YAML: invalid indentation in multiline quoted scalar
    "#]],
    );
    check(
        "services: *web\n",
        expect![[r#"
        compose.yaml:1:11: services: this is not YAML: while parsing node, found unknown anchor
         1 | services: *web
           |           ^
    "#]],
    );
    check(
        "",
        expect![[r#"
        compose.yaml: is empty
    "#]],
    );
    check(
        "# nothing\n",
        expect![[r#"
        compose.yaml: is empty
    "#]],
    );
    check(
        "services: {}\n---\nservices: {}\n",
        expect![[r#"
            compose.yaml: there are no services
        "#]],
    );
    check(
        "just text",
        expect![[r#"
        compose.yaml:1:1: must be a mapping, not a text
         1 | just text
           | ^^^^^^^^^
    "#]],
    );
    check(
        "services:\n  web:\n    image: a\n    image: b\n",
        expect![[r#"
        compose.yaml:4:5: services.web: the key `image` is here twice
         4 |     image: b
           |     ^^^^^
           help: it is first at compose.yaml:3:5
    "#]],
    );
    check(
        "services: {? [a] : b}\n",
        expect![[r#"
        compose.yaml:1:14: services: a key must be a plain text
         1 | services: {? [a] : b}
           |              ^
    "#]],
    );
    check(
        "services: {web: {image: !reset null, init: !mine true}}\n",
        expect![[r#"
            compose.yaml:1:44: services.web.init: the tag `!mine` is unknown
             1 | services: {web: {image: !reset null, init: !mine true}}
               |                                            ^^^^^
               help: the tags of Compose are `!reset` and `!override`
        "#]],
    );
    check(
        "services: {web: &w {image: nginx, labels: *w}}\n",
        expect![[r#"
        compose.yaml:1:43: services.web.labels: this alias stands inside of what it names
         1 | services: {web: &w {image: nginx, labels: *w}}
           |                                           ^^
    "#]],
    );
}

#[test]
fn unknown_keys() {
    check(
        "servces: {}\nservices:\n  web:\n    image: nginx\n    enviroment: {A: b}\n    prots: []\n    wibble: 1\n    \
         x-mine: 1\n    deploy: {replica: 1}\n    build: .\n    depends_on: [db]\n    \
         container_name: web\n    privileged: true\nsecrets: {a: {}}\n",
        expect![[r#"
            compose.yaml:1:1: servces: unknown key `servces`
             1 | servces: {}
               | ^^^^^^^
               help: did you mean `services`?
            compose.yaml:5:5: services.web.enviroment: unknown key `enviroment`
             5 |     enviroment: {A: b}
               |     ^^^^^^^^^^
               help: did you mean `environment`?
            compose.yaml:6:5: services.web.prots: unknown key `prots`
             6 |     prots: []
               |     ^^^^^
               help: did you mean `ports`?
            compose.yaml:7:5: services.web.wibble: unknown key `wibble`
             7 |     wibble: 1
               |     ^^^^^^
            compose.yaml:9:14: services.web.deploy.replica: unknown key `replica`
             9 |     deploy: {replica: 1}
               |              ^^^^^^^
               help: did you mean `replicas`?
            compose.yaml:11:18: services.web.depends_on[0]: there is no service `db`
             11 |     depends_on: [db]
                |                  ^^
            compose.yaml:14:11: secrets.a: has no content
             14 | secrets: {a: {}}
                |           ^
               help: give it `file`, `environment` or `external: true`
            warning: compose.yaml:10:5: services.web.build: nothing is built yet: the image `nginx` must be in a registry or on the nodes
             10 |     build: .
                |     ^^^^^
               help: `docker compose build`, then `docker compose push`
        "#]],
    );
}

#[test]
fn ports() {
    check_web(
        "ports:\n  - 99999:80",
        expect![[r#"
        compose.yaml:5:9: services.web.ports[0]: port 99999 is not between 1 and 65535
         5 |       - 99999:80
           |         ^^^^^^^^
    "#]],
    );
    check_web(
        "ports: ['80', 8080, '0:80', '[::1]:80:80', '127.0.0.1::80', ':80', '80-82:80-81', '82-80:1-3', \
         '80-90:80', '80:80/sctp', '80:80/x', 'a:b', '']",
        expect![[r#"
            compose.yaml:4:33: services.web.ports[3]: publishing on the IPv6 address `[::1]` alone is not supported
             4 |     ports: ['80', 8080, '0:80', '[::1]:80:80', '127.0.0.1::80', ':80', '80-82:80-81', '82-80:1-3', '80-90:80', '80:80/sc
               |                                 ^^^^^^^^^^^^^
               help: leave the address out, or name an IPv4 address
            compose.yaml:4:72: services.web.ports[5]: 3 published ports do not match 2 ports of the container
             4 |  '[::1]:80:80', '127.0.0.1::80', ':80', '80-82:80-81', '82-80:1-3', '80-90:80', '80:80/sctp', '80:80/x', 'a:b', '']
               |                                         ^^^^^^^^^^^^^
            compose.yaml:4:87: services.web.ports[6]: the range `82-80` ends before it begins
             4 |  '127.0.0.1::80', ':80', '80-82:80-81', '82-80:1-3', '80-90:80', '80:80/sctp', '80:80/x', 'a:b', '']
               |                                         ^^^^^^^^^^^
            compose.yaml:4:100: services.web.ports[7]: 11 published ports for one port of the container: which one is meant?
             4 | 80', ':80', '80-82:80-81', '82-80:1-3', '80-90:80', '80:80/sctp', '80:80/x', 'a:b', '']
               |                                         ^^^^^^^^^^
               help: name a single one: all nodes that answer do so on the same port
            compose.yaml:4:112: services.web.ports[8]: the protocol `sctp` is not supported yet
             4 | '80-82:80-81', '82-80:1-3', '80-90:80', '80:80/sctp', '80:80/x', 'a:b', '']
               |                                         ^^^^^^^^^^^^
            compose.yaml:4:126: services.web.ports[9]: `x` is neither `tcp` nor `udp`
             4 |  '82-80:1-3', '80-90:80', '80:80/sctp', '80:80/x', 'a:b', '']
               |                                         ^^^^^^^^^
            compose.yaml:4:137: services.web.ports[10]: `b` is not a port
             4 | ', '80-90:80', '80:80/sctp', '80:80/x', 'a:b', '']
               |                                         ^^^^^
            compose.yaml:4:144: services.web.ports[11]: must be a value, not an empty text
             4 | 90:80', '80:80/sctp', '80:80/x', 'a:b', '']
               |                                         ^^
            warning: compose.yaml:4:13: services.web.ports: has no effect: the one at compose.yaml:4:65 takes its place
             4 |     ports: ['80', 8080, '0:80', '[::1]:80:80', '127.0.0.1::80', ':80', '80-82:80-81', '82-80:1-3', '80-90:80', '80:80/sc
               |             ^^^^
        "#]],
    );
    check_web(
        "ports:\n  - {target: 80}\n  - {published: 80}\n  - {target: 80, published: 80, mode: hst}\n  \
         - {target: 80, published: 81, host_ip: 10.0.0}\n  - {target: 80, published: 70000, protocl: udp}\n  \
         - {target: 80-90, published: 80-89, mode: host}\n  - {target: 80, published: 83, host_ip: 224.0.0.1}",
        expect![[r#"
            compose.yaml:6:9: services.web.ports[1]: `target` is missing: the port in the container
             6 |       - {published: 80}
               |         ^
            compose.yaml:7:43: services.web.ports[2].mode: `hst` is neither `ingress` nor `host`
             7 |       - {target: 80, published: 80, mode: hst}
               |                                           ^^^
            compose.yaml:8:46: services.web.ports[3].host_ip: `10.0.0` is no address
             8 |       - {target: 80, published: 81, host_ip: 10.0.0}
               |                                              ^^^^^^
               help: an IPv4 address of nodes stands there, such as `127.0.0.1`
            compose.yaml:9:33: services.web.ports[4].published: port 70000 is not between 1 and 65535
             9 |       - {target: 80, published: 70000, protocl: udp}
               |                                 ^^^^^
            compose.yaml:9:40: services.web.ports[4].protocl: unknown key `protocl`
             9 |       - {target: 80, published: 70000, protocl: udp}
               |                                        ^^^^^^^
               help: did you mean `protocol`?
            compose.yaml:10:9: services.web.ports[5]: 10 published ports do not match 11 ports of the container
             10 |       - {target: 80-90, published: 80-89, mode: host}
                |         ^
            compose.yaml:11:46: services.web.ports[6].host_ip: `224.0.0.1` is not the address of a node
             11 |       - {target: 80, published: 83, host_ip: 224.0.0.1}
                |                                              ^^^^^^^^^
        "#]],
    );
    check(
        "services:\n  a: {image: x, ports: ['80:80', '80:81', '80:80/udp']}\n  b:\n    image: x\n    ports:\n      \
         - 79-81:1-3\n      - 10.0.0.1:80:80\n      - 10.0.0.1:90:80\n      - 10.0.0.2:90:80\n      - 90:80\n      \
         - {target: 80, published: 95, mode: host}\n      - {target: 81, published: 95, mode: host}\n",
        expect![[r#"
            compose.yaml:2:34: services.a.ports[1]: port 80/tcp is published by service `a` already, at compose.yaml:2:25
             2 |   a: {image: x, ports: ['80:80', '80:81', '80:80/udp']}
               |                                  ^^^^^^^
            compose.yaml:6:9: services.b.ports[0]: port 80/tcp is published by service `a` already, at compose.yaml:2:25
             6 |       - 79-81:1-3
               |         ^^^^^^^^^
            compose.yaml:7:9: services.b.ports[1]: port 80/tcp is published by service `a` already, at compose.yaml:2:25
             7 |       - 10.0.0.1:80:80
               |         ^^^^^^^^^^^^^^
            compose.yaml:10:9: services.b.ports[4]: port 10.0.0.1:90/tcp is published by service `b` already, at compose.yaml:8:9
             10 |       - 90:80
                |         ^^^^^
            compose.yaml:12:9: services.b.ports[6]: port 95/tcp is published by service `b` already, at compose.yaml:11:9
             12 |       - {target: 81, published: 95, mode: host}
                |         ^
        "#]],
    );
}

#[test]
fn mounts() {
    check_web(
        "volumes: ['dta:/x', 'other:/x', 'data:relative', './a:/', 'data:/x:what', 'data:/x:Z', '/a:/b:c:d', \
         '/a:/same', '/b:/same/', '/a:/n:nocopy', 'data:/p:rslave', 'data:/c:cached']",
        expect![[r#"
            compose.yaml:4:37: services.web.volumes[1]: the target `relative` is not an absolute path
             4 |     volumes: ['dta:/x', 'other:/x', 'data:relative', './a:/', 'data:/x:what', 'data:/x:Z', '/a:/b:c:d', '/a:/same', '/b:
               |                                     ^^^^^^^^^^^^^^^
            compose.yaml:4:54: services.web.volumes[2]: nothing can be mounted on `/`
             4 | ['dta:/x', 'other:/x', 'data:relative', './a:/', 'data:/x:what', 'data:/x:Z', '/a:/b:c:d', '/a:/same', '/b:/same/', '/a:
               |                                         ^^^^^^^
            compose.yaml:4:92: services.web.volumes[3]: has too many `:`
             4 | , './a:/', 'data:/x:what', 'data:/x:Z', '/a:/b:c:d', '/a:/same', '/b:/same/', '/a:/n:nocopy', 'data:/p:rslave', 'data:/c
               |                                         ^^^^^^^^^^^
               help: it is `SOURCE:TARGET`, or `SOURCE:TARGET:OPTIONS`
            compose.yaml:4:130: services.web.volumes[5]: `nocopy` is for named volumes
             4 | , '/a:/b:c:d', '/a:/same', '/b:/same/', '/a:/n:nocopy', 'data:/p:rslave', 'data:/c:cached']
               |                                         ^^^^^^^^^^^^^^
            compose.yaml:4:146: services.web.volumes[6]: only paths of the node have a propagation
             4 | /a:/same', '/b:/same/', '/a:/n:nocopy', 'data:/p:rslave', 'data:/c:cached']
               |                                         ^^^^^^^^^^^^^^^^
            warning: compose.yaml:4:15: services.web.volumes: has no effect: the one at compose.yaml:4:25 takes its place
             4 |     volumes: ['dta:/x', 'other:/x', 'data:relative', './a:/', 'data:/x:what', 'data:/x:Z', '/a:/b:c:d', '/a:/same', '/b:
               |               ^^^^^^^^
            warning: compose.yaml:4:25: services.web.volumes: has no effect: the one at compose.yaml:4:63 takes its place
             4 |     volumes: ['dta:/x', 'other:/x', 'data:relative', './a:/', 'data:/x:what', 'data:/x:Z', '/a:/b:c:d', '/a:/same', '/b:
               |                         ^^^^^^^^^^
            warning: compose.yaml:4:63: services.web.volumes: has no effect: the one at compose.yaml:4:79 takes its place
             4 | , 'other:/x', 'data:relative', './a:/', 'data:/x:what', 'data:/x:Z', '/a:/b:c:d', '/a:/same', '/b:/same/', '/a:/n:nocopy
               |                                         ^^^^^^^^^^^^^^
            warning: compose.yaml:4:105: services.web.volumes: has no effect: the one at compose.yaml:4:117 takes its place
             4 | ata:/x:what', 'data:/x:Z', '/a:/b:c:d', '/a:/same', '/b:/same/', '/a:/n:nocopy', 'data:/p:rslave', 'data:/c:cached']
               |                                         ^^^^^^^^^^
            warning: compose.yaml:4:164: services.web.volumes[7]: `cached` has no effect on Linux
             4 | me/', '/a:/n:nocopy', 'data:/p:rslave', 'data:/c:cached']
               |                                         ^^^^^^^^^^^^^^^^
        "#]],
    );
    check_web(
        "volumes:\n  - {type: bind, target: /a}\n  - {source: data, target: /a}\n  - {type: volme, target: /a}\n  \
         - {type: tmpfs, target: /t, tmpfs: {mode: 999}}\n  - {type: volume, source: data, target: /v, bind: {}}\n  \
         - {type: volume, source: data}\n  - {type: volume, source: data, target: /w, volume: {subpath: x}}\n\
         tmpfs: ['/run:uid=1', run]",
        expect![[r#"
            compose.yaml:7:16: services.web.volumes[0].type: unknown type `volme`
             7 |       - {type: volme, target: /a}
               |                ^^^^^
               help: did you mean `volume`?
            compose.yaml:8:49: services.web.volumes[1].tmpfs.mode: `999` are not permissions in octal such as `1777`
             8 |       - {type: tmpfs, target: /t, tmpfs: {mode: 999}}
               |                                                 ^^^
            compose.yaml:9:56: services.web.volumes[2].bind: does not go with `type: volume`
             9 |       - {type: volume, source: data, target: /v, bind: {}}
               |                                                        ^
            compose.yaml:10:9: services.web.volumes[3]: `target` is missing: the path in the container
             10 |       - {type: volume, source: data}
                |         ^
            compose.yaml:12:27: services.web.tmpfs[1]: the target `run` is not an absolute path
             12 |     tmpfs: ['/run:uid=1', run]
                |                           ^^^
            warning: compose.yaml:5:9: services.web.volumes: has no effect: the one at compose.yaml:6:9 takes its place
             5 |       - {type: bind, target: /a}
               |         ^
            warning: compose.yaml:6:9: services.web.volumes: has no effect: the one at compose.yaml:7:9 takes its place
             6 |       - {source: data, target: /a}
               |         ^
        "#]],
    );
}

#[test]
fn networks() {
    check_web(
        "networks: [frnt, back, front]",
        expect![[r#"
        compose.yaml:4:16: services.web.networks[0]: the network `frnt` is not declared
         4 |     networks: [frnt, back, front]
           |                ^^^^
           help: did you mean `front`?
        compose.yaml:4:22: services.web.networks[1]: the network `back` is not declared
         4 |     networks: [frnt, back, front]
           |                      ^^^^
           help: declare it at the top level: `networks: {back: {}}`
    "#]],
    );
    check_web(
        "networks: {front: {aliases: [ok, 'not ok', -x, 'a..b'], ipv4_address: 10.0.0.1}}",
        expect![[r#"
            compose.yaml:4:38: services.web.networks.front.aliases[1]: `not ok` is not a host name: letters, digits and `-`, in parts of up to 63 between dots
             4 |     networks: {front: {aliases: [ok, 'not ok', -x, 'a..b'], ipv4_address: 10.0.0.1}}
               |                                      ^^^^^^^^
            compose.yaml:4:48: services.web.networks.front.aliases[2]: `-x` is not a host name: letters, digits and `-`, in parts of up to 63 between dots
             4 |     networks: {front: {aliases: [ok, 'not ok', -x, 'a..b'], ipv4_address: 10.0.0.1}}
               |                                                ^^
            compose.yaml:4:52: services.web.networks.front.aliases[3]: `a..b` is not a host name: letters, digits and `-`, in parts of up to 63 between dots
             4 |     networks: {front: {aliases: [ok, 'not ok', -x, 'a..b'], ipv4_address: 10.0.0.1}}
               |                                                    ^^^^^^
            compose.yaml:4:61: services.web.networks.front.ipv4_address: is not supported: the cluster gives each task an address, and a service an address that does not change
             4 |     networks: {front: {aliases: [ok, 'not ok', -x, 'a..b'], ipv4_address: 10.0.0.1}}
               |                                                             ^^^^^^^^^^^^
               help: remove it, and name the service (or one of its `aliases`) wherever the address is used
        "#]],
    );
    check(
        "services: {web: {image: a, networks: [n]}}\nnetworks:\n  n: {driver_opts: {encrypted: 'no', mtu: 9000}}\n",
        expect![[r#"
            warning: compose.yaml:3:20: networks.n.driver_opts: `mtu` has no effect: the cluster makes the bridge on each node itself
             3 |   n: {driver_opts: {encrypted: 'no', mtu: 9000}}
               |                    ^
            name: "shop"
            networks:
              n:
                driver_opts:
                  mtu: "9000"
                encrypted: false
            services:
              web:
                container:
                  image: "a"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"n"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check(
        "services: {web: {image: a, networks: [n]}}\nnetworks:\n  n: {driver: macvlan, external: true, internal: \
         false, ipam: {}, name: x}\n  'bad name':\nvolumes:\n  v: {driver: nfs, external: yes, driver_opts: {}}\n",
        expect![[r#"
            compose.yaml:3:15: networks.n.driver: the driver `macvlan` is not supported yet
             3 |   n: {driver: macvlan, external: true, internal: false, ipam: {}, name: x}
               |               ^^^^^^^
               help: use `network_mode: host` in the service, or leave `driver` out
            compose.yaml:3:73: networks.n.name: `x` is no name: two or more of letters, digits, `_`, `.` and `-`
             3 |   n: {driver: macvlan, external: true, internal: false, ipam: {}, name: x}
               |                                                                         ^
            compose.yaml:4:3: networks.bad name: `bad name` cannot be the name of a network: only letters, digits, `-`, `_` and `.` are allowed
             4 |   'bad name':
               |   ^^^^^^^^^^
            warning: compose.yaml:6:30: volumes.v.external: write `true`: YAML 1.2 knows no other words for it
             6 |   v: {driver: nfs, external: yes, driver_opts: {}}
               |                              ^^^
        "#]],
    );
}

#[test]
fn deploy() {
    check_web(
        "deploy:\n  replicas: 1e9",
        expect![[r#"
            compose.yaml:5:17: services.web.deploy.replicas: `1e9` is not between 0 and 10000
             5 |       replicas: 1e9
               |                 ^^^
               help: a service can have up to 10000 replicas
        "#]],
    );
    check_web(
        "deploy: {replicas: 10001}\nscale: 3",
        expect![[r#"
            compose.yaml:4:24: services.web.deploy.replicas: `10001` is not between 0 and 10000
             4 |     deploy: {replicas: 10001}
               |                        ^^^^^
               help: a service can have up to 10000 replicas
        "#]],
    );
    check_web(
        "deploy: {mode: global, replicas: 2}",
        expect![[r#"
            warning: compose.yaml:4:38: services.web.deploy.replicas: has no effect: a global service has one task on each node
             4 |     deploy: {mode: global, replicas: 2}
               |                                      ^
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                mode: "global"
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "deploy: {mode: replicated-job, endpoint_mode: dnsrrr}",
        expect![[r#"
            compose.yaml:4:51: services.web.deploy.endpoint_mode: `dnsrrr` is neither `vip` nor `dnsrr`
             4 |     deploy: {mode: replicated-job, endpoint_mode: dnsrrr}
               |                                                   ^^^^^^
        "#]],
    );
    check_web(
        "deploy: {endpoint_mode: dnsrr}\nports: ['80:80']",
        expect![[r#"
        compose.yaml:5:12: services.web.ports: cannot be answered on by every node: with `deploy.endpoint_mode: dnsrr` the service has no address of its own
         5 |     ports: ['80:80']
           |            ^
           help: publish with `mode: host`, or leave `endpoint_mode` out
    "#]],
    );
    check_web(
        "mem_limit: 1g\ndeploy:\n  resources:\n    limits: {memory: 2g, cpus: none}\n    reservations: {memory: \
         3g, devices: []}",
        expect![[r#"
            compose.yaml:4:16: services.web.mem_limit: contradicts `services.web.deploy.resources.limits.memory`, at compose.yaml:7:26
             4 |     mem_limit: 1g
               |                ^^
            compose.yaml:7:36: services.web.deploy.resources.limits.cpus: `none` is not a number of CPUs such as `0.5` or `2`
             7 |         limits: {memory: 2g, cpus: none}
               |                                    ^^^^
            compose.yaml:8:23: services.web.deploy.resources.reservations: more is reserved than the limit allows
             8 |         reservations: {memory: 3g, devices: []}
               |                       ^
        "#]],
    );
    check_web(
        "mem_limit: 1m\ncpus: 0\npids_limit: many",
        expect![[r#"
        compose.yaml:4:16: services.web.mem_limit: is less than the 6MiB that the engine needs
         4 |     mem_limit: 1m
           |                ^^
        compose.yaml:5:11: services.web.cpus: `0` is not between 0.001 and 65536 CPUs
         5 |     cpus: 0
           |           ^
        compose.yaml:6:17: services.web.pids_limit: `many` is not a whole number
         6 |     pids_limit: many
           |                 ^^^^
    "#]],
    );
    check_web(
        "deploy:\n  placement:\n    preferences: []\n    constraints:\n      - node.labels.a = b\n      \
         - node.rol == worker\n      - node.role == boss\n      - node.labels. == x\n      - node.ip != 10.0.0.1\n      \
         - node.id ==\n      - node.id === x",
        expect![[r#"
            compose.yaml:8:13: services.web.deploy.placement.constraints[0]: `node.labels.a = b` is no constraint such as `node.labels.disk == ssd`
             8 |           - node.labels.a = b
               |             ^^^^^^^^^^^^^^^^^
            compose.yaml:9:13: services.web.deploy.placement.constraints[1]: a constraint cannot look at `node.rol`: did you mean `node.role`?
             9 |           - node.rol == worker
               |             ^^^^^^^^^^^^^^^^^^
            compose.yaml:10:13: services.web.deploy.placement.constraints[2]: `boss` is no role; a node is `manager` or `worker`
             10 |           - node.role == boss
                |             ^^^^^^^^^^^^^^^^^
            compose.yaml:11:13: services.web.deploy.placement.constraints[3]: `` cannot be the name of a label
             11 |           - node.labels. == x
                |             ^^^^^^^^^^^^^^^^^
            compose.yaml:13:13: services.web.deploy.placement.constraints[5]: `` cannot be the value of a constraint
             13 |           - node.id ==
                |             ^^^^^^^^^^
            compose.yaml:14:13: services.web.deploy.placement.constraints[6]: `= x` cannot be the value of a constraint
             14 |           - node.id === x
                |             ^^^^^^^^^^^^^
        "#]],
    );
    check_web(
        "restart: sometimes\ndeploy: {restart_policy: {condition: always, delay: 5}}",
        expect![[r#"
            compose.yaml:4:14: services.web.restart: `sometimes` is none of `no`, `always`, `unless-stopped`, `on-failure` and `on-failure:N`
             4 |     restart: sometimes
               |              ^^^^^^^^^
            compose.yaml:5:57: services.web.deploy.restart_policy.delay: `5` is not a time such as `10s`, `1m30s` or `500ms`
             5 |     deploy: {restart_policy: {condition: always, delay: 5}}
               |                                                         ^
            warning: compose.yaml:4:14: services.web.restart: has no effect beside `deploy.restart_policy`
             4 |     restart: sometimes
               |              ^^^^^^^^^
        "#]],
    );
}

#[test]
fn other_values() {
    check_web(
        "hostname: '{{.Node.Hostname}}'\nuser:\nworking_dir: app\nstop_signal: SIGTREM\nstop_grace_period: 10\n\
         init: maybe\nlabels: {dev.raftup.task: x}\nenvironment: ['=x', '']\ncommand: echo 'x",
        expect![[r#"
            compose.yaml:4:15: services.web.hostname: templates are not supported yet
             4 |     hostname: '{{.Node.Hostname}}'
               |               ^^^^^^^^^^^^^^^^^^^^
               help: without `hostname`, each task has a name of its own
            compose.yaml:6:18: services.web.working_dir: the directory `app` is not an absolute path
             6 |     working_dir: app
               |                  ^^^
            compose.yaml:7:18: services.web.stop_signal: `SIGTREM` is no signal; did you mean `SIGTERM`?
             7 |     stop_signal: SIGTREM
               |                  ^^^^^^^
            compose.yaml:8:24: services.web.stop_grace_period: `10` is not a time such as `10s`, `1m30s` or `500ms`
             8 |     stop_grace_period: 10
               |                        ^^
            compose.yaml:9:11: services.web.init: `maybe` is neither `true` nor `false`
             9 |     init: maybe
               |           ^^^^^
            compose.yaml:10:31: services.web.labels.dev.raftup.task: the label `dev.raftup.task` is one that the cluster sets itself
             10 |     labels: {dev.raftup.task: x}
                |                               ^
            compose.yaml:11:19: services.web.environment[0]: the name before `=` is missing
             11 |     environment: ['=x', '']
                |                   ^^^^
            compose.yaml:11:25: services.web.environment[1]: must be a value, not an empty text
             11 |     environment: ['=x', '']
                |                         ^^
            compose.yaml:12:14: services.web.command: the quote ' is not closed
             12 |     command: echo 'x
                |              ^^^^^^^
        "#]],
    );
    check_web(
        "command: {a: b}\nlabels: text\nvolumes: data\nenvironment: [[a]]\nhealthcheck: true",
        expect![[r#"
        compose.yaml:4:14: services.web.command: must be a text or a list, not a mapping
         4 |     command: {a: b}
           |              ^
        compose.yaml:5:13: services.web.labels: must be a mapping, not a text
         5 |     labels: text
           |             ^^^^
        compose.yaml:6:14: services.web.volumes: must be a list, not a text
         6 |     volumes: data
           |              ^^^^
        compose.yaml:7:19: services.web.environment[0]: must be a text, not a list
         7 |     environment: [[a]]
           |                   ^
        compose.yaml:8:18: services.web.healthcheck: must be a mapping, not a text
         8 |     healthcheck: true
           |                  ^^^^
    "#]],
    );
    check_web(
        "healthcheck: {test: [curl], interval: 10us, retries: -1}",
        expect![[r#"
        compose.yaml:4:25: services.web.healthcheck.test: must begin with `CMD`, `CMD-SHELL` or `NONE`
         4 |     healthcheck: {test: [curl], interval: 10us, retries: -1}
           |                         ^
           help: such as `["CMD", "curl", "-f", "http://localhost"]`
        compose.yaml:4:43: services.web.healthcheck.interval: must be at least 1ms
         4 |     healthcheck: {test: [curl], interval: 10us, retries: -1}
           |                                           ^^^^
        compose.yaml:4:58: services.web.healthcheck.retries: `-1` is not between 0 and 1000
         4 |     healthcheck: {test: [curl], interval: 10us, retries: -1}
           |                                                          ^^
    "#]],
    );
    check_web(
        "healthcheck: {test: [CMD]}",
        expect![[r#"
        compose.yaml:4:25: services.web.healthcheck.test: the command after `CMD` is missing
         4 |     healthcheck: {test: [CMD]}
           |                         ^
    "#]],
    );
    check(
        "services:\n  web:\n  db: {}\n  'b d': {image: x}\n",
        expect![[r#"
        compose.yaml:2:3: services.web: has no `image`
         2 |   web:
           |   ^^^
        compose.yaml:3:3: services.db: has no `image`
         3 |   db: {}
           |   ^^
        compose.yaml:4:3: services.b d: `b d` cannot be the name of a service: only letters, digits, `-`, `_` and `.` are allowed
         4 |   'b d': {image: x}
           |   ^^^^^
    "#]],
    );
    check(
        "services:\n",
        expect![[r#"
        compose.yaml: there are no services
    "#]],
    );
    check(
        "name: Shop\nservices: {web: {image: nginx}}\n",
        expect![[r#"
        compose.yaml:1:7: name: `Shop` cannot be the name of a stack: only lower-case letters, digits, `-` and `_` are allowed
         1 | name: Shop
           |       ^^^^
    "#]],
    );
    check(
        "services:\n  a: {image: 'Nginx'}\n  b: {image: 'nginx latest'}\n  c: {image: 'nginx:'}\n  d: {image: \
         ''}\n  e: {image: 'a//b'}\n  f: {image: 'localhost:5000/a/b:c'}\n",
        expect![[r#"
            compose.yaml:2:14: services.a.image: `Nginx` cannot name an image: its name has to be in lower case
             2 |   a: {image: 'Nginx'}
               |              ^^^^^^^
            compose.yaml:3:14: services.b.image: `nginx latest` cannot name an image: ` ` is not allowed
             3 |   b: {image: 'nginx latest'}
               |              ^^^^^^^^^^^^^^
            compose.yaml:4:14: services.c.image: `nginx:` cannot name an image: it is `[HOST/]NAME[:TAG][@DIGEST]`
             4 |   c: {image: 'nginx:'}
               |              ^^^^^^^^
            compose.yaml:5:3: services.d: has no `image`
             5 |   d: {image: ''}
               |   ^
            compose.yaml:6:14: services.e.image: `a//b` cannot name an image: it is `[HOST/]NAME[:TAG][@DIGEST]`
             6 |   e: {image: 'a//b'}
               |              ^^^^^^
        "#]],
    );
}

#[test]
fn variables() {
    check(
        "services:\n  web:\n    image: ${IMAGE:?name the image}\n    hostname: x${\n    user: $1\n    command: \
         [echo, \"a ${UNSET} b\"]\n",
        expect![[r#"
            compose.yaml:3:12: services.web.image: the variable `IMAGE` has to be set: name the image
             3 |     image: ${IMAGE:?name the image}
               |            ^^^^^^^^^^^^^^^^^^^^^^^^
            compose.yaml:4:16: services.web.hostname: `${` is not closed
             4 |     hostname: x${
               |                ^^
               help: close it with `}`, or write `$${` for a literal `${`
            warning: compose.yaml:6:24: services.web.command[1]: the variable `UNSET` is not set; it is taken as empty
             6 |     command: [echo, "a ${UNSET} b"]
               |                        ^^^^^^^
               help: set it, or write `${UNSET:-default}`
        "#]],
    );
    check(
        "## compose.yaml\nservices: {web: {image: a, env_file: [web.env, none.env]}}\n## web.env\nA=1\n  =x\nB=\"\
         open\nC=d\n## .env\nbad name=1\nX='a' b\nY=${\n",
        expect![[r#"
            compose.yaml:1:48: services.web.env_file[1]: there is no file `none.env`
             1 | services: {web: {image: a, env_file: [web.env, none.env]}}
               |                                                ^^^^^^^^
               help: create it, or use the long form with `required: false`
            .env:1:1: `bad name` cannot be the name of a variable
             1 | bad name=1
               | ^^^^^^^^^^
               help: each line is `NAME=value`; comments begin with `#`
            .env:2:3: `b` stands behind the closing quote
             2 | X='a' b
               |   ^
            .env:3:3: `${` is not closed
             3 | Y=${
               |   ^^
               help: close it with `}`, or write `$${` for a literal `${`
            web.env:2:3: a name is missing
             2 |   =x
               |   ^^
               help: each line is `NAME=value`; comments begin with `#`
            web.env:3:3: the quote " is not closed
             3 | B="open
               |   ^
        "#]],
    );
    check(
        "## compose.yaml\nservices: {web: {image: a, environment: {A: '$X'}}}\n## .env\nX=${Y}\n",
        expect![[r#"
            warning: .env:1:3: the variable `Y` is not set; it is taken as empty
             1 | X=${Y}
               |   ^^^
               help: set it, or write `${Y:-default}`
            name: "shop"
            services:
              web:
                container:
                  env:
                    A: ""
                  image: "a"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn updates_that_cannot_be() {
    check_web(
        r"
deploy:
  update_config: {parallelism: -1, delay: soon, order: first, monitor: 5, failure_action: stop, max_failure_ratio: 1.5, paralelism: 2}
  rollback_config: {failure_action: rollback, max_failure_ratio: some}
",
        expect![[r#"
            compose.yaml:5:36: services.web.deploy.update_config.parallelism: `-1` is not between 0 and 10000
             5 |       update_config: {parallelism: -1, delay: soon, order: first, monitor: 5, failure_action: stop, max_failure_ratio: 1
               |                                    ^^
            compose.yaml:5:47: services.web.deploy.update_config.delay: `soon` is not a time such as `10s`, `1m30s` or `500ms`
             5 | update_config: {parallelism: -1, delay: soon, order: first, monitor: 5, failure_action: stop, max_failure_ratio: 1.5, pa
               |                                         ^^^^
            compose.yaml:5:60: services.web.deploy.update_config.order: `first` is neither `stop-first` nor `start-first`
             5 | : {parallelism: -1, delay: soon, order: first, monitor: 5, failure_action: stop, max_failure_ratio: 1.5, paralelism: 2}
               |                                         ^^^^^
            compose.yaml:5:76: services.web.deploy.update_config.monitor: `5` is not a time such as `10s`, `1m30s` or `500ms`
             5 | -1, delay: soon, order: first, monitor: 5, failure_action: stop, max_failure_ratio: 1.5, paralelism: 2}
               |                                         ^
            compose.yaml:5:95: services.web.deploy.update_config.failure_action: `stop` is none of `pause`, `continue` and `rollback`
             5 | der: first, monitor: 5, failure_action: stop, max_failure_ratio: 1.5, paralelism: 2}
               |                                         ^^^^
            compose.yaml:5:120: services.web.deploy.update_config.max_failure_ratio: `1.5` is not between 0 and 1
             5 | ailure_action: stop, max_failure_ratio: 1.5, paralelism: 2}
               |                                         ^^^
            compose.yaml:5:125: services.web.deploy.update_config.paralelism: unknown key `paralelism`
             5 | e_action: stop, max_failure_ratio: 1.5, paralelism: 2}
               |                                         ^^^^^^^^^^
               help: did you mean `parallelism`?
            compose.yaml:6:41: services.web.deploy.rollback_config.failure_action: `rollback` is neither `pause` nor `continue`
             6 |       rollback_config: {failure_action: rollback, max_failure_ratio: some}
               |                                         ^^^^^^^^
            compose.yaml:6:70: services.web.deploy.rollback_config.max_failure_ratio: `some` is not a number such as `0.25`
             6 |       rollback_config: {failure_action: rollback, max_failure_ratio: some}
               |                                                                      ^^^^
        "#]],
    );
    check_web(
        "deploy: {update_config: [start-first], rollback_config: fast}",
        expect![[r#"
        compose.yaml:4:29: services.web.deploy.update_config: must be a mapping, not a list
         4 |     deploy: {update_config: [start-first], rollback_config: fast}
           |                             ^
        compose.yaml:4:61: services.web.deploy.rollback_config: must be a mapping, not a text
         4 |     deploy: {update_config: [start-first], rollback_config: fast}
           |                                                             ^^^^
    "#]],
    );
}

#[test]
fn our_own_extension() {
    check_web(
        "x-raftup: {routing: nearest, router: x}",
        expect![[r#"
        compose.yaml:4:25: services.web.x-raftup.routing: `nearest` is none of `any`, `local` and `sticky`
         4 |     x-raftup: {routing: nearest, router: x}
           |                         ^^^^^^^
        compose.yaml:4:34: services.web.x-raftup.router: unknown key `router`
         4 |     x-raftup: {routing: nearest, router: x}
           |                                  ^^^^^^
    "#]],
    );
    check_web(
        "x-raftup: local",
        expect![[r#"
            compose.yaml:4:15: services.web.x-raftup: must be a mapping, not a text
             4 |     x-raftup: local
               |               ^^^^^
        "#]],
    );
    check(
        "x-raftup: {routing: local}\nservices: {web: {image: nginx, deploy: {x-raftup: {}}}}\n",
        expect![[r#"
            compose.yaml:1:1: x-raftup: `x-raftup` says nothing here
             1 | x-raftup: {routing: local}
               | ^^^^^^^^
               help: it belongs to a service
            compose.yaml:2:41: services.web.deploy.x-raftup: `x-raftup` says nothing here
             2 | services: {web: {image: nginx, deploy: {x-raftup: {}}}}
               |                                         ^^^^^^^^
               help: it belongs to a service
        "#]],
    );
}

#[test]
fn ports_that_nobody_could_reach() {
    check(
        "services:\n  web: {image: a, ports: ['80:80'], networks: [n, m]}\n  both: {image: a, ports: ['81:80'], \
         networks: [n, o]}\n  mute: {image: a, ports: [], networks: [n]}\nnetworks:\n  n: {internal: true}\n  m: {internal: true}\n  o: {internal: maybe}\n",
        expect![[r#"
            compose.yaml:2:26: services.web.ports: nobody could reach them: all networks of the service are `internal`
             2 |   web: {image: a, ports: ['80:80'], networks: [n, m]}
               |                          ^
               help: put the service on a network more that is not `internal`, or remove `ports`
            compose.yaml:4:27: services.mute.ports: nobody could reach them: all networks of the service are `internal`
             4 |   mute: {image: a, ports: [], networks: [n]}
               |                           ^
               help: put the service on a network more that is not `internal`, or remove `ports`
            compose.yaml:8:17: networks.o.internal: `maybe` is neither `true` nor `false`
             8 |   o: {internal: maybe}
               |                 ^^^^^
        "#]],
    );
}
