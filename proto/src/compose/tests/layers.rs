//! What is said of files that include, extend and override others.

use expect_test::expect;

use super::{check, check_env, run};

#[test]
fn includes_that_fail() {
    check(
        "include: [gone.yml, {path: [], x: 1}, {pth: a.yml}, 5, {path: a.yml, env_file: gone.env}]\nservices: {web: {image: a}}\n",
        expect![[r#"
            compose.yaml:1:11: include[0]: there is no file `gone.yml`
             1 | include: [gone.yml, {path: [], x: 1}, {pth: a.yml}, 5, {path: a.yml, env_file: gone.env}]
               |           ^^^^^^^^
            compose.yaml:1:32: include[1]: unknown key `x`
             1 | include: [gone.yml, {path: [], x: 1}, {pth: a.yml}, 5, {path: a.yml, env_file: gone.env}]
               |                                ^
               help: write the path of a file, or `path`, `project_directory` and `env_file`
            compose.yaml:1:40: include[2]: unknown key `pth`
             1 | include: [gone.yml, {path: [], x: 1}, {pth: a.yml}, 5, {path: a.yml, env_file: gone.env}]
               |                                        ^^^
               help: write the path of a file, or `path`, `project_directory` and `env_file`
            compose.yaml:1:53: include[3]: there is no file `5`
             1 | include: [gone.yml, {path: [], x: 1}, {pth: a.yml}, 5, {path: a.yml, env_file: gone.env}]
               |                                                     ^
            compose.yaml:1:80: include[4]: there is no file `gone.env`
             1 | include: [gone.yml, {path: [], x: 1}, {pth: a.yml}, 5, {path: a.yml, env_file: gone.env}]
               |                                                                                ^^^^^^^^
        "#]],
    );
    check(
        "include: sub.yml\nservices: {web: {image: a}}\n",
        expect![[r#"
        compose.yaml:1:10: include: must be a list
         1 | include: sub.yml
           |          ^^^^^^^
           help: write `include: [FILE]`
    "#]],
    );
    check(
        "## compose.yaml\ninclude: [sub/a.yml]\nservices: {web: {image: a}}\nnetworks: {n: {internal: true}}\n## \
         sub/a.yml\nservices:\n  web: {image: b}\n  db: {image: 'pg:${'}\nnetworks: {n: {internal: true}}\n",
        expect![[r#"
            compose.yaml:2:12: services.web: `web` is in the included file too, at sub/a.yml:2:3, and differs
             2 | services: {web: {image: a}}
               |            ^^^
               help: rename one of them, or put the changes into a file that `path` lists second
            sub/a.yml:3:19: services.db.image: `${` is not closed
             3 |   db: {image: 'pg:${'}
               |                   ^^
               help: close it with `}`, or write `$${` for a literal `${`
        "#]],
    );
    check(
        "## compose.yaml\ninclude: [a.yml]\n## a.yml\ninclude: [sub/b.yml]\n## sub/b.yml\ninclude: [../a.yml]\n",
        expect![[r#"
            sub/b.yml:1:11: include[0]: the files include one another in a circle: compose.yaml, a.yml, sub/b.yml, a.yml
             1 | include: [../a.yml]
               |           ^^^^^^^^
        "#]],
    );
}

#[test]
fn files_of_the_network() {
    check(
        "include: ['https://example.org/a.yml']\nservices: {web: {extends: {file: 'git@x:y', service: a}}}\n",
        expect![[r#"
            compose.yaml:1:11: include[0]: files are not fetched from the network
             1 | include: ['https://example.org/a.yml']
               |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^
               help: copy it beside the compose file, and name it by its path
            compose.yaml:2:34: services.web.extends: files are not fetched from the network
             2 | services: {web: {extends: {file: 'git@x:y', service: a}}}
               |                                  ^^^^^^^^^
               help: copy it beside the compose file, and name it by its path
        "#]],
    );
}

#[test]
fn extends_that_fail() {
    check(
        "services:\n  bsae: {image: a}\n  web: {extends: base}\n  api: {extends: {file: gone.yml, service: x}}\n  \
         one: {extends: {service: two}}\n  two: {extends: one}\n  odd: {extends: {srvice: web}}\n  none: {extends: }\n",
        expect![[r#"
            compose.yaml:3:18: services.web.extends: there is no service `base`
             3 |   web: {extends: base}
               |                  ^^^^
               help: did you mean `bsae`?
            compose.yaml:4:25: services.api.extends: there is no file `gone.yml`
             4 |   api: {extends: {file: gone.yml, service: x}}
               |                         ^^^^^^^^
            compose.yaml:6:18: services.two.extends: the services extend one another in a circle: one, two, one
             6 |   two: {extends: one}
               |                  ^^^
            compose.yaml:7:19: services.odd.extends: unknown key `srvice`
             7 |   odd: {extends: {srvice: web}}
               |                   ^^^^^^
               help: write `extends: SERVICE`, or `extends: {file: FILE, service: SERVICE}`
            compose.yaml:8:10: services.none.extends: names no service
             8 |   none: {extends: }
               |          ^^^^^^^
               help: write `extends: SERVICE`, or `extends: {file: FILE, service: SERVICE}`
        "#]],
    );
    check(
        "## compose.yaml\nservices: {web: {extends: {file: sub/base.yml, service: ap}}}\n## sub/base.yml\nservices: \
         {app: {image: a}}\n",
        expect![[r#"
            compose.yaml:1:57: services.web.extends: there is no service `ap` in `sub/base.yml`
             1 | services: {web: {extends: {file: sub/base.yml, service: ap}}}
               |                                                         ^^
               help: did you mean `app`?
        "#]],
    );
}

#[test]
fn places_lead_into_other_files() {
    check(
        "## compose.yaml\ninclude: [sub/a.yml]\nservices: {web: {extends: {file: b.yml, service: base}}}\n## \
         sub/a.yml\nservices:\n  db: {image: pg, volums: []}\n## b.yml\nservices:\n  base: {image: a, init: maybe}\n",
        expect![[r#"
            b.yml:2:26: services.web.init: `maybe` is neither `true` nor `false`
             2 |   base: {image: a, init: maybe}
               |                          ^^^^^
            sub/a.yml:2:19: services.db.volums: unknown key `volums`
             2 |   db: {image: pg, volums: []}
               |                   ^^^^^^
               help: did you mean `volumes`?
        "#]],
    );
}

#[test]
fn profiles_that_matter() {
    let problems = run(
        "services:\n  web: {image: a, depends_on: [debug]}\n  api: {image: a, depends_on: {debug: {condition: \
         service_started}}}\n  debug: {image: b, profiles: [dev, test]}\n  odd: {image: c, profiles: dev}\n",
        &[],
    )
    .unwrap_err();
    let found: Vec<String> = problems.errors.iter().map(ToString::to_string).collect();
    let left_out = "`debug` is left out: it is in the profile `dev`, `test`, which is not active";
    assert_eq!(found.iter().filter(|error| error.contains(left_out)).count(), 2, "{found:#?}");
    assert!(found.iter().any(|error| error.contains("services.odd.profiles: must be a list of names")));
    check_env(
        "services:\n  web: {image: a, ports: ['80:80']}\n  one: {image: b, profiles: [one], ports: ['81:80'], networks: [n]}\n  \
         two: {image: b, profiles: [two], ports: ['81:80']}\nnetworks: {n: {}}\n",
        &[("COMPOSE_PROFILES", "two, three")],
        expect![[r#"
            name: "shop"
            services:
              two:
                container:
                  image: "b"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                ports: {"mode":"ingress","protocol":"tcp","published":81,"target":80}
                restart:
                  condition: "any"
                  delay: "5.000s"
              web:
                container:
                  image: "a"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                ports: {"mode":"ingress","protocol":"tcp","published":80,"target":80}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}

#[test]
fn variables_of_the_parts() {
    check_env(
        "## compose.yaml\ninclude: [sub/a.yml]\nservices: {web: {image: 'a:${TAG}', env_file: web.env}}\n## \
         sub/a.yml\nservices: {db: {image: 'pg:${TAG}', environment: [TAG]}}\n## sub/.env\nTAG=inner\n## .env\n\
         PASS=a$(b)$\n## web.env\nPW=$PASS$\nRAW='$x'\nDATE=$(date)\n",
        &[("TAG", "outer")],
        expect![[r#"
            name: "shop"
            services:
              db:
                container:
                  env:
                    TAG: "outer"
                  image: "pg:outer"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                restart:
                  condition: "any"
                  delay: "5.000s"
              web:
                container:
                  env:
                    DATE: "$(date)"
                    PW: "a$(b)$$"
                    RAW: "$x"
                  image: "a:outer"
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
fn marks_that_remove() {
    check(
        "## a.yaml\nservices:\n  web: {image: a, ports: ['80:80'], labels: {a: x, b: y}, environment: [A=1, B=2]}\n  \
         gone: {image: b}\n## b.yaml\nservices:\n  web:\n    ports: !override ['81:81']\n    labels: {a: !reset null}\n    \
         environment: {A: !reset null}\n  gone: !reset null\n",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  env:
                    B: "2"
                  image: "a"
                  labels:
                    b: "y"
                mode:
                  replicated:
                    replicas: 1
                networks: {"network":"default"}
                ports: {"mode":"ingress","protocol":"tcp","published":81,"target":81}
                restart:
                  condition: "any"
                  delay: "5.000s"
        "#]],
    );
}
