//! What this process may do, and who may read its memory.
//!
//! Owns: core dumps, user, groups and capabilities of the process. Holds: keys in memory are in no core dump; a helper process
//! that has what it needs runs as `NOBODY` without capabilities, for good.

use std::{fs, io};

use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, geteuid, set_dumpable_behavior, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, Gid, Uid, clear_ambient_capability_set, set_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// User and group without any rights, as most systems name it.
const NOBODY: u32 = 65_534;

/// Keeps the memory of this process out of core dumps, and from debuggers of its own user. Programs that it starts may dump
/// core only if they raise their own limit.
///
/// Errors: the system refuses; the process goes on as it was.
pub fn forbid_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // The limit does not count where a program takes core dumps from a pipe.
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Gives up root and all capabilities, so that no program which this process might start gets them back. What is open stays
/// open.
///
/// Errors: the process has several threads, of which only this one would give up its rights; the system refuses, as in a
/// user namespace without such a user. Not all may be given up then. A process that is not root keeps its user.
pub fn give_up() -> io::Result<()> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("the process has {threads} threads")));
    }
    set_no_new_privs(true)?;
    if geteuid().is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // A change of the user has put the system's default in its place.
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
