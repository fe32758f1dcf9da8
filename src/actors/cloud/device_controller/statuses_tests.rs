//! DeviceStatuses against an API that answers late, refuses, forgets and is changed by others.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::actors::cloud::device_controller::status::{Mark, Sample, Twin};
use crate::kube::patch::merge;

fn id() -> DeviceId {
    DeviceId::new("default", "d")
}

fn owner(uid: &str) -> Owner {
    let properties = ["a", "b"].into_iter().map(str::to_owned).collect();
    Owner::Is { device: id(), uid: uid.to_owned(), properties: Arc::new(properties) }
}

fn said(property: &str, value: &str, at_ms: i64) -> Status {
    let sample = Sample { value: value.to_owned(), at_ms, kind: "int".to_owned(), version: 0 };
    let twin = Twin { reported: Some(sample), observed_desired: None };
    Status { twins: [(property.to_owned(), twin)].into(), ..Status::default() }
}

fn waiter(msg_id: &str) -> Waiter {
    Waiter { node: NodeName::parse("n1").unwrap(), msg_id: msg_id.to_owned() }
}

fn call(effects: &[Effect]) -> Option<&Call> {
    let call = |effect: &&Effect| matches!(effect, Effect::Call(..));
    match effects.iter().find(call) {
        Some(Effect::Call(_, call)) => Some(call),
        _ => None,
    }
}

fn confirmed(effects: &[Effect]) -> Vec<String> {
    let ids = |effect: &Effect| match effect {
        Effect::Confirm(waiting) => waiting.iter().map(|it| it.msg_id.clone()).collect(),
        _ => Vec::new(),
    };
    effects.iter().flat_map(ids).collect()
}

/// One DeviceStatus in an API.
#[derive(Default)]
struct Api {
    object: Option<Value>,
    version: u64,
    calls: usize,
}

impl Api {
    fn write(&mut self, mut object: Value) -> Outcome {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.object = Some(object.clone());
        Outcome::Is(object)
    }

    fn serve(&mut self, call: &Call) -> Outcome {
        self.calls += 1;
        match (call, self.object.clone()) {
            (Call::Create(_), Some(_)) => Outcome::Conflict,
            (Call::Create(object), None) => {
                let mut object = object.clone();
                object["metadata"]["uid"] = format!("s{}", self.version).into();
                self.write(object)
            }
            (_, None) => Outcome::NotFound,
            (Call::Get, Some(object)) => Outcome::Is(object),
            (Call::Patch(patch), Some(mut object)) => {
                if patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                    return Outcome::Conflict;
                }
                merge(&mut object, patch);
                self.write(object)
            }
            (Call::Delete(uid), Some(object)) => {
                if object["metadata"]["uid"] != json!(uid) {
                    return Outcome::Conflict;
                }
                self.object = None;
                Outcome::Is(object)
            }
        }
    }

    /// Serves every call until there is none; who was confirmed.
    fn settle(&mut self, statuses: &mut Statuses, mut effects: Vec<Effect>) -> Vec<String> {
        let mut done = Vec::new();
        for _ in 0..1_000 {
            done.extend(confirmed(&effects));
            let mut next = Vec::new();
            for effect in &effects {
                match effect {
                    Effect::Call(id, call) => next.extend(statuses.done(id, self.serve(call), 0.0)),
                    Effect::Rest(id, _) => next.extend(statuses.rested(id)),
                    _ => {}
                }
            }
            if next.is_empty() {
                return done;
            }
            effects = next;
        }
        panic!("it never ends");
    }

    fn value(&self, property: &str) -> Option<String> {
        let status = Status::read(self.object.as_ref()?);
        Some(status.twins.get(property)?.reported.as_ref()?.value.clone())
    }
}

/// Everything is listed, and this device has its DeviceStatus.
fn ready(api: &mut Api) -> Statuses {
    let mut statuses = Statuses::default();
    statuses.apply(Event::Listing);
    statuses.apply(Event::Listed);
    assert!(statuses.own(owner("u1")).is_empty(), "nothing before everything is listed");
    let effects = statuses.activate();
    api.settle(&mut statuses, effects);
    statuses
}

#[test]
fn made_with_the_device_and_gone_with_it() {
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    let made = api.object.clone().unwrap();
    let owner_ref = &made["metadata"]["ownerReferences"][0];
    assert_eq!((&owner_ref["uid"], &owner_ref["controller"]), (&json!("u1"), &json!(true)));
    assert_eq!((&made["metadata"]["name"], &made["kind"]), (&json!("d"), &json!("DeviceStatus")));

    let effects = statuses.own(owner("u2"));
    assert!(matches!(call(&effects), Some(Call::Delete(_))), "re-created: {effects:?}");
    api.settle(&mut statuses, effects);
    assert_eq!(api.object.clone().unwrap()["metadata"]["ownerReferences"][0]["uid"], "u2");

    let effects = statuses.own(Owner::Gone(id()));
    api.settle(&mut statuses, effects);
    assert_eq!(api.object, None);
    assert!(statuses.entries.is_empty(), "nothing is remembered of it");
}

