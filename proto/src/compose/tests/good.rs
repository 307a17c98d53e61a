//! What is understood.

use expect_test::expect;

use super::{check, check_env, check_web};

#[test]
fn the_smallest_file() {
    check(
        "services: {web: {image: nginx}}",
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
fn a_whole_service() {
    check_env(
        r#"
name: shop
version: "3.8"
x-common: &common
  restart: unless-stopped
  labels: {team: blue}
services:
  web:
    <<: *common
    image: ghcr.io/acme/web:1.2@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    command: serve --port 8080 --name "my shop"
    entrypoint: ["/bin/tini", "--"]
    environment:
      MODE: production
      DEBUG: false
      LEVEL: 0644
      EMPTY:
      FROM_SHELL:
      QUOTED: "${MODE-dev}"
    ports:
      - "80:8080"
      - 9000-9002:7000-7002/udp
      - target: 443
        published: "8443"
        protocol: tcp
        mode: ingress
    volumes:
      - data:/data
      - ./conf:/etc/web/conf.d:ro
      - ~/keys:/keys:ro,rslave
      - /var/cache/web
      - {type: tmpfs, target: /scratch, tmpfs: {size: 64m, mode: 1777}}
      - {type: bind, source: /srv/in, target: /in, bind: {create_host_path: false, propagation: rshared}}
      - {type: volume, source: data, target: /more, read_only: true, volume: {nocopy: true}}
    tmpfs: /run:size=1m,mode=700
    networks:
      front: {aliases: [shop, www.shop.internal]}
      back:
    healthcheck:
      test: curl -f http://localhost:8080
      interval: 1m30s
      timeout: 10s
      retries: 3
      start_period: 40s
      start_interval: 500ms
    hostname: web.local
    user: "1000:1000"
    working_dir: /app/
    stop_signal: SIGUSR1
    stop_grace_period: 1m
    init: true
    read_only: true
    expose: [8080]
    deploy:
      mode: replicated
      replicas: 3
      labels: [tier=front, "plain"]
      resources:
        limits: {cpus: "0.50", memory: 50M, pids: 100}
        reservations: {cpus: 0.25, memory: 20MiB}
      placement:
        constraints:
          - node.labels.disk==ssd
          - node.role != manager
          - "node.platform.os == linux"
  db:
    image: postgres:16
    networks: [back, open]
    deploy: {mode: global, restart_policy: {condition: on-failure, delay: 1s, max_attempts: 3, window: 120s}}
networks:
  front: {driver: overlay, driver_opts: {encrypted: ''}, labels: {a: b}}
  back: {internal: true, attachable: "true"}
  open: {driver_opts: {encrypted: 'false'}}
  spare:
volumes:
  data: {driver: local, labels: [a=b]}
"#,
        &[("HOME", "/root"), ("FROM_SHELL", "x y")],
        expect![[r#"
            warning: compose.yaml:3:1: version: `version` is obsolete and has no effect
             3 | version: "3.8"
               | ^^^^^^^
               help: remove the line
            warning: compose.yaml:53:5: services.web.expose: has no effect: services on one network reach all of each other's ports
             53 |     expose: [8080]
                |     ^^^^^^
            warning: compose.yaml:74:3: networks.spare: no service is on this network; it is not created
             74 |   spare:
                |   ^^^^^
            name: "shop"
            networks:
              back:
                attachable: true
                internal: true
              front:
                encrypted: true
                labels:
                  a: "b"
              open:
                encrypted: false
            services:
              db:
                container:
                  image: "postgres:16"
                mode: "global"
                networks: {"network":"back"}
                networks: {"network":"open"}
                restart:
                  condition: "on-failure"
                  delay: "1.000s"
                  max_attempts: 3
                  window: "120.000s"
              web:
                container:
                  command: ["serve","--port","8080","--name","my shop"]
                  entrypoint: ["/bin/tini","--"]
                  env:
                    DEBUG: "false"
                    FROM_SHELL: "x y"
                    LEVEL: "0644"
                    MODE: "production"
                    QUOTED: "dev"
                  healthcheck:
                    check:
                      interval: "90.000s"
                      retries: 3
                      start_interval: "0.500s"
                      start_period: "40.000s"
                      test: ["CMD-SHELL","curl -f http://localhost:8080"]
                      timeout: "10.000s"
                  hostname: "web.local"
                  image: "ghcr.io/acme/web:1.2@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
                  init: true
                  labels:
                    team: "blue"
                  mounts: {"options":{"volume":{"labels":{"a":"b"}}},"source":{"volume":{"name":"data"}},"target":"/data"}
                  mounts: {"read_only":true,"source":{"bind":{"create":true,"path":"/srv/shop/conf"}},"target":"/etc/web/conf.d"}
                  mounts: {"read_only":true,"source":{"bind":{"create":true,"path":"/root/keys","propagation":"rslave"}},"target":"/keys"}
                  mounts: {"source":"anonymous","target":"/var/cache/web"}
                  mounts: {"source":{"tmpfs":{"mode":1023,"size":67108864}},"target":"/scratch"}
                  mounts: {"source":{"bind":{"path":"/srv/in","propagation":"rshared"}},"target":"/in"}
                  mounts: {"options":{"volume":{"labels":{"a":"b"}}},"read_only":true,"source":{"volume":{"name":"data","nocopy":true}},"target":"/more"}
                  mounts: {"source":{"tmpfs":{"mode":448,"size":1048576}},"target":"/run"}
                  read_only: true
                  stop_grace: "60.000s"
                  stop_signal: "SIGUSR1"
                  user: "1000:1000"
                  working_dir: "/app"
                labels:
                  plain: ""
                  tier: "front"
                mode:
                  replicated:
                    replicas: 3
                networks: {"aliases":["shop","www.shop.internal"],"network":"front"}
                networks: {"network":"back"}
                placement:
                  constraints: {"attribute":{"label":"disk"},"equal":true,"value":"ssd"}
                  constraints: {"attribute":"role","equal":false,"value":"manager"}
                  constraints: {"attribute":"os","equal":true,"value":"linux"}
                ports: {"mode":"ingress","protocol":"tcp","published":80,"target":8080}
                ports: {"mode":"ingress","protocol":"tcp","published":8443,"target":443}
                ports: {"mode":"ingress","protocol":"udp","published":9000,"target":7000}
                ports: {"mode":"ingress","protocol":"udp","published":9001,"target":7001}
                ports: {"mode":"ingress","protocol":"udp","published":9002,"target":7002}
                resources:
                  limits:
                    cpu: 500
                    memory: 52428800
                  pids: 100
                  reservations:
                    cpu: 250
                    memory: 20971520
                restart:
                  condition: "any"
                  delay: "5.000s"
            volumes:
              data:
                labels:
                  a: "b"
        "#]],
    );
}

#[test]
fn commands() {
    check_web(
        "command: []\nentrypoint: ''",
        expect![[r#"
        name: "shop"
        services:
          web:
            container:
              command: []
              entrypoint: []
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
    check_web(
        "command:\nentrypoint: [sh, -c, 'echo $$HOME']",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  entrypoint: ["sh","-c","echo $HOME"]
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
    check_web(
        "command: >\n  sh -c 'echo a && echo b'\n  c",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  command: ["sh","-c","echo a && echo b","c"]
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
    check_web(
        "command: echo a && echo b",
        expect![[r#"
            warning: compose.yaml:4:21: services.web.command: `&&` is passed on as a word: no shell reads the command
             4 |     command: echo a && echo b
               |                     ^^
               help: where one should, write `command: ["sh", "-c", "..."]`
            name: "shop"
            services:
              web:
                container:
                  command: ["echo","a","&&","echo","b"]
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
fn restart_words() {
    check_web(
        "restart: 'no'",
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
                  condition: "none"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "restart: on-failure:5\nscale: 2",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                mode:
                  replicated:
                    replicas: 2
                networks: {"network":"default"}
                restart:
                  condition: "on-failure"
                  delay: "5.000s"
                  max_attempts: 5
        "#]],
    );
    check_web(
        "mem_limit: 64m\ncpus: 1.5\nmem_reservation: 32m\npids_limit: -1",
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
                resources:
                  limits:
                    cpu: 1500
                    memory: 67108864
                  reservations:
                    memory: 33554432
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn ports() {
    check_web(
        "ports:\n  - 127.0.0.1:8000-8001:80-81\n  - 127.0.0.1:8000:80/udp\n  - 0.0.0.0:9000:90\n  \
         - {target: 70-71, published: 7000-7001, mode: host, host_ip: 10.0.0.1}\n  \
         - {target: 70, published: 7000, host_ip: 10.0.0.2, protocol: tcp}",
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
                ports: {"host_ip":"10.0.0.1","mode":"host","protocol":"tcp","published":7000,"target":70}
                ports: {"host_ip":"10.0.0.2","mode":"ingress","protocol":"tcp","published":7000,"target":70}
                ports: {"host_ip":"10.0.0.1","mode":"host","protocol":"tcp","published":7001,"target":71}
                ports: {"host_ip":"127.0.0.1","mode":"ingress","protocol":"tcp","published":8000,"target":80}
                ports: {"host_ip":"127.0.0.1","mode":"ingress","protocol":"tcp","published":8001,"target":81}
                ports: {"mode":"ingress","protocol":"tcp","published":9000,"target":90}
                ports: {"host_ip":"127.0.0.1","mode":"ingress","protocol":"udp","published":8000,"target":80}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check(
        "services:\n  a: {image: x, ports: ['10.0.0.1:80:80', {target: 90, published: 90, mode: host}]}\n  \
         b: {image: x, ports: ['10.0.0.2:80:80', {target: 90, published: 90, mode: host}], \
         deploy: {endpoint_mode: vip}}\n  \
         c:\n    image: x\n    ports: [{target: 91, published: 91, mode: host}]\n    \
         deploy: {endpoint_mode: dnsrr}",
        expect![[r#"
            name: "shop"
            services:
              a:
                container:
                  image: "x"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                ports: {"host_ip":"10.0.0.1","mode":"ingress","protocol":"tcp","published":80,"target":80}
                ports: {"mode":"host","protocol":"tcp","published":90,"target":90}
                restart:
                  condition: "any"
                  delay: "5.000s"
              b:
                container:
                  image: "x"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                ports: {"host_ip":"10.0.0.2","mode":"ingress","protocol":"tcp","published":80,"target":80}
                ports: {"mode":"host","protocol":"tcp","published":90,"target":90}
                restart:
                  condition: "any"
                  delay: "5.000s"
              c:
                container:
                  image: "x"
                endpoint_mode: "dnsrr"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                ports: {"mode":"host","protocol":"tcp","published":91,"target":91}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn health() {
    check_web(
        "healthcheck: {test: [NONE]}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  healthcheck: "disabled"
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
    check_web(
        "healthcheck: {disable: true}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  healthcheck: "disabled"
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
    check_web(
        "healthcheck: {interval: 5s, timeout: 0s}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  healthcheck:
                    check:
                      interval: "5.000s"
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
    check_web(
        "healthcheck: {test: [CMD, curl, -f, localhost]}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  healthcheck:
                    check:
                      test: ["CMD","curl","-f","localhost"]
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
fn variables() {
    check_env(
        r#"## compose.yaml
services:
  web:
    image: nginx:${TAG}
    environment: [ "A=${A}", B, "C=${NONE}", NOT_SET, "D=${NONE2:-$A}" ]
    deploy: {replicas: $COUNT}
    init: ${INIT}
    env_file:
      - web.env
      - {path: none.env, required: false}
      - {path: raw.env, format: raw}
    hostname: ${COMPOSE_PROJECT_NAME}
## .env
TAG=1.27   # the tag
COUNT=4
A=shadowed
B='single $A'
INIT=yes
## web.env
# comment
export FIRST="two
lines\t$TAG"
SECOND: plain # comment
THIRD='it\'s'
TAG
C=lost
FOURTH=${FIRST}#x
## raw.env
RAW="$x" # y
"#,
        &[("A", "a")],
        expect![[r#"
            warning: compose.yaml:4:36: services.web.environment[2]: the variable `NONE` is not set; it is taken as empty
             4 |     environment: [ "A=${A}", B, "C=${NONE}", NOT_SET, "D=${NONE2:-$A}" ]
               |                                    ^^^^^^
               help: set it, or write `${NONE:-default}`
            warning: compose.yaml:6:11: services.web.init: write `true`: YAML 1.2 knows no other words for it
             6 |     init: ${INIT}
               |           ^^^^^^^
            name: "shop"
            services:
              web:
                container:
                  env:
                    A: "a"
                    B: "single $A"
                    C: ""
                    D: "a"
                    FIRST: "two\nlines\t1.27"
                    FOURTH: "two\nlines\t1.27#x"
                    RAW: "\"$x\" # y"
                    SECOND: "plain"
                    TAG: "1.27"
                    THIRD: "it's"
                  hostname: "shop"
                  image: "nginx:1.27"
                  init: true
                mode:
                  replicated:
                    replicas: 4
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn updates() {
    check_web(
        r#"
deploy:
  update_config: {parallelism: 0, delay: 10s, order: start-first, monitor: 1m, failure_action: rollback, max_failure_ratio: 0.25}
  rollback_config: {parallelism: 2, order: stop-first, failure_action: continue, max_failure_ratio: "1"}
"#,
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
                rollback:
                  delay: "0.000s"
                  failure_action: "continue"
                  max_failure_ratio: 1000000
                  monitor: "5.000s"
                  order: "stop-first"
                  parallelism: 2
                update:
                  delay: "10.000s"
                  failure_action: "rollback"
                  max_failure_ratio: 250000
                  monitor: "60.000s"
                  order: "start-first"
                  parallelism: 0
        "#]],
    );
    // What is not said, and a monitor of 0, is as in Swarm: one at a time, stop first, watched for 5 s, then a pause.
    check_web(
        "deploy: {mode: global, update_config: {order: start-first, monitor: 0s}, rollback_config: }",
        expect![[r#"
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
            update:
              delay: "0.000s"
              failure_action: "pause"
              max_failure_ratio: 0
              monitor: "5.000s"
              order: "start-first"
              parallelism: 1
    "#]],
    );
}

#[test]
fn routing() {
    check_web(
        "x-raftup: {routing: sticky}\nx-other: {routing: 7}",
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
            routing: "sticky"
    "#]],
    );
    check_web(
        "x-raftup: {routing: local}",
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
            routing: "local"
    "#]],
    );
    check_web(
        "x-raftup: {routing: any}",
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
