//! `depends_on`.

use expect_test::expect;

use super::*;

#[test]
fn both_forms() {
    check(
        "
services:
  app:
    image: app
    depends_on:
      db: {condition: service_healthy, restart: true}
      migrate: {condition: service_completed_successfully}
      search: {condition: service_started, required: false}
  list: {image: list, depends_on: [db, migrate]}
  none: {image: none, depends_on: []}
  db: {image: db}
  migrate: {image: migrate}
  search: {image: search}
",
        expect![[r#"
            name: "shop"
            services:
              app:
                container:
                  image: "app"
                depends_on:
                  db:
                    condition: "service_healthy"
                    required: true
                    restart: true
                  migrate:
                    condition: "service_completed_successfully"
                    required: true
                  search:
                    condition: "service_started"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              db:
                container:
                  image: "db"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              list:
                container:
                  image: "list"
                depends_on:
                  db:
                    condition: "service_started"
                    required: true
                  migrate:
                    condition: "service_started"
                    required: true
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              migrate:
                container:
                  image: "migrate"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              none:
                container:
                  image: "none"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              search:
                container:
                  image: "search"
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
fn what_is_missing() {
    check(
        "
services:
  app:
    image: app
    depends_on: [bd, extra, '']
  db:
    image: db
    depends_on:
      nothing: {condition: service_healthy, required: false}
      app: {}
      other: {condition: service_ready}
      cache: {condition: service_started, restrat: true}
  cache: {image: cache, depends_on: cache}
",
        expect![[r#"
            compose.yaml:5:18: services.app.depends_on[0]: there is no service `bd`
             5 |     depends_on: [bd, extra, '']
               |                  ^^
               help: did you mean `db`?
            compose.yaml:5:22: services.app.depends_on[1]: there is no service `extra`
             5 |     depends_on: [bd, extra, '']
               |                      ^^^^^
            compose.yaml:5:29: services.app.depends_on[2]: must be a value, not an empty text
             5 |     depends_on: [bd, extra, '']
               |                             ^^
            compose.yaml:10:12: services.db.depends_on.app: has no `condition`
             10 |       app: {}
                |            ^
               help: add `condition: service_started`
            compose.yaml:11:7: services.db.depends_on.other: there is no service `other`
             11 |       other: {condition: service_ready}
                |       ^^^^^
            compose.yaml:11:26: services.db.depends_on.other.condition: unknown condition `service_ready`; use one of `service_started`, `service_healthy`, `service_completed_successfully`
             11 |       other: {condition: service_ready}
                |                          ^^^^^^^^^^^^^
            compose.yaml:12:43: services.db.depends_on.cache.restrat: unknown key `restrat`
             12 |       cache: {condition: service_started, restrat: true}
                |                                           ^^^^^^^
               help: did you mean `restart`?
            compose.yaml:13:37: services.cache.depends_on: must be a mapping, not a text
             13 |   cache: {image: cache, depends_on: cache}
                |                                     ^^^^^
        "#]],
    );
}

#[test]
fn circles() {
    check(
        "services: {a: {image: a, depends_on: [a]}}",
        expect![[r#"
        compose.yaml:1:39: services.a.depends_on[0]: services wait for each other in a circle: a -> a
         1 | services: {a: {image: a, depends_on: [a]}}
           |                                       ^
           help: remove one of these dependencies
    "#]],
    );
    check(
        "
services:
  a: {image: a, depends_on: [d, b]}
  b: {image: b, depends_on: [c]}
  c:
    image: c
    depends_on:
      a: {condition: service_healthy}
  d: {image: d}
",
        expect![[r#"
            compose.yaml:3:33: services.a.depends_on[1]: services wait for each other in a circle: a -> b -> c -> a
             3 |   a: {image: a, depends_on: [d, b]}
               |                                 ^
               help: remove one of these dependencies
        "#]],
    );
}
