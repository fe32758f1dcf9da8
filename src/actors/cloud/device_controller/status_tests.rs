//! Joining reports, and the patch of each join, played against an API object.

use proptest::prelude::*;

use super::*;
use crate::kube::patch::merge;

fn sample(value: &str, at_ms: i64, version: i64) -> Sample {
    Sample { value: value.to_owned(), at_ms, kind: "int".to_owned(), version }
}

fn reports(value: &str, at_ms: i64) -> Status {
    let twin = Twin { reported: Some(sample(value, at_ms, 0)), observed_desired: None };
    Status { twins: [("temperature".to_owned(), twin)].into(), ..Status::default() }
}

/// The recorded DeviceStatus of KubeEdge 1.23 (`tests/golden/kubeedge-1.23-device-crs.yaml`).
#[test]
fn the_first_value_looks_as_kubeedges_second_does() {
    let twin = Twin {
        reported: Some(Sample { kind: "string".into(), ..sample("1451", 1_795_378_291_643, 1) }),
        observed_desired: None,
    };
    let said = Status { twins: [("temperature".to_owned(), twin)].into(), ..Status::default() };
    let patch = said.patch(&Status::default()).unwrap();
    assert_eq!(
        patch,
        json!({"twins": [{"propertyName": "temperature", "observedDesired": {"value": ""}, "reported":
            {"value": "1451", "metadata": {"timestamp": "1795378291643", "type": "string"}}}]})
    );
    let held = Status::read(&json!({"status": patch}));
    assert_eq!(said.patch(&held), None, "nothing is left to write");
}

#[test]
fn older_reports_change_nothing() {
    let mut held = reports("25", 1_000);
    held.join(&reports("24", 999));
    assert_eq!(held, reports("25", 1_000));
    held.join(&reports("26", 1_001));
    assert_eq!(held, reports("26", 1_001));
}

#[test]
fn total_for_whatever_the_api_holds() {
    for object in [
        json!(null),
        json!({"status": 7}),
        json!({"status": {"twins": {}, "state": 4}}),
        json!({"status": {"twins": [3, {}, {"propertyName": 8}, {"propertyName": "a", "reported": []}]}}),
    ] {
        let read = Status::read(&object);
        assert!(read.state.is_none() && read.twins.values().all(|twin| twin.reported.is_none()), "{object}");
    }
}

#[test]
fn what_the_api_does_not_keep_is_remembered_for_the_same_value_only() {
    let mut older = reports("25", 1_000);
    older.state = Some(Mark { at_ms: 5, text: "online".into() });
    for twin in older.twins.values_mut() {
        twin.reported.as_mut().unwrap().version = 7;
    }
    let mut same = Status::read(&json!({"status": older.patch(&Status::default()).unwrap()}));
    same.remember(&older);
    assert_eq!(same, older);
    let mut other = reports("changed by hand", 1_000);
    other.remember(&older);
    assert_eq!(other.twins["temperature"].reported.as_ref().unwrap().version, 0);
}

/// Reports of an edge: the clock of a property never stands still, as the edge promises.
fn history() -> impl Strategy<Value = Vec<Status>> {
    let step = (0usize..3, 0u8..4, any::<bool>(), 1i64..5);
    prop::collection::vec(step, 1..12).prop_map(|steps| {
        let mut now = 0;
        let mut all = Vec::new();
        for (property, value, observed, pause) in steps {
            now += pause;
            let name = ["a", "b", "c"][property].to_owned();
            let said = Some(sample(&value.to_string(), now, 1));
            let twin = match observed {
                true => Twin { reported: None, observed_desired: said },
                false => Twin { reported: said, observed_desired: None },
            };
            let mark = Some(Mark { at_ms: now, text: value.to_string() });
            let online = mark.clone().filter(|_| value % 2 == 0);
            all.push(Status { twins: [(name, twin)].into(), state: mark, online });
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any order and any number of deliveries end in the same, newest state, in memory and in the
    /// API, and the API is written only while something is new.
    #[test]
    fn every_delivery_ends_in_the_newest_state(
        (history, order) in history().prop_flat_map(|history| {
            let extra = prop::collection::vec(0..history.len(), 0..8);
            let all: Vec<usize> = (0..history.len()).collect();
            (Just(history), extra.prop_flat_map(move |extra| {
                Just([all.clone(), extra].concat()).prop_shuffle()
            }))
        }),
    ) {
        let mut want = Status::default();
        history.iter().for_each(|said| want.join(said));
        let (mut memory, mut object) = (Status::default(), json!({"spec": {}}));
        for index in order {
            let mut target = memory.clone();
            target.join(&history[index]);
            if let Some(status) = target.patch(&memory) {
                merge(&mut object, &json!({"status": status}));
            }
            let mut read = Status::read(&object);
            read.remember(&target);
            prop_assert_eq!(target.patch(&read), None);
            memory = read;
        }
        prop_assert_eq!(&memory.twins, &want.twins);
        prop_assert_eq!(memory.state.map(|mark| mark.text), want.state.map(|mark| mark.text));
        prop_assert_eq!(memory.online.map(|mark| mark.text), want.online.map(|mark| mark.text));
    }

    #[test]
    fn join_is_idempotent_and_commutes(history in history()) {
        let (mut forth, mut back) = (Status::default(), Status::default());
        history.iter().for_each(|said| forth.join(said));
        history.iter().rev().for_each(|said| back.join(said));
        prop_assert_eq!(&forth, &back);
        let once = forth.clone();
        forth.join(&back);
        prop_assert_eq!(forth, once);
    }
}
