//! Jobs: services whose tasks end.

use expect_test::expect;

use super::check_web;

#[test]
fn jobs() {
    check_web(
        "deploy: {mode: replicated-job}",
        expect![[r#"
        name: "shop"
        services:
          web:
            container:
              image: "nginx"
            mode:
              replicated_job:
                completions: 1
                concurrent: 1
            networks: {"network":"default"}
            restart:
              condition: "on-failure"
              delay: "5.000s"
    "#]],
    );
    check_web(
        "deploy: {mode: replicated-job, replicas: 5, restart_policy: {condition: none}}\nx-raftup: {max_concurrent: 2}",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                mode:
                  replicated_job:
                    completions: 5
                    concurrent: 2
                networks: {"network":"default"}
                restart:
                  condition: "none"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "scale: 3\ndeploy: {mode: replicated-job}\nx-raftup: {max_concurrent: 7}\nrestart: \"no\"",
        expect![[r#"
            name: "shop"
            services:
              web:
                container:
                  image: "nginx"
                mode:
                  replicated_job:
                    completions: 3
                    concurrent: 3
                networks: {"network":"default"}
                restart:
                  condition: "none"
                  delay: "5.000s"
        "#]],
    );
    check_web(
        "deploy: {mode: global-job, restart_policy: {max_attempts: 2}}",
        expect![[r#"
        name: "shop"
        services:
          web:
            container:
              image: "nginx"
            mode: "global_job"
            networks: {"network":"default"}
            restart:
              condition: "on-failure"
              delay: "5.000s"
              max_attempts: 2
    "#]],
    );
}

#[test]
fn faults_of_jobs() {
    check_web(
        "deploy: {mode: replicated_job}",
        expect![[r#"
        compose.yaml:4:20: services.web.deploy.mode: `replicated_job` is none of `replicated`, `global`, `replicated-job` and `global-job`
         4 |     deploy: {mode: replicated_job}
           |                    ^^^^^^^^^^^^^^
    "#]],
    );
    check_web(
        "deploy: {mode: replicated-job, restart_policy: {condition: any}}",
        expect![[r#"
        compose.yaml:4:64: services.web.deploy.restart_policy.condition: a job is not started again once it is complete
         4 |     deploy: {mode: replicated-job, restart_policy: {condition: any}}
           |                                                                ^^^
           help: write `on-failure` or `none`, or leave it out: it is `on-failure` then
    "#]],
    );
    check_web(
        "restart: unless-stopped\ndeploy: {mode: global-job}",
        expect![[r#"
        compose.yaml:4:14: services.web.restart: a job is not started again once it is complete
         4 |     restart: unless-stopped
           |              ^^^^^^^^^^^^^^
           help: write `on-failure` or `none`, or leave it out: it is `on-failure` then
    "#]],
    );
    check_web(
        "x-raftup: {max_concurrent: 2}",
        expect![[r#"
            compose.yaml:4:32: services.web.x-raftup.max_concurrent: says nothing here: it is for jobs, how many of their tasks run at a time
             4 |     x-raftup: {max_concurrent: 2}
               |                                ^
               help: write `mode: replicated-job`
        "#]],
    );
    check_web(
        "deploy: {mode: global-job}\nx-raftup: {max_concurrent: 0}",
        expect![[r#"
        compose.yaml:5:32: services.web.x-raftup.max_concurrent: `0` is not between 1 and 10000
         5 |     x-raftup: {max_concurrent: 0}
           |                                ^
    "#]],
    );
    check_web(
        "container_name: one\ndeploy: {mode: replicated-job, replicas: 2, update_config: {parallelism: 2}}",
        expect![[r#"
            compose.yaml:4:21: services.web.container_name: is one name for several containers
             4 |     container_name: one
               |                     ^^^
               help: remove it, or ask for one replica; other services reach all of them by the name of the service
            warning: compose.yaml:5:64: services.web.deploy.update_config: has no effect: a job that changes is run again as a whole
             5 |     deploy: {mode: replicated-job, replicas: 2, update_config: {parallelism: 2}}
               |                                                                ^
        "#]],
    );
}
