use proptest::prelude::*;
use raftup_proto::id::TaskId;

use super::*;
use crate::{
    model::{Handled, RequestKey, Service},
    store::sample,
};

fn base() -> Cluster {
    apply(&Cluster::default(), 1, &sample::everything()).unwrap()
}

#[test]
fn meta_is_set_here_alone() {
    let cluster = base();
    let mut set = ChangeSet::new(UnixMillis(5));
    let mut task = sample::task(1);
    task.meta = Meta { revision: Revision(1), created: UnixMillis(99), updated: UnixMillis(99) };
    set.update(task);
    let next = apply(&cluster, 7, &set).unwrap();
    assert_eq!(next.revision, Revision(7));
    let meta = next.tasks[&TaskId::from_random(1)].meta;
    assert_eq!(meta, Meta { revision: Revision(7), created: sample::first().at, updated: UnixMillis(5) });
    assert_eq!(cluster.tasks[&TaskId::from_random(1)].meta.revision, Revision(1));
}

#[test]
fn stale_and_foreign_changes_are_conflicts() {
    let cluster = base();
    let conflict = |change: Change| {
        let set = ChangeSet { at: UnixMillis(5), changes: vec![change], ..ChangeSet::default() };
        matches!(apply(&cluster, 7, &set), Err(Rejected::Conflict { .. }))
    };
    assert!(conflict(Change::Create(sample::task(1).into())));
    assert!(conflict(Change::Update(sample::task(1).into())));
    assert!(conflict(Change::Update(sample::task(2).into())));
    assert!(conflict(Change::Delete(ObjectKey::Task(TaskId::from_random(1)), Revision(3))));
    assert!(conflict(Change::Delete(ObjectKey::Task(TaskId::from_random(2)), Revision(1))));
    assert!(conflict(Change::Create(sample::stack(9, "shop").into())));
}

#[test]
fn what_can_never_be_is_refused() {
    let cluster = base();
    let invalid = |cluster: &Cluster, changes: Vec<Change>| {
        matches!(
            apply(cluster, 7, &ChangeSet { at: UnixMillis(5), changes, ..ChangeSet::default() }),
            Err(Rejected::Invalid { .. })
        )
    };
    assert!(invalid(
        &cluster,
        vec![Change::Create(Service { versions: vec![], ..sample::service(9) }.into())]
    ));
    let twice = Change::Create(sample::task(9).into());
    assert!(invalid(&cluster, vec![twice.clone(), twice.clone()]));
    assert!(invalid(&cluster, vec![Change::Delete(ObjectKey::Cluster, Revision(1))]));
    assert!(invalid(&Cluster::default(), vec![twice]));
}

fn change() -> impl Strategy<Value = Change> {
    let object = (0..8_u8, 0..3_u64, 0..4_u64).prop_map(|(kind, id, revision)| {
        let meta = Meta { revision: Revision(revision), ..Meta::default() };
        let mut object: Object = match kind {
            0 => sample::info().into(),
            1 => sample::node(id).into(),
            2 => sample::stack(id, ["shop", "blog", "mail"][id as usize]).into(),
            3 => sample::service(id).into(),
            4 => sample::network(id).into(),
            5 => sample::volume(id).into(),
            6 => sample::blob(id).into(),
            _ => sample::task(id).into(),
        };
        match &mut object {
            Object::Cluster(object) => Arc::make_mut(object).meta = meta,
            Object::Node(object) => Arc::make_mut(object).meta = meta,
            Object::Stack(object) => Arc::make_mut(object).meta = meta,
            Object::Service(object) => Arc::make_mut(object).meta = meta,
            Object::Task(object) => Arc::make_mut(object).meta = meta,
            Object::Network(object) => Arc::make_mut(object).meta = meta,
            Object::Volume(object) => Arc::make_mut(object).meta = meta,
            Object::Blob(object) => Arc::make_mut(object).meta = meta,
        }
        object
    });
    (object, 0..3_u8).prop_map(|(object, kind)| match kind {
        0 => Change::Create(object),
        1 => Change::Update(object),
        _ => Change::Delete(object.key(), object.meta().revision),
    })
}

