//! Slots in their order, and a volume for each.

use expect_test::expect;

use super::{check, check_web};

#[test]
fn slots() {
    check(
        "\
services:
  db:
    image: postgres
    volumes: [data:/data]
    deploy: {replicas: 3}
    x-raftup: {order: slots}
volumes:
  data: {name: \"shop-data-{{.Task.Slot}}\"}
",
        expect![[r#"
            name: "shop"
            services:
              db:
                container:
                  image: "postgres"
                  mounts: {"options":{"volume":{"name":"shop-data-{{.Task.Slot}}"}},"source":{"volume":{"name":"data"}},"target":"/data"}
                mode:
                  replicated:
                    replicas: 3
                networks: {"network":"default"}
                order: "slots"
                restart:
                  condition: "any"
                  delay: "5.000s"
            volumes:
              data:
                config:
                  name: "shop-data-{{.Task.Slot}}"
        "#]],
    );
}

#[test]
fn faults_of_slots() {
    check_web(
        "x-raftup: {order: reverse}",
        expect![[r#"
        compose.yaml:4:23: services.web.x-raftup.order: `reverse` is neither `any` nor `slots`
         4 |     x-raftup: {order: reverse}
           |                       ^^^^^^^
    "#]],
    );
    check_web(
        "deploy: {mode: global}\nx-raftup: {order: slots}",
        expect![[r#"
        compose.yaml:5:23: services.web.x-raftup.order: `slots` is no order for a service of the mode `global`
         5 |     x-raftup: {order: slots}
           |                       ^^^^^
           help: leave it out, or write `mode: replicated`
    "#]],
    );
    check_web(
        "deploy: {update_config: {order: start-first}}\nx-raftup: {order: slots}",
        expect![[r#"
        compose.yaml:5:23: services.web.x-raftup.order: with `slots` a task ends before the next one of its slot starts, and the update policy says `start-first`
         5 |     x-raftup: {order: slots}
           |                       ^^^^^
           help: write `order: stop-first` in `update_config` and `rollback_config`, or leave it out
    "#]],
    );
    check(
        "services: {db: {image: postgres, volumes: ['data:/data']}}\nvolumes: {data: {name: 'data-{{.Node.ID}}'}}\n",
        expect![[r#"
            compose.yaml:2:24: volumes.data.name: `data-{{.Node.ID}}` holds another template than `{{.Task.Slot}}`
             2 | volumes: {data: {name: 'data-{{.Node.ID}}'}}
               |                        ^^^^^^^^^^^^^^^^^^^
        "#]],
    );
}
