//! Pure decisions of the leader: from a snapshot, the time and fresh ids to a change set and the reasons for what waits.
//!
//! No I/O, no clock, no chance: equal inputs, equal plans. Carried out, a plan leaves nothing to do.
