use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::lane::{Call, Key, Lane, Outcome, Step, Want};
use crate::model::DeviceId;
use crate::wire::dmi::{Device, DeviceModel};

fn dev(n: u8) -> Key {
    Key::Device(DeviceId::new("d", n.to_string()))
}

fn model(n: u8) -> Key {
    Key::Model(DeviceId::new("m", n.to_string()))
}

/// What should be known, by key: a version, 0 for "cannot be told".
type Wanted = BTreeMap<Key, u64>;

fn want(wanted: &Wanted, key: &Key) -> Want {
    match (wanted.get(key), key) {
        (None, _) => Want::Nothing,
        (Some(0), _) => Want::Unsure,
        (Some(version), Key::Device(id)) => {
            Want::Device(Arc::new(Device { name: id.name.clone(), ..Device::default() }), *version)
        }
        (Some(version), Key::Model(id)) => {
            Want::Model(Arc::new(DeviceModel { name: id.name.clone(), ..DeviceModel::default() }), *version)
        }
    }
}

fn show(call: &Call) -> String {
    match call {
        Call::CreateModel(model) => format!("create m{}", model.name),
        Call::UpdateModel(model) => format!("update m{}", model.name),
        Call::RemoveModel(id) => format!("remove m{}", id.name),
        Call::RegisterDevice(device) => format!("register {}", device.name),
        Call::UpdateDevice(device) => format!("update {}", device.name),
        Call::RemoveDevice(id) => format!("remove {}", id.name),
    }
}

/// Makes calls, all well, until there is none.
fn drain(lane: &mut Lane, wanted: &Wanted, now: Instant) -> Vec<String> {
    let mut calls = Vec::new();
    while let Step::Call { key, call, hash } = lane.next(|key| want(wanted, key), now) {
        calls.push(show(&call));
        lane.done(key, hash, Outcome::Ok, now, 0.0);
    }
    calls
}

#[test]
fn models_come_first_and_go_last() {
    let now = Instant::now();
    let mut lane = Lane::default();
    let mut wanted = Wanted::from([(dev(1), 1), (model(1), 1), (dev(2), 1)]);
    for key in [dev(1), model(1), dev(2)] {
        lane.mark(key);
    }
    assert_eq!(drain(&mut lane, &wanted, now), ["create m1", "register 1", "register 2"]);
    assert_eq!(lane.next(|key| want(&wanted, key), now), Step::Idle);

    wanted.clear();
    for key in [model(1), dev(1), dev(2)] {
        lane.mark(key);
    }
    assert_eq!(drain(&mut lane, &wanted, now), ["remove 1", "remove 2", "remove m1"]);
    assert_eq!(lane.len(), 0);
}

#[test]
fn the_newest_state_wins_and_the_same_is_not_told_twice() {
    let now = Instant::now();
    let mut lane = Lane::default();
    let mut wanted = Wanted::from([(dev(1), 1)]);
    lane.mark(dev(1));
    assert_eq!(drain(&mut lane, &wanted, now), ["register 1"]);
    for version in 2..50 {
        wanted.insert(dev(1), version);
        lane.mark(dev(1));
    }
    assert_eq!(lane.len(), 1, "a slow mapper costs one place for each device");
    assert_eq!(drain(&mut lane, &wanted, now), ["update 1"]);
    lane.mark(dev(1));
    assert!(drain(&mut lane, &wanted, now).is_empty(), "nothing changed");
    wanted.insert(dev(1), 0);
    lane.mark(dev(1));
    assert!(drain(&mut lane, &wanted, now).is_empty(), "what cannot be told stays as it was");
    lane.forget();
    wanted.insert(dev(1), 49);
    lane.mark(dev(1));
    assert_eq!(drain(&mut lane, &wanted, now), ["register 1"], "a mapper that forgot is told anew");
}

#[test]
fn what_came_with_the_registration_is_not_called_again() {
    let now = Instant::now();
    let mut lane = Lane::default();
    let wanted = Wanted::from([(dev(1), 1), (dev(2), 2)]);
    lane.was_told([(dev(1), 1), (dev(2), 1)]);
    lane.mark(dev(1));
    lane.mark(dev(2));
    assert_eq!(drain(&mut lane, &wanted, now), ["update 2"]);
}

