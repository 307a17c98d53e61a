//! Making a cluster of three, and the same with Swarm on the same hosts.

use crate::{
    cluster::{lab_for_both, raftup, swarm},
    table::{Row, Target},
};

/// In seconds; a lab for each round, because a cluster begins once.
pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let lab = lab_for_both()?;
        ours.push(raftup(&lab, &[])?);
        theirs.push(swarm(&lab)?);
    }
    let row = |what: &str, figures: [Vec<f64>; 2]| {
        let [ours, theirs] = figures;
        Row::new(what, "s", ours).target(Target::AtMost(1.0)).beside("Docker Swarm", theirs, None)
    };
    let inits = [&ours, &theirs].map(|formed| formed.iter().map(|formed| formed.init).collect());
    let joins =
        [&ours, &theirs].map(|formed| formed.iter().flat_map(|formed| formed.joins.clone()).collect());
    Ok(vec![row("init", inits), row("join", joins)])
}
