//! Several files, laid over each other.

use expect_test::expect;

use super::check;

#[test]
fn later_files_win() {
    check(
        r#"## compose.yaml
services:
  web:
    image: nginx:1
    command: [a, b]
    environment: [A=1, B=1]
    ports: ["80:80", "81:81"]
    volumes: ["data:/data", "/a:/a"]
    networks: [front]
    labels: {x: "1"}
    healthcheck: {test: [CMD, a], interval: 1s}
    tmpfs: /a-tmp
    deploy: {replicas: 2, placement: {constraints: [node.role == worker]}}
networks: {front: {}, back: {}}
volumes: {data: {}}
## over.yaml
services:
  web:
    image: nginx:2
    command: [c]
    environment: {B: 2, C: 3}
    ports: ["80:80", "82:82"]
    volumes: ["/other:/data:ro"]
    networks: {front: {aliases: [shop]}, back: }
    labels: [x=2, y]
    healthcheck: {test: [CMD, b]}
    tmpfs: [/b-tmp]
    deploy: {replicas: 3, placement: {constraints: [node.id != x]}}
  extra: {image: busybox}
name: late
"#,
        expect![[r#"
            name: "late"
            services:
              extra:
                container:
                  image: "busybox"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              web:
                container:
                  command: ["c"]
                  env:
                    A: "1"
                    B: "2"
                    C: "3"
                  healthcheck:
                    check:
                      interval: "1.000s"
                      test: ["CMD","b"]
                  image: "nginx:2"
                  labels:
                    x: "2"
                    y: ""
                  mounts: {"read_only":true,"source":{"bind":{"create":true,"path":"/other"}},"target":"/data"}
                  mounts: {"source":{"bind":{"create":true,"path":"/a"}},"target":"/a"}
                  mounts: {"target":"/a-tmp"}
                  mounts: {"target":"/b-tmp"}
                mode:
                  replicated:
                    replicas: 3
                networks: {"aliases":["shop"],"network":"front"}
                networks: {"network":"back"}
                placement:
                  constraints: {"attribute":"role","equal":true,"value":"worker"}
                  constraints: {"attribute":"id","equal":false,"value":"x"}
                ports: {"mode":"ingress","protocol":"tcp","published":80,"target":80}
                ports: {"mode":"ingress","protocol":"tcp","published":81,"target":81}
                ports: {"mode":"ingress","protocol":"tcp","published":82,"target":82}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn kinds_must_match() {
    check(
        "## a.yaml\nservices: {web: {image: a, ports: ['80:80']}}\n## b.yaml\nservices:\n  web:\n    ports: {a: b}\n",
        expect![[r#"
            b.yaml:3:12: services.web.ports: cannot be merged with what is at a.yaml:1:35: they are of different kinds
             3 |     ports: {a: b}
               |            ^
        "#]],
    );
}
