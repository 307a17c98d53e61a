//! `raftup stack config`, and which files are read.

use std::{fs, path::Path};

use expect_test::{Expect, expect};

use crate::run::{end, program};

/// A directory with files.
fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// Runs `raftup stack config` in a directory, with no daemon to ask. The last part of `env` is a variable's value.
async fn check(dir: &Path, env: &[(&str, &str)], args: &[&str], expect: Expect) {
    let args = [&["stack", "config"], args].concat();
    let child = program(Path::new("/nowhere"), dir, &args).envs(env.iter().copied()).spawn().unwrap();
    let text = end(child).await.to_string();
    expect.assert_eq(&text.replace(&dir.canonicalize().unwrap().display().to_string(), "/here"));
}

const WEB: &str = "name: shop
services:
  web: {image: 'nginx:${TAG:-1}', ports: ['8080:80'], volumes: ['./src:/src', 'data:/data'], env_file: web.env}
  db: {image: postgres}
  debug: {image: busybox, profiles: [debug]}
volumes: {data: }
";

fn shop() -> tempfile::TempDir {
    project(&[("compose.yaml", WEB), ("web.env", "A=1\n"), ("empty/keep", ""), (".env", "TAG=2\n")])
}

#[tokio::test]
async fn a_file_is_normalised() {
    let dir = shop();
    check(
        dir.path(),
        &[],
        &[],
        expect![[r#"
        name: shop
        services:
          db:
            image: postgres
            networks:
              default: null
          web:
            environment:
              A: "1"
            image: nginx:2
            networks:
              default: null
            ports:
              - target: 80
                mode: ingress
                protocol: tcp
                published: "8080"
            volumes:
              - type: bind
                source: /here/src
                target: /src
                bind:
                  create_host_path: true
              - type: volume
                source: data
                target: /data
                volume: {}
        networks:
          default:
            name: shop_default
        volumes:
          data:
            name: shop_data
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["--format", "json", "db"],
        expect![[r#"
        {
          "name": "shop",
          "networks": {
            "default": {
              "name": "shop_default"
            }
          },
          "services": {
            "db": {
              "image": "postgres",
              "networks": {
                "default": null
              }
            }
          }
        }
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["--no-interpolate", "--profile", "debug", "web"],
        expect![[r#"
        name: shop
        services:
          web:
            env_file: web.env
            image: nginx:${TAG:-1}
            networks:
              default: null
            ports:
              - target: 80
                mode: ingress
                protocol: tcp
                published: "8080"
            volumes:
              - type: bind
                source: /here/src
                target: /src
                bind:
                  create_host_path: true
              - type: volume
                source: data
                target: /data
                volume: {}
        networks:
          default:
            name: shop_default
        volumes:
          data:
            name: shop_data
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["-q"],
        expect![[r#"
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["nobody"],
        expect![[r#"
        -- stderr
        error: the files have no service `nobody` in an active profile
        hint: `raftup stack config --services` lists them
        -- status 3
    "#]],
    )
    .await;
}

#[tokio::test]
async fn parts_of_a_file_are_listed() {
    let dir = shop();
    check(
        dir.path(),
        &[],
        &["--services", "--profile", "debug"],
        expect![[r#"
        db
        debug
        web
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[("COMPOSE_PROFILES", "debug")],
        &["--services"],
        expect![[r#"
        db
        debug
        web
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[("TAG", "3")],
        &["--images"],
        expect![[r#"
        nginx:3
        postgres
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["--volumes"],
        expect![[r#"
        data
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["--profiles"],
        expect![[r#"
        debug
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["--hash", "db"],
        expect![[r#"
        db de175aa304be2b2603656dcbc11bf48a6ba0ce27beb89d8dbe60b61b825eb0eb
        -- stderr
        -- status 0
    "#]],
    )
    .await;
}

#[tokio::test]
async fn files_are_found_where_compose_finds_them() {
    let dir = project(&[
        ("compose.yml", "services: {web: {image: one}}\n"),
        ("compose.override.yaml", "services: {web: {image: over}}\n"),
        ("other/a.yaml", "services: {web: {image: 'a:${T}', volumes: ['./x:/x']}}\n"),
        ("other/b.yaml", "services: {web: {hostname: b}}\n"),
        ("other/.env", "T=beside\n"),
        ("vars.env", "COMPOSE_FILE=other/a.yaml:other/b.yaml\nT=named\n"),
        ("more.env", "T=more\n"),
        ("deep/er/keep", ""),
    ]);
    let images = ["--images"];
    check(
        dir.path(),
        &[],
        &images,
        expect![[r#"
        over
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        &dir.path().join("deep/er"),
        &[],
        &images,
        expect![[r#"
        over
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[("COMPOSE_FILE", "other/a.yaml")],
        &images,
        expect![[r#"
        a:beside
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    let separated = [("COMPOSE_FILE", "other/a.yaml;compose.yml"), ("COMPOSE_PATH_SEPARATOR", ";")];
    check(
        dir.path(),
        &separated,
        &images,
        expect![[r#"
        one
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[("COMPOSE_ENV_FILES", "vars.env,more.env")],
        &images,
        expect![[r#"
        a:more
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    let hidden = [("COMPOSE_FILE", "other/a.yaml"), ("COMPOSE_DISABLE_ENV_FILE", "1")];
    check(dir.path(), &hidden, &images, expect![[r#"
        -- stderr
        warning: other/a.yaml:1:28: services.web.image: the variable `T` is not set; it is taken as empty
         1 | services: {web: {image: 'a:${T}', volumes: ['./x:/x']}}
           |                            ^^^
           help: set it, or write `${T:-default}`

        error: other/a.yaml:1:25: services.web.image: `a:` cannot name an image: it is `[HOST/]NAME[:TAG][@DIGEST]`
         1 | services: {web: {image: 'a:${T}', volumes: ['./x:/x']}}
           |                         ^^^^^^^^

        hint: nothing was changed
        -- status 3
    "#]]).await;
    check(
        dir.path(),
        &[],
        &["--env-file", "vars.env", "-p", "named"],
        expect![[r#"
        name: named
        services:
          web:
            hostname: b
            image: a:named
            networks:
              default: null
            volumes:
              - type: bind
                source: /here/other/x
                target: /x
                bind:
                  create_host_path: true
        networks:
          default:
            name: named_default
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    let elsewhere = ["-f", "other/a.yaml", "--project-directory", "deep", "--env-file", "more.env"];
    check(
        dir.path(),
        &[],
        &elsewhere,
        expect![[r#"
        name: deep
        services:
          web:
            image: a:more
            networks:
              default: null
            volumes:
              - type: bind
                source: /here/deep/x
                target: /x
                bind:
                  create_host_path: true
        networks:
          default:
            name: deep_default
        -- stderr
        -- status 0
    "#]],
    )
    .await;
    check(
        dir.path(),
        &[],
        &["--env-file", "gone.env"],
        expect![[r#"
        -- stderr
        error: gone.env: there is no such file

        hint: nothing was changed
        -- status 3
    "#]],
    )
    .await;
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_place() {
    let dir = project(&[
        ("compose.yaml", "include: [sub/inc.yaml]\nservices: {web: {image: nginx, init: maybe}}\n"),
        ("sub/inc.yaml", "services:\n  db: {image: pg, colour: red}\n"),
    ]);
    check(
        dir.path(),
        &[],
        &["-q"],
        expect![[r#"
        -- stderr
        error: compose.yaml:2:38: services.web.init: `maybe` is neither `true` nor `false`
         2 | services: {web: {image: nginx, init: maybe}}
           |                                      ^^^^^

        error: sub/inc.yaml:2:19: services.db.colour: unknown key `colour`
         2 |   db: {image: pg, colour: red}
           |                   ^^^^^^

        hint: nothing was changed
        -- status 3
    "#]],
    )
    .await;
}
