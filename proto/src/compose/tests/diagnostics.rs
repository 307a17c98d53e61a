//! That faults are reported where they are, all at once, and once each.

use expect_test::expect;

use super::{check, run};

#[test]
fn a_network_of_a_service_that_cannot_be_read_is_not_called_unused() {
    check(
        "services:\n  web: {image: a, networks: [n]}\n  bad: {networks: [m]}\nnetworks: {n: {}, m: {}}\n",
        expect![[r#"
            compose.yaml:3:3: services.bad: has no `image`
             3 |   bad: {networks: [m]}
               |   ^^^
        "#]],
    );
}

#[test]
fn lines_of_block_scalars() {
    check(
        "services:\n  web:\n    image: a\n    command: |\n      first\n      second ${UNSET}\n      third ${X\n    entrypoint: >\n      \
         a\n      b ${1}\n    hostname: \"x\n      ${Y!}\"\n",
        expect![[r#"
            compose.yaml:7:13: services.web.command: `${X` is not closed
             7 |       third ${X
               |             ^^^
               help: close it with `}`, or write `$${` for a literal `${`
            compose.yaml:10:9: services.web.entrypoint: `${1}` names no variable
             10 |       b ${1}
                |         ^^^^
               help: write `$${` for a literal `${`
            compose.yaml:12:7: services.web.hostname: `${Y!}` is not understood
             12 |       ${Y!}"
                |       ^^^^^
               help: after the name comes one of `:-` `-` `:?` `?` `:+` `+`, or `}`
            warning: compose.yaml:6:14: services.web.command: the variable `UNSET` is not set; it is taken as empty
             6 |       second ${UNSET}
               |              ^^^^^^^
               help: set it, or write `${UNSET:-default}`
        "#]],
    );
}

#[test]
fn how_many_more_errors_there_are() {
    let services: String =
        (0..60).map(|number| format!("  s{number}: {{image: a, colour: red}}\n")).collect();
    let problems = run(&format!("services:\n{services}"), &[]).unwrap_err();
    assert_eq!(problems.errors.len(), 51);
    assert_eq!(problems.errors[50].to_string(), "10 more errors are not shown");
    let services: String =
        (0..50).map(|number| format!("  s{number}: {{image: a, colour: red}}\n")).collect();
    assert_eq!(run(&format!("services:\n{services}"), &[]).unwrap_err().errors.len(), 50);
}

#[test]
fn a_faulty_line_of_a_template_is_reported_once() {
    check(
        "x-common: &common\n  init: maybe\n  user: ${U\nservices:\n  a: {<<: *common, image: x}\n  b: {<<: *common, image: x}\n  \
         c: {<<: *common, image: x, hostname: c_}\n",
        expect![[r#"
            compose.yaml:2:9: services.a.init: `maybe` is neither `true` nor `false` (3 times, as this line is used more than once)
             2 |   init: maybe
               |         ^^^^^
            compose.yaml:3:9: x-common.user: `${U` is not closed (4 times, as this line is used more than once)
             3 |   user: ${U
               |         ^^^
               help: close it with `}`, or write `$${` for a literal `${`
        "#]],
    );
}

#[test]
fn a_faulty_variable_hides_nothing_else() {
    check(
        "services:\n  web: {image: 'a:${TAG', colour: red, init: '${X!}', ports: ['${P:?say which}:80', 'x:y']}\n  db: {}\n",
        expect![[r#"
            compose.yaml:2:19: services.web.image: `${TAG` is not closed
             2 |   web: {image: 'a:${TAG', colour: red, init: '${X!}', ports: ['${P:?say which}:80', 'x:y']}
               |                   ^^^^^
               help: close it with `}`, or write `$${` for a literal `${`
            compose.yaml:2:27: services.web.colour: unknown key `colour`
             2 |   web: {image: 'a:${TAG', colour: red, init: '${X!}', ports: ['${P:?say which}:80', 'x:y']}
               |                           ^^^^^^
            compose.yaml:2:47: services.web.init: `${X!}` is not understood
             2 |   web: {image: 'a:${TAG', colour: red, init: '${X!}', ports: ['${P:?say which}:80', 'x:y']}
               |                                               ^^^^^
               help: after the name comes one of `:-` `-` `:?` `?` `:+` `+`, or `}`
            compose.yaml:2:64: services.web.ports[0]: the variable `P` has to be set: say which
             2 |   web: {image: 'a:${TAG', colour: red, init: '${X!}', ports: ['${P:?say which}:80', 'x:y']}
               |                                                                ^^^^^^^^^^^^^^^
            compose.yaml:2:85: services.web.ports[1]: `y` is not a port
             2 |   web: {image: 'a:${TAG', colour: red, init: '${X!}', ports: ['${P:?say which}:80', 'x:y']}
               |                                                                                     ^^^^^
            compose.yaml:3:3: services.db: has no `image`
             3 |   db: {}
               |   ^^
        "#]],
    );
    check(
        "name: ${N:?name it}\nservices: {web: {image: a, init: maybe}}\n",
        expect![[r#"
        compose.yaml:1:7: name: the variable `N` has to be set: name it
         1 | name: ${N:?name it}
           |       ^^^^^^^^^^^^^
        compose.yaml:2:34: services.web.init: `maybe` is neither `true` nor `false`
         2 | services: {web: {image: a, init: maybe}}
           |                                  ^^^^^
    "#]],
    );
    check(
        "## compose.yaml\nservices: {web: {image: a, init: maybe}}\n## .env\nA=${\n",
        expect![[r#"
        compose.yaml:1:34: services.web.init: `maybe` is neither `true` nor `false`
         1 | services: {web: {image: a, init: maybe}}
           |                                  ^^^^^
        .env:1:3: `${` is not closed
         1 | A=${
           |   ^^
           help: close it with `}`, or write `$${` for a literal `${`
    "#]],
    );
}

#[test]
fn tags_are_marked_themselves() {
    check(
        "services:\n  web: !mine\n    image: !other a\n    labels: {a: !!binary eA==}\n",
        expect![[r#"
        compose.yaml:2:8: services.web: the tag `!mine` is unknown
         2 |   web: !mine
           |        ^^^^^
           help: the tags of Compose are `!reset` and `!override`
        compose.yaml:3:12: services.web.image: the tag `!other` is unknown
         3 |     image: !other a
           |            ^^^^^^
           help: the tags of Compose are `!reset` and `!override`
        compose.yaml:4:17: services.web.labels.a: the tag `!!binary` is unknown
         4 |     labels: {a: !!binary eA==}
           |                 ^^^^^^^^
           help: the tags of Compose are `!reset` and `!override`
    "#]],
    );
}

#[test]
fn byte_order_marks_and_windows_lines() {
    check(
        "\u{feff}services:\r\n  web:\r\n    image: a\r\n    colour: red\r\n",
        expect![[r#"
        compose.yaml:4:5: services.web.colour: unknown key `colour`
         4 |     colour: red
           |     ^^^^^^
    "#]],
    );
}