#[test]
fn left_over_ones_go_and_those_made_by_hand_stay() {
    for (owners, goes) in [(json!([{"kind": "Device", "uid": "old"}]), true), (json!([]), false)] {
        let object = json!({"metadata": {"name": "d", "namespace": "default", "uid": "s", "resourceVersion": "1",
            "ownerReferences": owners}});
        let mut statuses = Statuses::default();
        statuses.apply(Event::Listing);
        statuses.apply(Event::Applied(object));
        statuses.apply(Event::Listed);
        assert_eq!(call(&statuses.activate()).is_some(), goes);
    }
}

#[test]
fn the_first_value_is_there_and_then_confirmed() {
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    let (foreign, effects) = statuses.report(&id(), said("a", "25", 1), waiter("m1"), Instant::now());
    assert_eq!((foreign, confirmed(&effects).len()), (0, 0), "not before the API has it");
    assert_eq!(api.settle(&mut statuses, effects), ["m1"]);
    assert_eq!(api.value("a").as_deref(), Some("25"));

    let calls = api.calls;
    let (_, effects) = statuses.report(&id(), said("a", "25", 1), waiter("m2"), Instant::now());
    assert_eq!(confirmed(&effects), ["m2"], "sent again: nothing to write");
    let (_, effects) = statuses.report(&id(), said("a", "24", 0), waiter("m3"), Instant::now());
    assert_eq!(confirmed(&effects), ["m3"], "older: nothing to write");
    let (foreign, effects) = statuses.report(&id(), said("nosuch", "24", 9), waiter("m4"), Instant::now());
    assert_eq!((foreign, confirmed(&effects)), (1, vec!["m4".to_owned()]), "not a property");
    assert_eq!(api.calls, calls);
}

#[test]
fn a_flood_costs_one_call_more() {
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    let calls = api.calls;
    let (_, first) = statuses.report(&id(), said("a", "0", 1), waiter("m0"), Instant::now());
    for n in 1..=1_000 {
        let (_, effects) = statuses.report(
            &id(),
            said("a", &n.to_string(), 1 + n),
            waiter(&format!("m{n}")),
            Instant::now(),
        );
        assert!(effects.is_empty(), "one call is under way");
    }
    let done = api.settle(&mut statuses, first);
    assert_eq!((api.calls - calls, api.value("a").as_deref()), (2, Some("1000")));
    assert_eq!(done.len(), 1 + WAITERS, "the oldest are reported again");
    assert_eq!(done.last().map(String::as_str), Some("m1000"));
}

#[test]
fn others_write_too() {
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    // Another cloudcore wrote, and we have not heard of it.
    let mut other = api.object.clone().unwrap();
    other["status"] = said("b", "7", 50).patch(&Status::default()).unwrap();
    api.write(other);
    let (_, effects) = statuses.report(&id(), said("a", "1", 60), waiter("m1"), Instant::now());
    assert_eq!(api.settle(&mut statuses, effects), ["m1"]);
    assert_eq!((api.value("a").as_deref(), api.value("b").as_deref()), (Some("1"), Some("7")));
    // Somebody deletes it: it comes back with its values.
    let old = api.object.take().unwrap();
    let effects = statuses.apply(Event::Removed(old));
    api.settle(&mut statuses, effects);
    assert_eq!((api.value("a").as_deref(), api.value("b").as_deref()), (Some("1"), Some("7")));
    // Its own events come late and say nothing new.
    let seen = api.object.clone().unwrap();
    assert!(statuses.apply(Event::Applied(seen)).is_empty());
}

#[test]
fn failures_are_tried_again_with_pauses() {
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    let (_, mut effects) = statuses.report(&id(), said("a", "1", 1), waiter("m1"), Instant::now());
    let mut pauses = Vec::new();
    for _ in 0..12 {
        assert!(call(&effects).is_some());
        effects = statuses.done(&id(), Outcome::Failed, 1.0);
        let Some(Effect::Rest(_, pause)) = effects.first() else { panic!("{effects:?}") };
        pauses.push(*pause);
        let (_, more) = statuses.report(&id(), said("a", "2", 2), waiter("m2"), Instant::now());
        assert!(more.is_empty(), "no call in the pause");
        effects = statuses.rested(&id());
    }
    assert!(pauses.is_sorted() && pauses[0] < Duration::from_secs(1), "{pauses:?}");
    assert_eq!(pauses.last(), Some(&LAST_PAUSE.mul_f64(1.5)));
    let done = api.settle(&mut statuses, effects);
    assert_eq!((done[0].as_str(), api.value("a").as_deref()), ("m1", Some("2")));
}

