//! Where tasks may be: labels, numbers, generic resources, other services.

use expect_test::expect;

use super::{check, check_web};

#[test]
fn placement() {
    check(
        "\
services:
  web:
    image: nginx
    deploy:
      placement:
        max_replicas_per_node: 2
        preferences: [{spread: node.labels.zone}, {spread: engine.labels.rack}]
        constraints: [node.ip == 10.1.0.0/16, Node.IP != 10.1.2.3]
      resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}}
    x-raftup: {with: [db], apart_from: cache}
  db: {image: postgres}
  cache: {image: redis}
",
        expect![[r#"
            name: "shop"
            services:
              cache:
                container:
                  image: "redis"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              db:
                container:
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
                  image: "nginx"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                placement:
                  apart_from: ["cache"]
                  constraints: {"attribute":"ip","equal":true,"value":"10.1.0.0/16"}
                  constraints: {"attribute":"ip","equal":false,"value":"10.1.2.3"}
                  max_per_node: 2
                  spread: {"label":"zone"}
                  spread: {"engine_label":"rack"}
                  with: ["db"]
                resources:
                  generic:
                    gpu: 2
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "deploy: {placement: {max_replicas_per_node: 0, preferences: []}}",
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
    check_web(
        "deploy: {mode: global, placement: {max_replicas_per_node: 1}}",
        expect![[r#"
        warning: compose.yaml:4:63: services.web.deploy.placement.max_replicas_per_node: has no effect: a global service has one task on each node
         4 |     deploy: {mode: global, placement: {max_replicas_per_node: 1}}
           |                                                               ^
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
}

#[test]
fn faults_of_placement() {
    check_web(
        "\
deploy:
  placement:
    max_replicas_per_node: -1
    preferences: [spread, {}, {spread: node.hostname}, {spread: zone}, {spread: node.labels.a, weight: 2}]
    constraints: [node.ip == home]
  resources:
    reservations:
      generic_resources:
        - gpu
        - {}
        - {named_resource_spec: {kind: gpu, value: a}}
        - {discrete_resource_spec: {kind: a b, value: 0}}
        - {discrete_resource_spec: {kind: gpu}}
        - {discrete_resource_spec: {kind: gpu, value: 1}}
        - {discrete_resource_spec: {kind: gpu, value: 2}}
",
        expect![[r#"
            compose.yaml:6:32: services.web.deploy.placement.max_replicas_per_node: `-1` is not between 0 and 10000
             6 |         max_replicas_per_node: -1
               |                                ^^
            compose.yaml:7:23: services.web.deploy.placement.preferences[0]: must be a mapping, not a text
             7 |         preferences: [spread, {}, {spread: node.hostname}, {spread: zone}, {spread: node.labels.a, weight: 2}]
               |                       ^^^^^^
            compose.yaml:7:31: services.web.deploy.placement.preferences[1]: has no `spread`
             7 |         preferences: [spread, {}, {spread: node.hostname}, {spread: zone}, {spread: node.labels.a, weight: 2}]
               |                               ^
               help: write `spread: node.labels.KEY`
            compose.yaml:7:44: services.web.deploy.placement.preferences[2].spread: tasks are spread over labels, not over `node.hostname`: write `node.labels.KEY`
             7 |         preferences: [spread, {}, {spread: node.hostname}, {spread: zone}, {spread: node.labels.a, weight: 2}]
               |                                            ^^^^^^^^^^^^^
            compose.yaml:7:69: services.web.deploy.placement.preferences[3].spread: a constraint cannot look at `zone`: there are node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.labels.KEY and engine.labels.KEY
             7 |         preferences: [spread, {}, {spread: node.hostname}, {spread: zone}, {spread: node.labels.a, weight: 2}]
               |                                                                     ^^^^
            compose.yaml:7:100: services.web.deploy.placement.preferences[4].weight: unknown key `weight`
             7 |         preferences: [spread, {}, {spread: node.hostname}, {spread: zone}, {spread: node.labels.a, weight: 2}]
               |                                                                                                    ^^^^^^
            compose.yaml:8:23: services.web.deploy.placement.constraints[0]: `home` is neither an address nor a network such as `10.0.0.0/8`
             8 |         constraints: [node.ip == home]
               |                       ^^^^^^^^^^^^^^^
            compose.yaml:12:15: services.web.deploy.resources.reservations.generic_resources[0]: must be a mapping, not a text
             12 |             - gpu
                |               ^^^
            compose.yaml:13:15: services.web.deploy.resources.reservations.generic_resources[1]: has no `discrete_resource_spec`
             13 |             - {}
                |               ^
               help: write `discrete_resource_spec: {kind: gpu, value: 1}`
            compose.yaml:14:16: services.web.deploy.resources.reservations.generic_resources[2].named_resource_spec: names one unit of a node, which a service does not choose
             14 |             - {named_resource_spec: {kind: gpu, value: a}}
                |                ^^^^^^^^^^^^^^^^^^^
               help: ask for a number of them, `discrete_resource_spec: {kind: gpu, value: 1}`
            compose.yaml:15:47: services.web.deploy.resources.reservations.generic_resources[3].discrete_resource_spec.kind: `a b` is no kind of resource such as `gpu`
             15 |             - {discrete_resource_spec: {kind: a b, value: 0}}
                |                                               ^^^
            compose.yaml:15:59: services.web.deploy.resources.reservations.generic_resources[3].discrete_resource_spec.value: `0` is not between 1 and 1073741824
             15 |             - {discrete_resource_spec: {kind: a b, value: 0}}
                |                                                           ^
            compose.yaml:16:40: services.web.deploy.resources.reservations.generic_resources[4].discrete_resource_spec: has no `value`
             16 |             - {discrete_resource_spec: {kind: gpu}}
                |                                        ^
            compose.yaml:18:47: services.web.deploy.resources.reservations.generic_resources[6].discrete_resource_spec.kind: `gpu` is named twice
             18 |             - {discrete_resource_spec: {kind: gpu, value: 2}}
                |                                               ^^^
        "#]],
    );
}

#[test]
fn faults_of_services_beside_others() {
    let check_web = |lines: &str, expect| {
        check(&format!("services:\n  db: {{image: postgres}}\n  web:\n    image: nginx\n{lines}"), expect);
    };
    check_web(
        "    x-raftup: {with: [web, bd], apart_from: [web, a b]}\n",
        expect![[r#"
            compose.yaml:5:23: services.web.x-raftup.with[0]: names the service itself
             5 |     x-raftup: {with: [web, bd], apart_from: [web, a b]}
               |                       ^^^
               help: tasks of one service are together where `placement.constraints` leave one node
            compose.yaml:5:28: services.web.x-raftup.with[1]: there is no service `bd`
             5 |     x-raftup: {with: [web, bd], apart_from: [web, a b]}
               |                            ^^
               help: did you mean `db`?
            compose.yaml:5:46: services.web.x-raftup.apart_from[0]: names the service itself
             5 |     x-raftup: {with: [web, bd], apart_from: [web, a b]}
               |                                              ^^^
               help: `deploy.placement.max_replicas_per_node: 1` keeps tasks of one service apart
            compose.yaml:5:51: services.web.x-raftup.apart_from[1]: `a b` cannot be the name of a service: only letters, digits, `-`, `_` and `.` are allowed
             5 |     x-raftup: {with: [web, bd], apart_from: [web, a b]}
               |                                                   ^^^
        "#]],
    );
    check_web(
        "    x-raftup: {with: db, apart_from: [db]}\n",
        expect![[r#"
        compose.yaml:5:38: services.web.x-raftup.apart_from: `db` stands under `with` as well
         5 |     x-raftup: {with: db, apart_from: [db]}
           |                                      ^
    "#]],
    );
    check_web(
        "    deploy: {mode: global}\n    x-raftup: {with: db}\n",
        expect![[r#"
        compose.yaml:6:22: services.web.x-raftup.with: cannot be held: a global service has a task on each node
         6 |     x-raftup: {with: db}
           |                      ^^
           help: choose its nodes with `deploy.placement.constraints`
    "#]],
    );
    check(
        "services:\n  web: {image: a, x-raftup: {with: db}}\n  db: {image: b, x-raftup: {with: web}}\n",
        expect![[r#"
            compose.yaml:3:28: services.db.x-raftup: services go where each other is, in a circle: db -> web -> db
             3 |   db: {image: b, x-raftup: {with: web}}
               |                            ^
               help: remove one of these `with`
        "#]],
    );
}