proptest! {
    /// Two replicas that apply the same log hold the same; a set that is refused leaves no trace; what is held is as the
    /// set says.
    #[test]
    fn sets_are_whole_or_nothing(sets in prop::collection::vec(prop::collection::vec(change(), 0..6), 0..12)) {
        let (mut one, mut two) = (base(), base());
        for (index, changes) in (2..).zip(sets) {
            let set = ChangeSet { at: UnixMillis(index), changes, ..ChangeSet::default() };
            let (a, b) = (apply(&one, index, &set), apply(&two, index, &set));
            prop_assert_eq!(&a, &b);
            let Ok(next) = a else {
                continue;
            };
            for change in &set.changes {
                let now = next.get(change.key());
                match change {
                    Change::Delete(..) => prop_assert!(now.is_none()),
                    Change::Create(_) | Change::Update(_) => {
                        prop_assert_eq!(now.unwrap().meta().revision, Revision(index));
                    }
                }
            }
            let stacks: std::collections::BTreeSet<_> = next.stacks.values().map(|stack| &stack.name).collect();
            prop_assert_eq!(stacks.len(), next.stacks.len());
            (one, two) = (next, b.unwrap());
        }
    }
}

#[test]
fn a_set_from_another_state_is_refused() {
    let cluster = base();
    let on = |base: u64, id: u64| ChangeSet { base: Some(Revision(base)), ..sample::one_task(id) };
    let next = apply(&cluster, 7, &on(1, 20)).unwrap();
    // A second decision from the same state: new objects have new ids, so nothing else tells them apart.
    assert_eq!(apply(&next, 8, &on(1, 21)), Err(Rejected::Stale { now: Revision(7) }));
    assert_eq!(apply(&next, 8, &on(8, 21)), Err(Rejected::Stale { now: Revision(7) }));
    assert_eq!(apply(&next, 9, &on(7, 21)).unwrap().revision, Revision(9));
}

#[test]
fn a_request_takes_effect_once() {
    let handled =
        |request: u8, answer: &str| Handled { request: RequestKey([request; 16]), answer: answer.to_owned() };
    let asked =
        |request, task| ChangeSet { handled: Some(handled(request, "done")), ..sample::one_task(task) };
    let cluster = apply(&base(), 7, &asked(1, 20)).unwrap();
    assert_eq!(cluster.handled(RequestKey([1; 16])), Some((Revision(7), &handled(1, "done"))));
    assert_eq!(apply(&cluster, 8, &asked(1, 21)), Err(Rejected::Repeated));
    let mut cluster = apply(&cluster, 9, &asked(2, 22)).unwrap();
    // The oldest are forgotten.
    for index in 0..600_u64 {
        let mut set = asked(0, 1000 + index);
        set.handled.as_mut().unwrap().request.0[..8].copy_from_slice(&index.to_be_bytes());
        cluster = apply(&cluster, 10 + index, &set).unwrap();
    }
    assert_eq!((cluster.handled.len(), cluster.handled(RequestKey([1; 16]))), (REQUESTS, None));
}

#[test]
fn the_clock_only_moves_forwards() {
    let cluster = base();
    let at = |millis: u64, id: u64| ChangeSet { at: UnixMillis(millis), ..sample::one_task(id) };
    let next = apply(&cluster, 7, &at(2_000_000_000_000, 20)).unwrap();
    assert_eq!(next.clock, UnixMillis(2_000_000_000_000));
    let next = apply(&next, 8, &at(1, 21)).unwrap();
    assert_eq!(next.clock, UnixMillis(2_000_000_000_000));
    // An empty set moves the clock and nothing else.
    let ticked = apply(&next, 9, &ChangeSet::new(UnixMillis(2_000_000_000_001))).unwrap();
    assert_eq!((ticked.clock, ticked.revision), (UnixMillis(2_000_000_000_001), Revision(8)));
}