#[test]
fn what_the_api_never_takes_is_refused() {
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    let (_, effects) = statuses.report(&id(), said("a", "1", 1), waiter("m1"), Instant::now());
    assert!(call(&effects).is_some());
    let effects = statuses.done(&id(), Outcome::Refused("no".to_owned()), 0.0);
    assert_eq!(effects[0], Effect::Refuse(vec![waiter("m1")], "no".to_owned()));
    let effects = statuses.rested(&id());
    assert_eq!(call(&effects), None, "it is not tried again");
}

#[test]
fn reports_of_the_device_before_are_not_the_new_ones() {
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    let (_, flying) = statuses.report(&id(), said("a", "1", 1), waiter("m1"), Instant::now());
    statuses.report(&id(), said("a", "2", 2), waiter("m2"), Instant::now());
    assert!(statuses.own(owner("u2")).is_empty(), "one call is under way");
    api.settle(&mut statuses, flying);
    assert_eq!((api.value("a"), api.object.is_some()), (None, true));
    let (_, flying) = statuses.report(&id(), said("a", "3", 3), waiter("m3"), Instant::now());
    statuses.report(&id(), said("a", "4", 4), waiter("m4"), Instant::now());
    assert_eq!(confirmed(&statuses.own(Owner::Gone(id()))), ["m4"], "nobody waits for a device that is gone");
    assert_eq!(api.settle(&mut statuses, flying), ["m3"]);
    assert_eq!(api.object, None);
}

#[test]
fn calls_are_bounded_and_every_device_has_its_turn() {
    let mut statuses = Statuses::default();
    statuses.apply(Event::Listed);
    let device = |n: usize| DeviceId::new("default", format!("d{n}"));
    for n in 0..3 * CALLS {
        let properties = Arc::new(BTreeSet::new());
        statuses.own(Owner::Is { device: device(n), uid: "u".to_owned(), properties });
    }
    let mut under_way: Vec<DeviceId> = Vec::new();
    let mut effects = statuses.activate();
    let mut seen = HashSet::new();
    loop {
        for effect in effects.drain(..) {
            if let Effect::Call(id, Call::Create(_)) = effect {
                seen.insert(id.clone());
                under_way.push(id);
            }
        }
        assert!(under_way.len() <= CALLS);
        let Some(id) = under_way.pop() else { break };
        let object = json!({"metadata": {"name": id.name, "uid": "s", "resourceVersion": "1",
            "ownerReferences": [{"kind": "Device", "uid": "u"}]}});
        effects = statuses.done(&id, Outcome::Is(object), 0.0);
    }
    assert_eq!((seen.len(), statuses.calls), (3 * CALLS, 0));
}

