//! Options of containers, mounts, networks and volumes, in their short and long forms.

use expect_test::expect;

use super::{check, check_env, check_web};

#[test]
fn limits() {
    check_web(
        "sysctls: [net.core.somaxconn=1024]\nulimits: {nproc: 65535, nofile: {soft: 1024, hard: -1}}\nshm_size: 1gb\n\
         cpu_shares: 73\ncpu_quota: 50000\ncpu_period: 20ms\ncpu_rt_runtime: 400ms\ncpu_rt_period: 1400us\ncpuset: 0-1\n\
         mem_limit: 64m\nmemswap_limit: 1g\nmem_swappiness: 0\noom_kill_disable: true\noom_score_adj: -5\ncpu_count: 2",
        expect![[r#"
            warning: compose.yaml:18:5: services.web.cpu_count: has no effect: it belongs to containers of Windows
             18 |     cpu_count: 2
                |     ^^^^^^^^^
            name: "shop"
            services:
              web:
                container:
                  cpu:
                    period: "0.020s"
                    quota: "0.050s"
                    realtime_period: "0.001s"
                    realtime_runtime: "0.400s"
                    set: "0-1"
                    shares: 73
                  image: "nginx"
                  memory:
                    oom_kill_disable: true
                    oom_score_adj: -5
                    shm_size: 1073741824
                    swap:
                      limit: 1073741824
                    swappiness: 0
                  sysctls:
                    net.core.somaxconn: "1024"
                  ulimits:
                    nofile:
                      hard: -1
                      soft: 1024
                    nproc:
                      hard: 65535
                      soft: 65535
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                resources:
                  limits:
                    memory: 67108864
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "sysctls: {net.core.somaxconn: 1024}\nmemswap_limit: -1\nstorage_opt: {size: 1G}\nblkio_config:\n  weight: 300\n  \
         weight_device: [{path: /dev/sda, weight: 400}]\n  device_read_bps: [{path: /dev/sdb, rate: 12mb}]\n  \
         device_write_iops: [{path: /dev/sdb, rate: 30}]",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  block_io:
                    read_bps: {"path":"/dev/sdb","rate":12582912}
                    weight: 300
                    weight_device: {"path":"/dev/sda","weight":400}
                    write_iops: {"path":"/dev/sdb","rate":30}
                  image: "nginx"
                  memory:
                    swap: "unlimited"
                  storage_opt:
                    size: "1G"
                  sysctls:
                    net.core.somaxconn: "1024"
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
fn privileges() {
    check_web(
        "privileged: true\ncap_add: [NET_ADMIN, CAP_SYS_TIME, all]\ncap_drop: [MKNOD]\nsecurity_opt: [no-new-privileges, \
         'label:disable', 'seccomp:unconfined']\ngroup_add: [mail, 1000]\ndevices: [/dev/ttyUSB0, '/dev/sda:/dev/xvda:r', \
         {source: /dev/fuse, permissions: rw}, vendor1.com/device=gpu]\ndevice_cgroup_rules: ['c 1:3 mr', 'a 7:* rmw']",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  privileges:
                    cap_add: ["NET_ADMIN","CAP_SYS_TIME","all"]
                    cap_drop: ["MKNOD"]
                    device_cgroup_rules: ["c 1:3 mr","a 7:* rmw"]
                    device_requests: {"device_ids":["vendor1.com/device=gpu"],"driver":"cdi"}
                    devices: {"permissions":"rwm","source":"/dev/ttyUSB0","target":"/dev/ttyUSB0"}
                    devices: {"permissions":"r","source":"/dev/sda","target":"/dev/xvda"}
                    devices: {"permissions":"rw","source":"/dev/fuse","target":"/dev/fuse"}
                    group_add: ["mail","1000"]
                    privileged: true
                    security_opt: ["no-new-privileges","label=disable","seccomp=unconfined"]
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check(
        "## compose.yaml\nservices: {web: {image: nginx, security_opt: ['seccomp=./allow.json']}}\n## allow.json\n{\n \"a\": 1 }\n",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  privileges:
                    security_opt: ["seccomp={\"a\":1}"]
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
fn gpus() {
    check_web(
        "gpus: all\ndeploy: {resources: {reservations: {devices: [{capabilities: [tpu], count: 2}]}}}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  privileges:
                    device_requests: {"capabilities":["tpu"],"count":2}
                    device_requests: {"capabilities":["gpu"],"count":-1}
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "gpus: [{driver: nvidia, device_ids: ['0', '1'], options: {virtualization: false}}]",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  privileges:
                    device_requests: {"capabilities":["gpu"],"device_ids":["0","1"],"driver":"nvidia","options":{"virtualization":"false"}}
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
fn namespaces_and_names() {
    check_web(
        "pid: host\nipc: shareable\nuts: host\nuserns_mode: host\ncgroup: private\ncgroup_parent: m-executor\n\
         dns: 8.8.8.8\ndns_search: [dc1.example.com, .]\ndns_opt: [use-vc]\ndomainname: example.org\nextra_hosts: ['a:1.2.3.4', \
         'b=::1', 'c:[::1]', 'me:host-gateway']",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  domainname: "example.org"
                  image: "nginx"
                  names:
                    hosts: [["a","1.2.3.4"],["b","::1"],["c","::1"],["me","host-gateway"]]
                    options: ["use-vc"]
                    search: ["dc1.example.com","."]
                    servers: ["8.8.8.8"]
                  namespaces:
                    cgroup: "private"
                    cgroup_parent: "m-executor"
                    ipc: "shareable"
                    pid: "host"
                    user: "host"
                    uts: "host"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "extra_hosts: {a: 1.2.3.4, b: [1.2.3.5, '::1']}\nnetwork_mode: bridge",
        expect![[r#"
        name: "shop"
        services:
          web:
            container:
              image: "nginx"
              names:
                hosts: [["a","1.2.3.4"],["b","1.2.3.5"],["b","::1"]]
            mode:
              replicated:
                replicas: 1
            networks: {"network":"default"}
            restart:
              condition: "any"
              delay: "5.000s"
    "#]],
    );
    check_web(
        "network_mode: host\nports: ['80:80', '81']\nmac_address: 02:42:ac:11:65:43",
        expect![[r#"
        warning: compose.yaml:5:12: services.web.ports: has no effect with `network_mode: host`: there is nothing to publish
         5 |     ports: ['80:80', '81']
           |            ^
        name: "shop"
        services:
          web:
            container:
              image: "nginx"
              namespaces:
                network: "host"
            mode:
              replicated:
                replicas: 1
            restart:
              condition: "any"
              delay: "5.000s"
    "#]],
    );
    check(
        "services: {web: {image: nginx, networks: [outside]}}\nnetworks: {outside: {external: true, name: host}}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  namespaces:
                    network: "host"
                mode:
                  replicated:
                    replicas: 1
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn terminals_logs_and_pulls() {
    check_web(
        "tty: true\nstdin_open: true\nlogging: {driver: syslog, options: {syslog-address: 'tcp://192.168.0.42:123', max-file: 3}}\n\
         pull_policy: always\nplatform: linux/arm64/v8\nruntime: nvidia\nannotations: [a=b]\nattach: false\nisolation: default\n\
         develop: {watch: []}",
        expect![[r#"
            warning: compose.yaml:11:5: services.web.attach: has no effect: services run in the background
             11 |     attach: false
                |     ^^^^^^
            warning: compose.yaml:13:5: services.web.develop: has no effect: nothing on a cluster watches the files of a developer
             13 |     develop: {watch: []}
                |     ^^^^^^^
            name: "shop"
            services:
              web:
                container:
                  annotations:
                    a: "b"
                  image: "nginx"
                  logging:
                    driver: "syslog"
                    options:
                      max-file: "3"
                      syslog-address: "tcp://192.168.0.42:123"
                  platform: "linux/arm64/v8"
                  pull_policy: "always"
                  runtime: "nvidia"
                  stdin_open: true
                  tty: true
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                placement:
                  constraints: {"attribute":"arch","equal":true,"value":"arm64"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "pull_policy: every_12h\nplatform: linux",
        expect![[r#"
        name: "shop"
        services:
          web:
            container:
              image: "nginx"
              platform: "linux"
            mode:
              replicated:
                replicas: 1
            networks: {"network":"default"}
            restart:
              condition: "any"
              delay: "5.000s"
    "#]],
    );
    check_web(
        "pull_policy: never\nscale: 2",
        expect![[r#"
        name: "shop"
        services:
          web:
            container:
              image: "nginx"
              pull_policy: "never"
            mode:
              replicated:
                replicas: 2
            networks: {"network":"default"}
            restart:
              condition: "any"
              delay: "5.000s"
    "#]],
    );
}

#[test]
fn labels_of_files() {
    check(
        "## compose.yaml\nservices: {web: {image: nginx, label_file: [a.labels], labels: {tier: back}}}\n## a.labels\ntier=front\nteam=blue\n",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  labels:
                    team: "blue"
                    tier: "back"
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
fn images_that_are_built() {
    check(
        "services: {web: {build: ./web}, db: {image: 'acme/db:1', build: {context: 'https://example.org/db.git', target: prod}}}",
        expect![[r#"
            warning: compose.yaml:1:18: services.web.build: nothing is built yet: the image `shop-web` must be in a registry or on the nodes
             1 | services: {web: {build: ./web}, db: {image: 'acme/db:1', build: {context: 'https://example.org/db.git', target: prod}}}
               |                  ^^^^^
               help: `docker compose build`, then `docker compose push`
            warning: compose.yaml:1:58: services.db.build: nothing is built yet: the image `acme/db:1` must be in a registry or on the nodes
             1 | services: {web: {build: ./web}, db: {image: 'acme/db:1', build: {context: 'https://example.org/db.git', target: prod}}}
               |                                                          ^^^^^
               help: `docker compose build`, then `docker compose push`
            name: "shop"
            services:
              db:
                build:
                  context: "https://example.org/db.git"
                  target: "prod"
                container:
                  image: "acme/db:1"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              web:
                build:
                  context: "/srv/shop/web"
                container:
                  image: "shop-web"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "build:\n  context: .\n  dockerfile: Dockerfile.dev\n  args: [GIT_COMMIT=cdc3b19, SET]\n  ssh: [default, k=~/.ssh/k]\n  \
         additional_contexts: {res: ./res}\n  cache_from: [alpine:latest]\n  cache_to: ['type=local,dest=x']\n  \
         extra_hosts: ['a=1.2.3.4']\n  labels: {a: b}\n  no_cache: true\n  pull: true\n  network: host\n  shm_size: 2gb\n  \
         secrets: [s, {source: t, target: u, uid: '103', mode: 0o440}]\n  tags: ['a:1']\n  platforms: [linux/amd64]\n  \
         privileged: true\n  ulimits: {nproc: 3}\n  entitlements: [network.host]\n  provenance: true\n  sbom: true",
        expect![[r#"
            warning: compose.yaml:4:5: services.web.build: nothing is built yet: the image `nginx` must be in a registry or on the nodes
             4 |     build:
               |     ^^^^^
               help: `docker compose build`, then `docker compose push`
            name: "shop"
            services:
              web:
                build:
                  additional_contexts:
                    res: "/srv/shop/res"
                  args:
                    GIT_COMMIT: "cdc3b19"
                    SET: "set"
                  cache_from: ["alpine:latest"]
                  cache_to: ["type=local,dest=x"]
                  context: "/srv/shop"
                  dockerfile: "Dockerfile.dev"
                  entitlements: ["network.host"]
                  extra_hosts: [["a","1.2.3.4"]]
                  labels:
                    a: "b"
                  network: "host"
                  no_cache: true
                  platforms: ["linux/amd64"]
                  privileged: true
                  provenance: "true"
                  pull: true
                  sbom: "true"
                  secrets: {"source":"s"}
                  secrets: {"mode":288,"source":"t","target":"u","uid":"103"}
                  shm_size: 2147483648
                  ssh: ["default","k=~/.ssh/k"]
                  tags: ["a:1"]
                  ulimits:
                    nproc:
                      hard: 3
                      soft: 3
                container:
                  image: "nginx"
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
fn options_of_mounts() {
    check_web(
        "volumes: ['data:/a:z', './b:/b:ro,Z', './c:/c:cached', './d:/d:delegated', {type: image, source: 'nginx:1', target: /e, \
         image: {subpath: html}}]\ntmpfs: ['/f:size=64m,mode=755,noexec,uid=1000', /g]",
        expect![[r#"
            warning: compose.yaml:4:43: services.web.volumes[2]: `cached` has no effect on Linux
             4 |   volumes: ['data:/a:z', './b:/b:ro,Z', './c:/c:cached', './d:/d:delegated', {type: image, source: 'nginx:1', target: /e
               |                                         ^^^^^^^^^^^^^^^
            warning: compose.yaml:4:60: services.web.volumes[3]: `delegated` has no effect on Linux
             4 | :/a:z', './b:/b:ro,Z', './c:/c:cached', './d:/d:delegated', {type: image, source: 'nginx:1', target: /e, image: {subpath
               |                                         ^^^^^^^^^^^^^^^^^^
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  mounts: {"options":{"relabel":"shared"},"source":{"volume":{"name":"data"}},"target":"/a"}
                  mounts: {"options":{"relabel":"private"},"read_only":true,"source":{"bind":{"create":true,"path":"/srv/shop/b"}},"target":"/b"}
                  mounts: {"source":{"bind":{"create":true,"path":"/srv/shop/c"}},"target":"/c"}
                  mounts: {"source":{"bind":{"create":true,"path":"/srv/shop/d"}},"target":"/d"}
                  mounts: {"options":{"subpath":"html"},"source":{"image":{"image":"nginx:1"}},"target":"/e"}
                  mounts: {"options":{"tmpfs":["noexec","uid=1000"]},"source":{"tmpfs":{"mode":493,"size":67108864}},"target":"/f"}
                  mounts: {"target":"/g"}
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "volumes: [{type: volume, source: data, target: /a, volume: {subpath: x/y, labels: {a: b}}}, {type: bind, source: ./b, \
         target: /b, bind: {selinux: z, recursive: disabled}}]\ntmpfs:",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  mounts: {"options":{"subpath":"x/y","volume":{"labels":{"a":"b"}}},"source":{"volume":{"name":"data"}},"target":"/a"}
                  mounts: {"options":{"recursive":"disabled","relabel":"shared"},"source":{"bind":{"create":true,"path":"/srv/shop/b"}},"target":"/b"}
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check(
        "services: {web: {image: nginx, volumes: ['nfs:/a', 'out:/b', 'old:/c', 'named:/d']}}\nvolumes:\n  nfs: {driver: local, \
         driver_opts: {type: nfs, o: 'addr=10.0.0.1,rw', device: ':/srv'}}\n  out: {external: true}\n  old: {external: {name: \
         older}}\n  named: {name: other, driver: rexray, labels: [a=b]}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  mounts: {"options":{"volume":{"driver_opts":{"device":":/srv","o":"addr=10.0.0.1,rw","type":"nfs"}}},"source":{"volume":{"name":"nfs"}},"target":"/a"}
                  mounts: {"options":{"volume":{"external":true,"name":"out"}},"source":{"volume":{"name":"out"}},"target":"/b"}
                  mounts: {"options":{"volume":{"external":true,"name":"older"}},"source":{"volume":{"name":"old"}},"target":"/c"}
                  mounts: {"options":{"volume":{"driver":"rexray","labels":{"a":"b"},"name":"other"}},"source":{"volume":{"name":"named"}},"target":"/d"}
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
            volumes:
              named:
                config:
                  driver: "rexray"
                  name: "other"
                labels:
                  a: "b"
              nfs:
                config:
                  driver_opts:
                    device: ":/srv"
                    o: "addr=10.0.0.1,rw"
                    type: "nfs"
              old:
                config:
                  external: true
                  name: "older"
              out:
                config:
                  external: true
                  name: "out"
        "#]],
    );
    check_web(
        "volumes: ['./a:/data', 'data:/data']",
        expect![[r#"
            warning: compose.yaml:4:15: services.web.volumes: has no effect: the one at compose.yaml:4:28 takes its place
             4 |     volumes: ['./a:/data', 'data:/data']
               |               ^^^^^^^^^^^
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  mounts: {"source":{"volume":{"name":"data"}},"target":"/data"}
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
fn options_of_networks() {
    check(
        "services:\n  web:\n    image: nginx\n    mac_address: 02:42:AC:11:65:43\n    networks:\n      back: {aliases: ['', db], \
         driver_opts: {a: b}}\n      front: {priority: 10, interface_name: eth7, link_local_ips: [169.254.0.7]}\nnetworks:\n  \
         back: {name: shared, ipam: {driver: default, config: [{subnet: 172.20.0.0/16, gateway: 172.20.0.1}]}}\n  \
         front: {external: true, name: proxy}\n  spare: {external: {name: unused}}",
        expect![[r#"
            warning: compose.yaml:9:30: networks.back.ipam: has no effect: the cluster gives each network addresses of its own
             9 |   back: {name: shared, ipam: {driver: default, config: [{subnet: 172.20.0.0/16, gateway: 172.20.0.1}]}}
               |                              ^
            name: "shop"
            networks:
              back:
                ipam: {"gateway":"172.20.0.1","subnet":"172.20.0.0/16"}
                name: "shared"
              front:
                external: true
                name: "proxy"
            services:
              web:
                container:
                  endpoints: {"driver_opts":{"com.docker.network.endpoint.ifname":"eth7"},"link_local_ips":["169.254.0.7"],"mac_address":"02:42:ac:11:65:43"}
                  endpoints: {"driver_opts":{"a":"b"}}
                  image: "nginx"
                mode:
                  replicated:
                    replicas: 1
                networks: {"external":"proxy","network":"front"}
                networks: {"aliases":["db"],"network":"back"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check(
        "services: {web: {image: nginx}}\nnetworks: {default: {external: true, name: proxy}}",
        expect![[r#"
            name: "shop"
            networks:
              default:
                external: true
                name: "proxy"
            services:
              web:
                container:
                  image: "nginx"
                mode:
                  replicated:
                    replicas: 1
                networks: {"external":"proxy","network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check(
        "services: {web: {image: nginx, networks: [a, b, a]}}\nnetworks: {a: {driver_opts: {encrypted: 'on'}}, b: {driver_opts: \
         {encrypted: no, com.docker.network.bridge.name: br7}}}",
        expect![[r#"
            warning: compose.yaml:2:66: networks.b.driver_opts: `com.docker.network.bridge.name` has no effect: the cluster makes the bridge on each node itself
             2 | networks: {a: {driver_opts: {encrypted: 'on'}}, b: {driver_opts: {encrypted: no, com.docker.network.bridge.name: br7}}}
               |                                                                  ^
            name: "shop"
            networks:
              a:
                encrypted: true
              b:
                driver_opts:
                  com.docker.network.bridge.name: "br7"
                encrypted: false
            services:
              web:
                container:
                  image: "nginx"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"a"}
                networks: {"network":"b"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn ports_of_the_clusters_choice() {
    check_web(
        "ports: ['80', '8000-8001', '127.0.0.1::81', {target: 82, mode: host, protocol: udp}, '0:83', ':84:84', '85:85', '85:85']",
        expect![[r#"
            name: "shop"
            services:
              web:
                any_ports: {"mode":"ingress","protocol":"tcp","target":80}
                any_ports: {"host_ip":"127.0.0.1","mode":"ingress","protocol":"tcp","target":81}
                any_ports: {"mode":"ingress","protocol":"tcp","target":83}
                any_ports: {"mode":"ingress","protocol":"tcp","target":8000}
                any_ports: {"mode":"ingress","protocol":"tcp","target":8001}
                any_ports: {"mode":"host","protocol":"udp","target":82}
                container:
                  image: "nginx"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                ports: {"mode":"ingress","protocol":"tcp","published":84,"target":84}
                ports: {"mode":"ingress","protocol":"tcp","published":85,"target":85}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn names_of_containers() {
    check(
        "services: {web: {image: nginx, container_name: shop-web, networks: {front: {aliases: [www]}, back: {}}}, db: {image: \
         postgres, container_name: db}}\nnetworks: {front: {}, back: {}}",
        expect![[r#"
            name: "shop"
            services:
              db:
                container:
                  container_name: "db"
                  image: "postgres"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              web:
                container:
                  container_name: "shop-web"
                  image: "nginx"
                mode:
                  replicated:
                    replicas: 1
                networks: {"aliases":["shop-web","www"],"network":"front"}
                networks: {"aliases":["shop-web"],"network":"back"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn links_are_names_of_the_other_service() {
    check(
        "services: {web: {image: nginx, links: [db, 'db:database']}, db: {image: postgres}}",
        expect![[r#"
            name: "shop"
            services:
              db:
                container:
                  image: "postgres"
                mode:
                  replicated:
                    replicas: 1
                networks: {"aliases":["database"],"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              web:
                container:
                  image: "nginx"
                depends_on:
                  db:
                    condition: "service_started"
                    required: true
                    restart: true
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
fn volumes_of_other_services() {
    check(
        "services:\n  a: {image: nginx, volumes: ['data:/data', './own:/own']}\n  b: {image: nginx, volumes_from: ['a:ro'], volumes: \
         ['./mine:/own']}\n  c: {image: nginx, volumes_from: [b]}\nvolumes: {data: {}}",
        expect![[r#"
            name: "shop"
            services:
              a:
                container:
                  image: "nginx"
                  mounts: {"source":{"volume":{"name":"data"}},"target":"/data"}
                  mounts: {"source":{"bind":{"create":true,"path":"/srv/shop/own"}},"target":"/own"}
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              b:
                container:
                  image: "nginx"
                  mounts: {"source":{"bind":{"create":true,"path":"/srv/shop/mine"}},"target":"/own"}
                  mounts: {"read_only":true,"source":{"volume":{"name":"data"}},"target":"/data"}
                depends_on:
                  a:
                    condition: "service_started"
                    required: true
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              c:
                container:
                  image: "nginx"
                  mounts: {"source":{"bind":{"create":true,"path":"/srv/shop/mine"}},"target":"/own"}
                  mounts: {"read_only":true,"source":{"volume":{"name":"data"}},"target":"/data"}
                depends_on:
                  b:
                    condition: "service_started"
                    required: true
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
fn what_compose_takes_too() {
    check_web(
        "deploy: {mode: global, replicas: 3, placement: {constraints: [Node.Labels.Disk == ssd, NODE.ROLE==worker], preferences: \
         [{spread: node.labels.zone}]}, restart_policy: {condition: always}}\nhealthcheck: {test: [CMD-SHELL, exit 0, x]}\n\
         environment:\nports:\ncommand: [sleep, 5]",
        expect![[r#"
            warning: compose.yaml:4:38: services.web.deploy.replicas: has no effect: a global service has one task on each node
             4 |     deploy: {mode: global, replicas: 3, placement: {constraints: [Node.Labels.Disk == ssd, NODE.ROLE==worker], preferenc
               |                                      ^
            warning: compose.yaml:5:25: services.web.healthcheck.test: the shell runs the first text alone; the others are its arguments
             5 |     healthcheck: {test: [CMD-SHELL, exit 0, x]}
               |                         ^
               help: write the whole line as one text: `["CMD-SHELL", "exit 0 ..."]`
            name: "shop"
            services:
              web:
                container:
                  command: ["sleep","5"]
                  healthcheck:
                    check:
                      test: ["CMD-SHELL","exit 0","x"]
                  image: "nginx"
                mode: "global"
                networks: {"network":"default"}
                placement:
                  constraints: {"attribute":{"label":"Disk"},"equal":true,"value":"ssd"}
                  constraints: {"attribute":"role","equal":true,"value":"worker"}
                  spread: {"label":"zone"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_env(
        "services: {web: {image: nginx, hostname: '${NONE}', restart: '${NONE}', user: '', working_dir: '', stop_signal: ''}}",
        &[("NONE", "")],
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
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
fn what_cannot_be_an_option() {
    check_web(
        "sysctls: x\nulimits: {files: 3, nofile: many, nproc: {soft: 3}, core: {soft: 5, hard: 4}}\ncap_add: [NET_ADMINS, '']\n\
         security_opt: [nothing, 'label', 'seccomp:./none.json', 'x:y']\ndevices: [null, 'a:b', '/a:/b:/c:/d', '/a:/b:x', {target: /a}]\n\
         device_cgroup_rules: [c 1 r]\ngroup_add: a",
        expect![[r#"
            compose.yaml:4:14: services.web.sysctls: must be a mapping, not a text
             4 |     sysctls: x
               |              ^
            compose.yaml:5:15: services.web.ulimits.files: there is no limit `files`
             5 |     ulimits: {files: 3, nofile: many, nproc: {soft: 3}, core: {soft: 5, hard: 4}}
               |               ^^^^^
            compose.yaml:5:33: services.web.ulimits.nofile: `many` is not a whole number
             5 |     ulimits: {files: 3, nofile: many, nproc: {soft: 3}, core: {soft: 5, hard: 4}}
               |                                 ^^^^
            compose.yaml:5:46: services.web.ulimits.nproc: must have `soft` and `hard`
             5 |     ulimits: {files: 3, nofile: many, nproc: {soft: 3}, core: {soft: 5, hard: 4}}
               |                                              ^
            compose.yaml:5:63: services.web.ulimits.core: `soft` is more than `hard`
             5 |     ulimits: {files: 3, nofile: many, nproc: {soft: 3}, core: {soft: 5, hard: 4}}
               |                                                               ^
            compose.yaml:6:15: services.web.cap_add[0]: `NET_ADMINS` is no capability; did you mean `NET_ADMIN`?
             6 |     cap_add: [NET_ADMINS, '']
               |               ^^^^^^^^^^
            compose.yaml:6:27: services.web.cap_add[1]: must be a value, not an empty text
             6 |     cap_add: [NET_ADMINS, '']
               |                           ^^
            compose.yaml:7:20: services.web.security_opt[0]: `nothing` is no option
             7 |     security_opt: [nothing, 'label', 'seccomp:./none.json', 'x:y']
               |                    ^^^^^^^
               help: it is `KEY=VALUE`, or `no-new-privileges`
            compose.yaml:7:29: services.web.security_opt[1]: `label` is no option
             7 |     security_opt: [nothing, 'label', 'seccomp:./none.json', 'x:y']
               |                             ^^^^^^^
               help: it is `KEY=VALUE`, or `no-new-privileges`
            compose.yaml:7:38: services.web.security_opt[2]: there is no file `./none.json`
             7 |     security_opt: [nothing, 'label', 'seccomp:./none.json', 'x:y']
               |                                      ^^^^^^^^^^^^^^^^^^^^^
            compose.yaml:7:61: services.web.security_opt[3]: `x` is none of `apparmor`, `label`, `no-new-privileges`, `seccomp` and `systempaths`
             7 |     security_opt: [nothing, 'label', 'seccomp:./none.json', 'x:y']
               |                                                             ^^^^^
            compose.yaml:8:15: services.web.devices[0]: has no value; it must be a text
             8 |     devices: [null, 'a:b', '/a:/b:/c:/d', '/a:/b:x', {target: /a}]
               |               ^^^^
            compose.yaml:8:21: services.web.devices[1]: `a` is not an absolute path
             8 |     devices: [null, 'a:b', '/a:/b:/c:/d', '/a:/b:x', {target: /a}]
               |                     ^^^^^
            compose.yaml:8:28: services.web.devices[2]: has too many `:`
             8 |     devices: [null, 'a:b', '/a:/b:/c:/d', '/a:/b:x', {target: /a}]
               |                            ^^^^^^^^^^^^^
               help: it is `SOURCE[:TARGET[:rwm]]`
            compose.yaml:8:43: services.web.devices[3]: `x` are not permissions of `r`, `w` and `m`
             8 |     devices: [null, 'a:b', '/a:/b:/c:/d', '/a:/b:x', {target: /a}]
               |                                           ^^^^^^^^^
            compose.yaml:8:54: services.web.devices[4]: `source` is missing: the device of the node
             8 |     devices: [null, 'a:b', '/a:/b:/c:/d', '/a:/b:x', {target: /a}]
               |                                                      ^
            compose.yaml:9:27: services.web.device_cgroup_rules[0]: `c 1 r` is no rule such as `c 1:3 mr`
             9 |     device_cgroup_rules: [c 1 r]
               |                           ^^^^^
            compose.yaml:10:16: services.web.group_add: must be a list, not a text
             10 |     group_add: a
                |                ^
        "#]],
    );
    check_web(
        "pid: hosts\nipc: 'service:db'\nnetwork_mode: 'service:vpn'\nuserns_mode: x\ncgroup: 'container:x'\nextra_hosts: [a, 'b:c', \
         ':1.2.3.4']\ndns: [google]\nmac_address: 02:42",
        expect![[r#"
            compose.yaml:4:10: services.web.pid: `hosts` is not `host`, the only word for it here
             4 |     pid: hosts
               |          ^^^^^
            compose.yaml:5:10: services.web.ipc: cannot be that of another service: tasks of two services may run on two nodes
             5 |     ipc: 'service:db'
               |          ^^^^^^^^^^^^
               help: run both programs in one container, or share a volume or a network
            compose.yaml:6:19: services.web.network_mode: cannot be that of another service: tasks of two services may run on two nodes
             6 |     network_mode: 'service:vpn'
               |                   ^^^^^^^^^^^^^
               help: put both services on one network and reach it by its name, `vpn`; or run both programs in one container
            compose.yaml:7:18: services.web.userns_mode: `x` is not `host`, the only word for it here
             7 |     userns_mode: x
               |                  ^
            compose.yaml:8:13: services.web.cgroup: cannot be that of another container: tasks of two services may run on two nodes
             8 |     cgroup: 'container:x'
               |             ^^^^^^^^^^^^^
               help: run both programs in one container, or share a volume or a network
            compose.yaml:9:19: services.web.extra_hosts[0]: `a` names no address
             9 |     extra_hosts: [a, 'b:c', ':1.2.3.4']
               |                   ^
               help: it is `NAME:ADDRESS`
            compose.yaml:9:22: services.web.extra_hosts[1]: `c` is no address
             9 |     extra_hosts: [a, 'b:c', ':1.2.3.4']
               |                      ^^^^^
               help: it is an IP address, or `host-gateway`
            compose.yaml:9:29: services.web.extra_hosts[2]: `` cannot be the name of a host
             9 |     extra_hosts: [a, 'b:c', ':1.2.3.4']
               |                             ^^^^^^^^^^
            compose.yaml:10:11: services.web.dns[0]: `google` is not the address of a server
             10 |     dns: [google]
                |           ^^^^^^
            compose.yaml:11:18: services.web.mac_address: `02:42` is no hardware address such as `02:42:ac:11:65:43`
             11 |     mac_address: 02:42
                |                  ^^^^^
        "#]],
    );
    check_web(
        "network_mode: 'container:vpn'\nnetworks: [front]",
        expect![[r#"
        compose.yaml:4:19: services.web.network_mode: cannot be that of another container: tasks of two services may run on two nodes
         4 |     network_mode: 'container:vpn'
           |                   ^^^^^^^^^^^^^^^
           help: make the container a service, put both on one network and reach it by its name
        compose.yaml:5:15: services.web.networks: cannot be given beside `network_mode`
         5 |     networks: [front]
           |               ^
    "#]],
    );
    check_web(
        "network_mode: front",
        expect![[r#"
        compose.yaml:4:19: services.web.network_mode: `front` is none of `host`, `none` and `bridge`
         4 |     network_mode: front
           |                   ^^^^^
           help: name networks in `networks: [front]`
    "#]],
    );
    check_web(
        "cpus: 1\ncpu_quota: 5\ncpu_period: x\nmem_limit: 64m\nmemswap_limit: 32m\nmem_swappiness: 101\noom_score_adj: 2000\n\
         cpuset: a\ncpu_shares: -1\nblkio_config: {weight: 3, device_read_bps: [{path: /dev/sda}]}\nshm_size: big",
        expect![[r#"
            compose.yaml:6:17: services.web.cpu_period: `x` is not a time such as `10s`, `1m30s` or `500ms`
             6 |     cpu_period: x
               |                 ^
            compose.yaml:6:17: services.web.cpu_period: cannot be given beside a limit of CPUs
             6 |     cpu_period: x
               |                 ^
               help: remove it, or `cpus` and `limits.cpus`
            compose.yaml:8:20: services.web.memswap_limit: is less than the limit of memory, 64MiB: it is memory and swap together
             8 |     memswap_limit: 32m
               |                    ^^^
            compose.yaml:9:21: services.web.mem_swappiness: `101` is not between 0 and 100
             9 |     mem_swappiness: 101
               |                     ^^^
            compose.yaml:10:20: services.web.oom_score_adj: `2000` is not between -1000 and 1000
             10 |     oom_score_adj: 2000
                |                    ^^^^
            compose.yaml:11:13: services.web.cpuset: `a` is no list of cores such as `0-2,4`
             11 |     cpuset: a
                |             ^
            compose.yaml:12:17: services.web.cpu_shares: `-1` is not between 0 and 262144
             12 |     cpu_shares: -1
                |                 ^^
            compose.yaml:13:28: services.web.blkio_config.weight: `3` is not between 10 and 1000
             13 |     blkio_config: {weight: 3, device_read_bps: [{path: /dev/sda}]}
                |                            ^
            compose.yaml:13:49: services.web.blkio_config.device_read_bps[0]: must have `path` and `rate`
             13 |     blkio_config: {weight: 3, device_read_bps: [{path: /dev/sda}]}
                |                                                 ^
            compose.yaml:14:15: services.web.shm_size: `big` is not a size such as `512m`, `1.5gb` or `64MiB`
             14 |     shm_size: big
                |               ^^^
        "#]],
    );
    check_web(
        "memswap_limit: 1g",
        expect![[r#"
        compose.yaml:4:20: services.web.memswap_limit: needs a limit of memory
         4 |     memswap_limit: 1g
           |                    ^^
           help: add `mem_limit`, which the limit of memory and swap together includes
    "#]],
    );
    check_web(
        "platform: windows/amd64\npull_policy: often\nisolation: hyperv\ncontainer_name: -x\nlogging: json-file\ngpus: some\n\
         credential_spec: {file: x}\nmodels: [m]\nuse_api_socket: true\nprovider: {type: x}\nexternal_links: [x]\nbuild: {contexts: .}",
        expect![[r#"
            compose.yaml:4:15: services.web.platform: nodes run Linux
             4 |     platform: windows/amd64
               |               ^^^^^^^^^^^^^
            compose.yaml:5:18: services.web.pull_policy: `often` is none of `always`, `never`, `missing` and `build`
             5 |     pull_policy: often
               |                  ^^^^^
            compose.yaml:6:16: services.web.isolation: `hyperv` is not `default`, the only word for it here
             6 |     isolation: hyperv
               |                ^^^^^^
            compose.yaml:7:21: services.web.container_name: `-x` is no name: two or more of letters, digits, `_`, `.` and `-`
             7 |     container_name: -x
               |                     ^^
            compose.yaml:8:14: services.web.logging: must be a mapping, not a text
             8 |     logging: json-file
               |              ^^^^^^^^^
            compose.yaml:9:11: services.web.gpus: `some` is not `all`, the only word for it here
             9 |     gpus: some
               |           ^^^^
            compose.yaml:10:5: services.web.credential_spec: it belongs to containers of Windows
             10 |     credential_spec: {file: x}
                |     ^^^^^^^^^^^^^^^
               help: remove it
            compose.yaml:11:5: services.web.models: raftup runs no models
             11 |     models: [m]
                |     ^^^^^^
               help: run the model as a service of its own
            compose.yaml:12:5: services.web.use_api_socket: is not supported: nodes hold no credentials of a developer
             12 |     use_api_socket: true
                |     ^^^^^^^^^^^^^^
               help: mount `/var/run/docker.sock` where the service needs the engine of its node
            compose.yaml:13:5: services.web.provider: is not supported: raftup runs containers alone
             13 |     provider: {type: x}
                |     ^^^^^^^^
               help: start what it provides beside the stack, and name its address in `environment`
            compose.yaml:14:5: services.web.external_links: is not supported: containers that are not the cluster's have no names in it
             14 |     external_links: [x]
                |     ^^^^^^^^^^^^^^
               help: make the container a service, and put both on a network
            compose.yaml:15:13: services.web.build.contexts: unknown key `contexts`
             15 |     build: {contexts: .}
                |             ^^^^^^^^
               help: did you mean `context`?
            warning: compose.yaml:15:5: services.web.build: nothing is built yet: the image `nginx` must be in a registry or on the nodes
             15 |     build: {contexts: .}
                |     ^^^^^
               help: `docker compose build`, then `docker compose push`
        "#]],
    );
    check_web(
        "container_name: web\nscale: 2\ndeploy: {resources: {reservations: {devices: [{count: 1, device_ids: [a]}], \
         generic_resources: []}}}",
        expect![[r#"
            compose.yaml:4:21: services.web.container_name: is one name for several containers
             4 |     container_name: web
               |                     ^^^
               help: remove it, or ask for one replica; other services reach all of them by the name of the service
            compose.yaml:6:51: services.web.deploy.resources.reservations.devices[0]: `count` and `device_ids` exclude each other
             6 |     deploy: {resources: {reservations: {devices: [{count: 1, device_ids: [a]}], generic_resources: []}}}
               |                                                   ^
            compose.yaml:6:51: services.web.deploy.resources.reservations.devices[0]: `capabilities` is missing
             6 |     deploy: {resources: {reservations: {devices: [{count: 1, device_ids: [a]}], generic_resources: []}}}
               |                                                   ^
               help: such as `[gpu]`
        "#]],
    );
    check_web(
        "volumes: ['C:\\data:/data', {type: bind, source: 'C:/x', target: /x}, 'data:/d:z,slave', {type: npipe, target: /y}, {type: \
         cluster, target: /z}, {type: volume, source: data, target: /v, volume: {subpath: ../x}}, {type: image, target: /i}]\n\
         tmpfs: ['/t:size=10%', '/u:colour=red', '/v:size=200%']",
        expect![[r#"
            compose.yaml:4:15: services.web.volumes[0]: is a path of Windows, and nodes run Linux
             4 |     volumes: ['C:\data:/data', {type: bind, source: 'C:/x', target: /x}, 'data:/d:z,slave', {type: npipe, target: /y}, {
               |               ^^^^^^^^^^^^^^^
               help: name a path of the nodes
            compose.yaml:4:53: services.web.volumes[1].source: is a path of Windows, and nodes run Linux
             4 |  ['C:\data:/data', {type: bind, source: 'C:/x', target: /x}, 'data:/d:z,slave', {type: npipe, target: /y}, {type: cluste
               |                                         ^^^^^^
               help: name a path of the nodes
            compose.yaml:4:74: services.web.volumes[2]: only paths of the node have a propagation
             4 | ype: bind, source: 'C:/x', target: /x}, 'data:/d:z,slave', {type: npipe, target: /y}, {type: cluster, target: /z}, {type
               |                                         ^^^^^^^^^^^^^^^^^
            compose.yaml:4:100: services.web.volumes[3].type: `npipe` belongs to containers of Windows
             4 |  target: /x}, 'data:/d:z,slave', {type: npipe, target: /y}, {type: cluster, target: /z}, {type: volume, source: data, ta
               |                                         ^^^^^
            compose.yaml:4:127: services.web.volumes[4].type: `cluster` is not supported
             4 | ave', {type: npipe, target: /y}, {type: cluster, target: /z}, {type: volume, source: data, target: /v, volume: {subpath:
               |                                         ^^^^^^^
               help: use a named volume with a `driver` that nodes share
            compose.yaml:4:208: services.web.volumes[5].volume.subpath: `../x` is not a relative path without `..`
             4 | ce: data, target: /v, volume: {subpath: ../x}}, {type: image, target: /i}]
               |                                         ^^^^
            compose.yaml:4:216: services.web.volumes[6]: `source` is missing: the image
             4 | , target: /v, volume: {subpath: ../x}}, {type: image, target: /i}]
               |                                         ^
            compose.yaml:5:28: services.web.tmpfs[1]: unknown option `colour`
             5 |     tmpfs: ['/t:size=10%', '/u:colour=red', '/v:size=200%']
               |                            ^^^^^^^^^^^^^^^
               help: there are `size`, `mode`, uid, gid, nr_inodes, nr_blocks, mpol, exec, noexec, suid, nosuid, dev, nodev, sync, async, dirsync, atime, noatime, diratime, nodiratime, relatime, norelatime, strictatime, nostrictatime, defaults
            compose.yaml:5:45: services.web.tmpfs[2]: `200%` is not a size such as `512m`, `1.5gb` or `64MiB`
             5 |     tmpfs: ['/t:size=10%', '/u:colour=red', '/v:size=200%']
               |                                             ^^^^^^^^^^^^^^
        "#]],
    );
    check(
        "services:\n  a: {image: nginx, container_name: same, links: [d, 'b:c', 'c:x'], volumes_from: [b, 'container:x', 'z']}\n  \
         b: {image: nginx, container_name: same, volumes: [/anonymous], volumes_from: ['a:rx']}\n  c: {image: nginx, networks: \
         [alone], volumes_from: [c]}\nnetworks: {alone: {}}",
        expect![[r#"
            compose.yaml:2:51: services.a.links[0]: there is no service `d`
             2 |   a: {image: nginx, container_name: same, links: [d, 'b:c', 'c:x'], volumes_from: [b, 'container:x', 'z']}
               |                                                   ^
               help: did you mean `a`?
            compose.yaml:2:54: services.a.links[1]: services wait for each other in a circle: a -> b -> a
             2 |   a: {image: nginx, container_name: same, links: [d, 'b:c', 'c:x'], volumes_from: [b, 'container:x', 'z']}
               |                                                      ^^^^^
               help: remove one of these dependencies
            compose.yaml:2:61: services.a.links[2]: cannot reach service `c`: the two are on no network together
             2 |   a: {image: nginx, container_name: same, links: [d, 'b:c', 'c:x'], volumes_from: [b, 'container:x', 'z']}
               |                                                             ^^^^^
               help: put both on one network
            compose.yaml:2:84: services.a.volumes_from[0]: service `b` has a volume without a name at `/anonymous`
             2 |   a: {image: nginx, container_name: same, links: [d, 'b:c', 'c:x'], volumes_from: [b, 'container:x', 'z']}
               |                                                                                    ^
               help: give it a name: a container has its own of those without
            compose.yaml:2:87: services.a.volumes_from[1]: names a container outside of the stack
             2 |   a: {image: nginx, container_name: same, links: [d, 'b:c', 'c:x'], volumes_from: [b, 'container:x', 'z']}
               |                                                                                       ^^^^^^^^^^^^^
               help: mount a named volume or a path in both
            compose.yaml:2:102: services.a.volumes_from[2]: there is no service `z`
             2 |   a: {image: nginx, container_name: same, links: [d, 'b:c', 'c:x'], volumes_from: [b, 'container:x', 'z']}
               |                                                                                                      ^^^
               help: did you mean `a`?
            compose.yaml:3:37: services.b.container_name: `same` is the name of service `a`'s container already
             3 |   b: {image: nginx, container_name: same, volumes: [/anonymous], volumes_from: ['a:rx']}
               |                                     ^^^^
            compose.yaml:3:81: services.b.volumes_from[0]: `rx` is neither `ro` nor `rw`
             3 |   b: {image: nginx, container_name: same, volumes: [/anonymous], volumes_from: ['a:rx']}
               |                                                                                 ^^^^^^
            compose.yaml:4:55: services.c.volumes_from[0]: service `c` takes its volumes from here, directly or through others
             4 |   c: {image: nginx, networks: [alone], volumes_from: [c]}
               |                                                       ^
        "#]],
    );
    check(
        "services: {web: {image: nginx, networks: {a: {ipv4_address: 172.20.0.7, ipv6_address: '::7', mac_address: x, priority: \
         high, link_local_ips: [1.2.3.4]}, b: {}}}}\nnetworks: {a: {enable_ipv6: true, driver: macvlan, name: '-'}, b: {external: \
         true, name: host}}",
        expect![[r#"
            compose.yaml:1:42: services.web.networks: the network `host` of the node excludes all others
             1 | ervices: {web: {image: nginx, networks: {a: {ipv4_address: 172.20.0.7, ipv6_address: '::7', mac_address: x, priority: hi
               |                                         ^
            compose.yaml:1:47: services.web.networks.a.ipv4_address: is not supported: the cluster gives each task an address, and a service an address that does not change
             1 | es: {web: {image: nginx, networks: {a: {ipv4_address: 172.20.0.7, ipv6_address: '::7', mac_address: x, priority: high, l
               |                                         ^^^^^^^^^^^^
               help: remove it, and name the service (or one of its `aliases`) wherever the address is used
            compose.yaml:1:73: services.web.networks.a.ipv6_address: networks of containers have IPv4 addresses alone
             1 | etworks: {a: {ipv4_address: 172.20.0.7, ipv6_address: '::7', mac_address: x, priority: high, link_local_ips: [1.2.3.4]},
               |                                         ^^^^^^^^^^^^
               help: remove it
            compose.yaml:1:107: services.web.networks.a.mac_address: `x` is no hardware address such as `02:42:ac:11:65:43`
             1 | .0.7, ipv6_address: '::7', mac_address: x, priority: high, link_local_ips: [1.2.3.4]}, b: {}}}}
               |                                         ^
            compose.yaml:1:120: services.web.networks.a.priority: `high` is not a whole number
             1 | dress: '::7', mac_address: x, priority: high, link_local_ips: [1.2.3.4]}, b: {}}}}
               |                                         ^^^^
            compose.yaml:1:143: services.web.networks.a.link_local_ips[0]: `1.2.3.4` is no address of 169.254.0.0/16
             1 | ss: x, priority: high, link_local_ips: [1.2.3.4]}, b: {}}}}
               |                                         ^^^^^^^
            compose.yaml:2:16: networks.a.enable_ipv6: is not supported yet: networks of containers have IPv4 addresses alone
             2 | networks: {a: {enable_ipv6: true, driver: macvlan, name: '-'}, b: {external: true, name: host}}
               |                ^^^^^^^^^^^
               help: remove it; published ports answer on the IPv6 addresses of every node all the same
            compose.yaml:2:43: networks.a.driver: the driver `macvlan` is not supported yet
             2 | networks: {a: {enable_ipv6: true, driver: macvlan, name: '-'}, b: {external: true, name: host}}
               |                                           ^^^^^^^
               help: use `network_mode: host` in the service, or leave `driver` out
            compose.yaml:2:58: networks.a.name: `-` is no name: two or more of letters, digits, `_`, `.` and `-`
             2 | networks: {a: {enable_ipv6: true, driver: macvlan, name: '-'}, b: {external: true, name: host}}
               |                                                          ^^^
        "#]],
    );
}

/// A service that cannot be read is on its networks all the same.
#[test]
fn one_fault_is_one_message() {
    check(
        "services: {web: {image: nginx, networks: [front], ports: [x]}}\nnetworks: {front: {}}",
        expect![[r#"
            compose.yaml:1:59: services.web.ports[0]: `x` is not a port
             1 | services: {web: {image: nginx, networks: [front], ports: [x]}}
               |                                                           ^
        "#]],
    );
}
