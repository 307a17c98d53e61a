//! Secrets and configs: all forms, and what is said of those that are wrong.

use std::collections::BTreeMap;

use expect_test::expect;

use super::{check, check_env, run};
use crate::spec::{BlobKind, BlobMount, SECRETS};

#[test]
fn every_form_is_read() {
    check_env(
        "## compose.yaml\nname: shop\nservices:\n  web:\n    image: nginx\n    secrets:\n      - key\n      - {source: db, target: pass, uid: '103', \
         gid: \"104\", mode: 0440}\n      - {source: other, target: /etc/other}\n    configs:\n      - site\n      - {source: \
         motd, target: etc/motd}\nsecrets:\n  key: {file: ./key.pem, labels: [a=b]}\n  db: {environment: DB_PASS, name: \
         db-pass}\n  other: {external: true, name: theirs}\nconfigs:\n  site: {content: \"port ${PORT}\\n\"}\n  motd: \
         {external: true}\n## key.pem\nprivate\n",
        &[("DB_PASS", "hunter2"), ("PORT", "80")],
        expect![[r#"
            configs:
              motd:
                external: true
                name: "motd"
              site:
                data: "cG9ydCA4MAo="
                name: "shop_site"
            name: "shop"
            secrets:
              db:
                data: "aHVudGVyMg=="
                name: "db-pass"
              key:
                data: "cHJpdmF0ZQo="
                labels:
                  a: "b"
                name: "shop_key"
              other:
                external: true
                name: "theirs"
            services:
              web:
                container:
                  configs: {"mode":292,"name":"shop_site","source":"site","target":"/site"}
                  configs: {"mode":292,"name":"motd","source":"motd","target":"/etc/motd"}
                  image: "nginx"
                  secrets: {"mode":292,"name":"shop_key","source":"key","target":"/run/secrets/key"}
                  secrets: {"gid":104,"mode":288,"name":"db-pass","source":"db","target":"/run/secrets/pass","uid":103}
                  secrets: {"mode":292,"name":"theirs","source":"other","target":"/etc/other"}
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
fn the_level_tells_older_releases() {
    let loaded = run(
        "## compose.yaml\nservices: {web: {image: nginx, configs: [a]}}\nconfigs: {a: {content: b}}\n",
        &[],
    )
    .unwrap();
    assert_eq!(loaded.spec.level(), (SECRETS, Some("config `a`".to_owned())));
}

#[test]
fn what_is_wrong_is_told_at_its_place() {
    check(
        "services:\n  web:\n    image: nginx\n    secrets: [tokn, site, {target: x}, {source: token, uid: root, mode: 999}]\n    \
         configs:\n      - nothing\n      - {source: site, target: /a/}\n      - {source: site, taget: /b}\nsecrets: {token: \
         {external: true}}\nconfigs: {site: {content: a}}\n",
        expect![[r#"
            compose.yaml:4:15: services.web.secrets[0]: the secret `tokn` is not declared
             4 |     secrets: [tokn, site, {target: x}, {source: token, uid: root, mode: 999}]
               |               ^^^^
               help: did you mean `token`?
            compose.yaml:4:21: services.web.secrets[1]: the secret `site` is not declared
             4 |     secrets: [tokn, site, {target: x}, {source: token, uid: root, mode: 999}]
               |                     ^^^^
               help: there is a config of that name: name it under `configs`
            compose.yaml:4:27: services.web.secrets[2]: `source` is missing
             4 |     secrets: [tokn, site, {target: x}, {source: token, uid: root, mode: 999}]
               |                           ^
            compose.yaml:4:61: services.web.secrets[3].uid: `root` is no number; names of users and groups are the image's own
             4 |     secrets: [tokn, site, {target: x}, {source: token, uid: root, mode: 999}]
               |                                                             ^^^^
            compose.yaml:4:73: services.web.secrets[3].mode: `999` are not permissions in octal such as `1777`
             4 |     secrets: [tokn, site, {target: x}, {source: token, uid: root, mode: 999}]
               |                                                                         ^^^
            compose.yaml:6:9: services.web.configs[0]: the config `nothing` is not declared
             6 |       - nothing
               |         ^^^^^^^
               help: declare it at the top level, `configs: {nothing: {file: ./nothing}}`, or `{external: true}` where the cluster has it
            compose.yaml:7:32: services.web.configs[1].target: `/a/` is a directory; a config is one file
             7 |       - {source: site, target: /a/}
               |                                ^^^
            compose.yaml:8:24: services.web.configs[2].taget: unknown key `taget`
             8 |       - {source: site, taget: /b}
               |                        ^^^^^
               help: did you mean `target`?
        "#]],
    );
    check(
        "services:\n  web:\n    image: nginx\n    volumes: ['/x:/run/secrets/b']\n    secrets: [a, b, c, d, e, f, g, h, i]\n\
         secrets:\n  a: {file: ./missing}\n  b: {external: true}\n  c: {environment: UNSET}\n  d: {}\n  e: {content: x}\n  \
         f: {file: x, environment: Y}\n  g: {environment: EMPTY, driver: vault}\n  h:\n  i: {environment: A, \
         template_driver: golang}\n",
        expect![[r#"
            compose.yaml:5:18: services.web.secrets[1]: is mounted on `/run/secrets/b`, as a volume of the service is
             5 |     secrets: [a, b, c, d, e, f, g, h, i]
               |                  ^
               help: give it another `target`
            compose.yaml:7:13: secrets.a.file: there is no file `/srv/shop/missing`
             7 |   a: {file: ./missing}
               |             ^^^^^^^^^
            compose.yaml:9:20: secrets.c.environment: the variable `UNSET` is not set
             9 |   c: {environment: UNSET}
               |                    ^^^^^
               help: set it for the command that deploys, or in `.env`
            compose.yaml:10:3: secrets.d: has no content
             10 |   d: {}
                |   ^
               help: give it `file`, `environment` or `external: true`
            compose.yaml:11:7: secrets.e.content: is for configs
             11 |   e: {content: x}
                |       ^^^^^^^
               help: name a file, or a variable of `raftup stack deploy` with `environment`
            compose.yaml:12:13: secrets.f.file: there is no file `/srv/shop/x`
             12 |   f: {file: x, environment: Y}
                |             ^
            compose.yaml:12:29: secrets.f.environment: is a second content of the same thing
             12 |   f: {file: x, environment: Y}
                |                             ^
               help: give it one of `file`, `environment` or `external: true`
            compose.yaml:13:20: secrets.g.environment: the variable `EMPTY` is not set
             13 |   g: {environment: EMPTY, driver: vault}
                |                    ^^^^^
               help: set it for the command that deploys, or in `.env`
            compose.yaml:13:27: secrets.g.driver: is not supported: the cluster itself keeps secrets
             13 |   g: {environment: EMPTY, driver: vault}
                |                           ^^^^^^
               help: name a `file`, or make it with `raftup secret create` and write `external: true`
            compose.yaml:14:3: secrets.h: has no content
             14 |   h:
                |   ^
               help: give it `file`, `environment` or `external: true`
            compose.yaml:15:20: secrets.i.environment: the variable `A` is not set
             15 |   i: {environment: A, template_driver: golang}
                |                    ^
               help: set it for the command that deploys, or in `.env`
            compose.yaml:15:23: secrets.i.template_driver: is not supported yet
             15 |   i: {environment: A, template_driver: golang}
                |                       ^^^^^^^^^^^^^^^
        "#]],
    );
    check(
        "services: {web: {image: nginx, secrets: [a, b]}}\nsecrets:\n  a: {external: true, name: '-x'}\n  b: {environment: \
         HOME, name: shop_x, x-mine: 1}\n  c: {environment: HOME, name: y}\n",
        expect![[r#"
            compose.yaml:3:29: secrets.a.name: `-x` is no name: up to 127 letters, digits, `_`, `.` and `-`, of which the first is a letter or digit
             3 |   a: {external: true, name: '-x'}
               |                             ^^^^
            compose.yaml:4:20: secrets.b.environment: the variable `HOME` is not set
             4 |   b: {environment: HOME, name: shop_x, x-mine: 1}
               |                    ^^^^
               help: set it for the command that deploys, or in `.env`
            warning: compose.yaml:5:3: secrets.c: no service uses this secret; it is not created
             5 |   c: {environment: HOME, name: y}
               |   ^
        "#]],
    );
}

#[test]
fn one_name_is_one_secret() {
    check_env(
        "services: {web: {image: nginx, secrets: [a, b]}}\nsecrets:\n  a: {environment: A, name: n1}\n  b: {environment: A, \
         name: n1}\n",
        &[("A", "x")],
        expect![[r#"
            compose.yaml:4:3: secrets.b: has the name `n1`, as `a` has
             4 |   b: {environment: A, name: n1}
               |   ^
               help: give it another `name`
        "#]],
    );
}

/// As large as it may be, and one byte more, told before anything starts.
#[test]
fn contents_have_the_limits_of_swarm() {
    for kind in BlobKind::ALL {
        let text = |bytes: usize| {
            format!(
                "## compose.yaml\nservices:\n  web: {{image: nginx, {0}: [big]}}\n{0}:\n  big:\n    file: ./big\n## big\n{1}\n",
                kind.plural(),
                "x".repeat(bytes - 1)
            )
        };
        let loaded = run(&text(kind.bytes_max()), &[]).unwrap();
        let data = loaded.spec.blobs(kind).values().next().unwrap().data.as_ref().unwrap();
        assert_eq!(data.expose().len(), kind.bytes_max());
        let problems = run(&text(kind.bytes_max() + 1), &[]).unwrap_err();
        let error = &problems.errors[0];
        assert_eq!((error.line, error.column), (5, 11), "{error}");
        let kb = kind.bytes_max() >> 10;
        assert_eq!(
            error.message,
            format!("the file is larger than the {kb} KB ({} bytes) of a {kind}", kind.bytes_max())
        );
    }
}

/// A build's secrets are another matter: their files are not read, and they reach no container.
#[test]
fn secrets_of_builds_alone_are_not_read() {
    let text = "services: {web: {image: nginx, build: {context: ., secrets: [npm]}}}\nsecrets: {npm: {file: ./missing}}\n";
    let loaded = run(text, &[]).unwrap();
    assert_eq!((&loaded.spec.secrets, loaded.warnings.len()), (&BTreeMap::new(), 1), "{:?}", loaded.warnings);
}

#[test]
fn one_that_no_service_uses_is_not_created() {
    let loaded = run("services: {web: {image: nginx}}\nsecrets: {a: {file: ./missing}}\n", &[]).unwrap();
    assert!(loaded.spec.secrets.is_empty());
    assert_eq!(loaded.warnings[0].message, "no service uses this secret; it is not created");
}

/// Paths start at the directory of the file that has them.
#[test]
fn a_file_is_beside_the_compose_file_that_names_it() {
    let text = "## compose.yaml\nname: shop\ninclude: [sub/part.yml]\nservices: {web: {image: nginx}}\n## sub/part.yml\n\
                services: {api: {image: nginx, configs: [{source: a, target: /a}]}}\nconfigs: {a: {file: ./a.conf}}\n## \
                sub/a.conf\nhello\n";
    let loaded = run(text, &[]).unwrap();
    let config = &loaded.spec.configs["a"];
    assert_eq!((config.name.as_str(), config.data.as_ref().unwrap().expose()), ("shop_a", &b"hello\n"[..]));
    let api = &loaded.spec.services["api"].container.configs;
    assert!(matches!(api.as_slice(), [BlobMount { uid: 0, gid: 0, mode: 0o444, id: None, .. }]), "{api:?}");
}

/// Swarm's placeholders are refused by name wherever Swarm takes them; other braces are text.
#[test]
fn placeholders_are_refused_by_name() {
    check(
        "services:\n  web:\n    image: nginx\n    environment:\n      A: 'node {{.Node.Hostname}}'\n      B: '{{ .Task.Slot }}'\n      \
         C: '{{.ID}} {{json .}}'\n    volumes: ['data-{{.Task.Slot}}:/data', {type: bind, source: '/srv/{{.Service.Name}}', \
         target: /s}]\n",
        expect![[r#"
            compose.yaml:5:10: services.web.environment.A: the placeholder `{{.Node.Hostname}}` is not supported yet
             5 |       A: 'node {{.Node.Hostname}}'
               |          ^^^^^^^^^^^^^^^^^^^^^^^^^
            compose.yaml:6:10: services.web.environment.B: the placeholder `{{.Task.Slot}}` is not supported yet
             6 |       B: '{{ .Task.Slot }}'
               |          ^^^^^^^^^^^^^^^^^^
            compose.yaml:8:15: services.web.volumes[0]: the placeholder `{{.Task.Slot}}` is not supported yet
             8 |     volumes: ['data-{{.Task.Slot}}:/data', {type: bind, source: '/srv/{{.Service.Name}}', target: /s}]
               |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^
            compose.yaml:8:15: services.web.volumes[0]: the volume `data-{{.Task.Slot}}` is not declared
             8 |     volumes: ['data-{{.Task.Slot}}:/data', {type: bind, source: '/srv/{{.Service.Name}}', target: /s}]
               |               ^^^^^^^^^^^^^^^^^^^^^^^^^^^
               help: declare it at the top level, `volumes: {data-{{.Task.Slot}}: {}}`, or write `./data-{{.Task.Slot}}` for a path
            compose.yaml:8:44: services.web.volumes[1]: the placeholder `{{.Service.Name}}` is not supported yet
             8 |     volumes: ['data-{{.Task.Slot}}:/data', {type: bind, source: '/srv/{{.Service.Name}}', target: /s}]
               |                                            ^
        "#]],
    );
}