#[derive(Debug, Clone)]
enum Step {
    /// The edge reports; lost ones are sent again at the end.
    Report {
        property: bool,
        value: u8,
        lost: bool,
    },
    State {
        online: bool,
    },
    /// The oldest call is answered: normally, failed before or after it took effect.
    Answer {
        fails: bool,
        after: bool,
    },
    Foreign {
        value: u8,
    },
    Deleted,
    Rest,
    Heard,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<bool>(), 0u8..9, prop::bool::weighted(0.3))
            .prop_map(|(property, value, lost)| Step::Report { property, value, lost }),
        2 => any::<bool>().prop_map(|online| Step::State { online }),
        6 => (prop::bool::weighted(0.3), any::<bool>())
            .prop_map(|(fails, after)| Step::Answer { fails, after }),
        1 => (0u8..9).prop_map(|value| Step::Foreign { value }),
        1 => Just(Step::Deleted),
        3 => Just(Step::Rest),
        2 => Just(Step::Heard),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails, is lost, sent twice or changed by others: when the edge has sent again what
    /// was not confirmed, the API has the newest of each, and nothing was confirmed before.
    #[test]
    fn the_api_ends_with_the_newest(steps in steps()) {
        let mut api = Api::default();
        let mut statuses = ready(&mut api);
        let mut flying: VecDeque<(DeviceId, Call)> = VecDeque::new();
        let mut resting = false;
        let (mut now, mut next) = (100, 0);
        let mut want: BTreeMap<String, String> = BTreeMap::new();
        let mut unconfirmed: BTreeMap<String, Status> = BTreeMap::new();
        let mut want_state = None;
        for step in steps {
            let effects = match step {
                Step::Report { property, value, lost } => {
                    let name = if property { "a" } else { "b" };
                    (now, next) = (now + 1, next + 1);
                    want.insert(name.to_owned(), value.to_string());
                    let status = said(name, &value.to_string(), now);
                    unconfirmed.insert(format!("m{next}"), status.clone());
                    if lost { continue }
                    statuses.report(&id(), status, waiter(&format!("m{next}")), Instant::now()).1
                }
                Step::State { online } => {
                    (now, next) = (now + 1, next + 1);
                    let text = if online { "online" } else { "offline" };
                    want_state = Some(text);
                    let mark = Some(Mark { at_ms: now, text: text.to_owned() });
                    let status = Status { state: mark, ..Status::default() };
                    unconfirmed.insert(format!("m{next}"), status.clone());
                    statuses.report(&id(), status, waiter(&format!("m{next}")), Instant::now()).1
                }
                Step::Answer { fails, after } => {
                    let Some((id, call)) = flying.pop_front() else { continue };
                    let outcome = if fails && !after { Outcome::Failed } else { api.serve(&call) };
                    statuses.done(&id, if fails { Outcome::Failed } else { outcome }, 0.0)
                }
                Step::Foreign { value } => {
                    let Some(mut object) = api.object.clone() else { continue };
                    let mut status = Status::read(&object);
                    status.join(&said("a", &value.to_string(), 50));
                    object["status"]["twins"] = status.patch(&Status::default()).unwrap()["twins"].clone();
                    api.write(object);
                    continue;
                }
                Step::Deleted => {
                    let Some(object) = api.object.take() else { continue };
                    statuses.apply(Event::Removed(object))
                }
                Step::Rest if resting => {
                    resting = false;
                    statuses.rested(&id())
                }
                Step::Heard => match api.object.clone() {
                    Some(object) => statuses.apply(Event::Applied(object)),
                    None => continue,
                },
                Step::Rest => continue,
            };
            for effect in effects {
                match effect {
                    Effect::Call(id, call) => flying.push_back((id, call)),
                    Effect::Confirm(waiting) => for waiter in waiting {
                        let status = unconfirmed.remove(&waiter.msg_id);
                        prop_assert!(status.is_some(), "confirmed twice");
                    },
                    Effect::Rest(..) => resting = true,
                    _ => {}
                }
            }
            prop_assert!(flying.len() <= 1);
        }
        // The edge sends again, in any order of its own.
        let mut effects: Vec<Effect> = flying.into_iter().map(|(id, call)| Effect::Call(id, call)).collect();
        effects.extend(resting.then(|| Effect::Rest(id(), Duration::ZERO)));
        for (msg_id, status) in unconfirmed.iter().rev() {
            let (_, more) = statuses.report(&id(), status.clone(), waiter(msg_id), Instant::now());
            effects.extend(more);
        }
        api.settle(&mut statuses, effects);
        for (property, value) in want {
            prop_assert_eq!(api.value(&property), Some(value), "{}", property);
        }
        let state = api.object.as_ref().and_then(|it| it["status"]["state"].as_str());
        prop_assert_eq!(state, want_state);
    }
}

#[test]
fn a_report_from_the_future_does_not_stay_for_ever() {
    let (now_ms, limit_ms) = (1_000, 61_000);
    let mut api = Api::default();
    let mut statuses = ready(&mut api);
    let mut report = |statuses: &mut Statuses, value: &str, at_ms: i64, is_checked: bool| {
        let mut status = said("a", value, at_ms);
        if is_checked {
            status.not_after(limit_ms, now_ms);
            statuses.doubt_after(&id(), limit_ms);
        }
        let (_, effects) = statuses.report(&id(), status, waiter(value), Instant::now());
        api.settle(statuses, effects);
        api.value("a")
    };
    assert_eq!(report(&mut statuses, "1", i64::MAX, true).as_deref(), Some("1"));
    assert_eq!(
        report(&mut statuses, "2", now_ms + 1, true).as_deref(),
        Some("2"),
        "the clock is right again"
    );
    assert_eq!(report(&mut statuses, "3", now_ms, true).as_deref(), Some("2"), "older");
    // Something else put a value of the year 2500 there.
    assert_eq!(report(&mut statuses, "9", 16_725_225_600_000, false).as_deref(), Some("9"));
    assert_eq!(report(&mut statuses, "4", now_ms + 2, true).as_deref(), Some("4"));
}
