//! `post_start` and `pre_stop`.

use expect_test::expect;

use super::check_web;

#[test]
fn hooks() {
    check_web(
        "\
post_start:
  - command: chown -R app /data
    user: root
    privileged: true
  - {command: [a, b c], working_dir: /x, environment: [A=1, HOME]}
pre_stop:
  - {command: [\"/bin/drain\"], environment: {WAIT: 5}}
",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                  post_start: {"command":["chown","-R","app","/data"],"privileged":true,"user":"root"}
                  post_start: {"command":["a","b c"],"env":{"A":"1","HOME":"/root"},"working_dir":"/x"}
                  pre_stop: {"command":["/bin/drain"],"env":{"WAIT":"5"}}
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
fn faults_of_hooks() {
    check_web(
        "post_start: [{}, {command: []}, {command: a, working_dir: x}, {user: root, when: later}]\npre_stop: sync",
        expect![[r#"
            compose.yaml:4:18: services.web.post_start[0]: has no `command`
             4 |     post_start: [{}, {command: []}, {command: a, working_dir: x}, {user: root, when: later}]
               |                  ^
               help: write `command: ["sh", "-c", "..."]`
            compose.yaml:4:32: services.web.post_start[1].command: is an empty command
             4 |     post_start: [{}, {command: []}, {command: a, working_dir: x}, {user: root, when: later}]
               |                                ^
            compose.yaml:4:63: services.web.post_start[2].working_dir: the directory `x` is not an absolute path
             4 |     post_start: [{}, {command: []}, {command: a, working_dir: x}, {user: root, when: later}]
               |                                                               ^
            compose.yaml:4:67: services.web.post_start[3]: has no `command`
             4 |     post_start: [{}, {command: []}, {command: a, working_dir: x}, {user: root, when: later}]
               |                                                                   ^
               help: write `command: ["sh", "-c", "..."]`
            compose.yaml:4:80: services.web.post_start[3].when: unknown key `when`
             4 |     post_start: [{}, {command: []}, {command: a, working_dir: x}, {user: root, when: later}]
               |                                                                                ^^^^
            compose.yaml:5:15: services.web.pre_stop: must be a list, not a text
             5 |     pre_stop: sync
               |               ^^^^
        "#]],
    );
}