#[test]
fn failures_come_back_later_and_hold_nobody_up() {
    let start = Instant::now();
    let mut lane = Lane::default();
    let mut wanted = Wanted::from([(dev(1), 1), (dev(2), 1)]);
    lane.mark(dev(1));
    lane.mark(dev(2));
    let Step::Call { key, hash, .. } = lane.next(|key| want(&wanted, key), start) else { panic!("a call") };
    lane.done(key, hash, Outcome::Failed, start, 0.0);
    assert_eq!(drain(&mut lane, &wanted, start), ["register 2"]);
    let mut pauses = Vec::new();
    let mut now = start;
    for _ in 0..9 {
        let Step::Wait(until) = lane.next(|key| want(&wanted, key), now) else { panic!("waits") };
        pauses.push((until - now).as_millis());
        now = until;
        let Step::Call { key, hash, .. } = lane.next(|key| want(&wanted, key), now) else { panic!("a call") };
        lane.done(key, hash, Outcome::Failed, now, 0.0);
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
    wanted.insert(dev(1), 2);
    lane.mark(dev(1));
    assert_eq!(drain(&mut lane, &wanted, now), ["register 1"], "a change is tried at once");
}

#[test]
fn an_update_of_what_the_mapper_does_not_know_becomes_a_registration() {
    let now = Instant::now();
    let mut lane = Lane::default();
    let mut wanted = Wanted::from([(dev(1), 2)]);
    lane.was_told([(dev(1), 1), (dev(2), 1)]);
    lane.mark(dev(1));
    let Step::Call { key, call, hash } = lane.next(|key| want(&wanted, key), now) else { panic!("a call") };
    assert_eq!(show(&call), "update 1");
    lane.done(key, hash, Outcome::Unknown, now, 0.0);
    assert_eq!(drain(&mut lane, &wanted, now), ["register 1"]);
    wanted.clear();
    lane.mark(dev(2));
    let Step::Call { key, call, hash } = lane.next(|key| want(&wanted, key), now) else { panic!("a call") };
    assert_eq!(show(&call), "remove 2");
    lane.done(key, hash, Outcome::Unknown, now, 0.0);
    assert_eq!(lane.next(|key| want(&wanted, key), now), Step::Idle, "what it does not know is removed");
}

#[derive(Debug, Clone)]
enum Event {
    Change(Key, Option<u64>),
    Step(Outcome),
    Forget,
    Later(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    let key = prop_oneof![(0_u8..4).prop_map(dev), (0_u8..3).prop_map(model)];
    prop_oneof![
        4 => (key, proptest::option::of(1_u64..4)).prop_map(|(key, version)| Event::Change(key, version)),
        6 => prop_oneof![3 => Just(Outcome::Ok), 1 => Just(Outcome::Failed), 1 => Just(Outcome::Unknown)]
            .prop_map(Event::Step),
        1 => Just(Event::Forget),
        2 => (0_u64..90_000).prop_map(Event::Later),
    ]
}

proptest! {
    /// Whatever happens, in the end the mapper knows exactly what it should know.
    #[test]
    fn the_mapper_ends_with_what_is_wanted(events in prop::collection::vec(any_event(), 0..80)) {
        let mut now = Instant::now();
        let (mut lane, mut wanted) = (Lane::default(), Wanted::new());
        // The mapper's own knowledge, as calls that went well left it.
        let mut known = Wanted::new();
        let apply = |known: &mut Wanted, key: &Key, hash: Option<u64>| match hash {
            Some(version) => drop(known.insert(key.clone(), version)),
            None => drop(known.remove(key)),
        };
        for event in events {
            match event {
                Event::Change(key, version) => {
                    match version {
                        Some(version) => drop(wanted.insert(key.clone(), version)),
                        None => drop(wanted.remove(&key)),
                    }
                    lane.mark(key);
                }
                Event::Step(outcome) => {
                    if let Step::Call { key, hash, .. } = lane.next(|key| want(&wanted, key), now) {
                        match outcome {
                            Outcome::Ok => apply(&mut known, &key, hash),
                            Outcome::Unknown => drop(known.remove(&key)),
                            Outcome::Failed => {}
                        }
                        lane.done(key, hash, outcome, now, 0.5);
                    }
                }
                Event::Forget => {
                    known.clear();
                    lane.forget();
                    wanted.keys().cloned().for_each(|key| lane.mark(key));
                }
                Event::Later(ms) => now += Duration::from_millis(ms),
            }
        }
        for _ in 0..200 {
            match lane.next(|key| want(&wanted, key), now) {
                Step::Call { key, hash, .. } => {
                    apply(&mut known, &key, hash);
                    lane.done(key, hash, Outcome::Ok, now, 0.5);
                }
                Step::Wait(until) => now = until,
                Step::Idle => break,
            }
        }
        prop_assert_eq!(known, wanted);
        prop_assert_eq!(lane.len(), 0);
    }
}
