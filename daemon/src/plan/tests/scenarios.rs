//! The scripts in `tests/scripts`, one test each; `UPDATE_EXPECT=1` writes what happens below each command.

use expect_test::expect_file;

use super::script::run;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            let text = include_str!(concat!("scripts/", stringify!($name), ".txt"));
            expect_file![concat!("scripts/", stringify!($name), ".txt")].assert_eq(&run(text));
        })*
    };
}

scenarios!(
    scale,
    node_lost,
    rollout,
    rollout_bad,
    rollout_policy,
    start_first,
    rollback,
    restart,
    restart_limits,
    restart_engine,
    overtaken,
    attempts_again,
    collisions,
    drain,
    global,
    removal,
    waiting,
    placement,
    placement_spread,
    placement_most,
    placement_beside,
    placement_generic,
    ports,
    host_ports,
    exhaustion,
    deploy,
    progress,
    volumes,
    engine_gone,
    pinned,
    depends_on,
    depends_on_kinds,
    jobs,
    jobs_global,
    slot_order,
);
