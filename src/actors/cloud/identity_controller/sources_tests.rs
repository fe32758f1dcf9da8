use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(kind: Kind, name: &str, version: u64, spec: Value) -> Value {
    json!({"apiVersion": kind.api_version(), "kind": kind.name(),
        "metadata": {"namespace": "plant", "name": name, "uid": format!("u-{name}"),
            "resourceVersion": version.to_string()},
        "spec": spec})
}

fn config_map(namespace: &str, name: &str, version: u64, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": value},
        "metadata": {"namespace": namespace, "name": name, "resourceVersion": version.to_string()}})
}

fn registration(path: &str) -> Value {
    json!({"path": path, "selectors": {"serviceAccount": "a"}})
}

fn put(sources: &mut Sources, kind: Kind, spec: Value) -> Touched {
    sources.apply(kind, Event::Applied(object(kind, "it", 5, spec)))
}

#[test]
fn a_spec_becomes_an_entry() {
    let mut sources = Sources::default();
    let touched = put(&mut sources, Kind::WorkloadIdentity, registration("/ns/plant/press"));
    assert_eq!((touched.lists, touched.notice), (true, None));
    let again = put(&mut sources, Kind::WorkloadIdentity, registration("/ns/plant/press"));
    assert!(!again.lists, "nothing changed");
    let policy = json!({"mode": "warn", "allow": [{"registry": "docker.io"}]});
    assert!(put(&mut sources, Kind::ImagePolicy, policy).lists);
    let topics = json!({"subjects": ["spiffe://td/ns/plant/*"], "publish": ["a/#"]});
    assert!(put(&mut sources, Kind::TopicPolicy, topics).lists);
    let lists = sources.lists();
    let one = &lists.registrations[0];
    assert_eq!((&*one.namespace, &*one.name, &*one.path), ("plant", "it", "/ns/plant/press"));
    assert_eq!(one.selectors.service_account.as_deref(), Some("a"));
    assert_eq!((lists.image_policies[0].mode, lists.image_policies[0].allow.len()), (PolicyMode::Warn, 1));
    assert_eq!((&*lists.topic_policies[0].publish[0], lists.topic_policies[0].subscribe.len()), ("a/#", 0));
    let gone = Event::Removed(object(Kind::ImagePolicy, "it", 9, json!({})));
    assert!(sources.apply(Kind::ImagePolicy, gone).lists);
    assert_eq!(sources.counts(), [1, 0, 1]);
}

/// A cluster that only knows the schemas lets these through.
#[test]
fn a_mistake_never_allows_more() {
    let mut sources = Sources::default();
    put(&mut sources, Kind::WorkloadIdentity, registration("/ns/plant/press"));
    for wrong in [
        registration("/ns/other/press"),
        registration("/ns/plant/sa/admin"),
        json!({"path": "/ns/plant/x", "selectors": {}}),
        json!({"path": "/ns/plant/x", "selectors": {"uid": "root"}}),
        json!({"path": "/ns/plant/x", "selectors": {"uid": 1, "colour": "red"}}),
        json!({"path": 7, "selectors": {"uid": 1}}),
        Value::Null,
    ] {
        put(&mut sources, Kind::WorkloadIdentity, registration("/ns/plant/press"));
        let touched = put(&mut sources, Kind::WorkloadIdentity, wrong.clone());
        assert_eq!((touched.lists, sources.lists().registrations.len()), (true, 0), "{wrong}");
        let notice = touched.notice.expect("the user is told");
        assert!(notice.why.contains("spec") && notice.uid == "u-it", "{notice:?}");
    }
    let subject = json!({"subjects": ["spiffe://td/ns/other/x"]});
    let touched = put(&mut sources, Kind::TopicPolicy, subject);
    assert_eq!((sources.lists().topic_policies.len(), touched.notice.is_some()), (0, true));

    let good = json!({"registry": "docker.io"});
    for (spec, mode, rules, told) in [
        (json!({"allow": [good]}), PolicyMode::Enforce, 1, false),
        (json!({"mode": "warn", "allow": []}), PolicyMode::Warn, 0, false),
        (json!({"mode": "off", "allow": [good]}), PolicyMode::Enforce, 1, true),
        (json!({"allow": [good, {}]}), PolicyMode::Enforce, 1, true),
        (json!({"allow": [{"digest": "sha256:1"}, good]}), PolicyMode::Enforce, 1, true),
        (json!({"allow": [{"digest": 7}, {"cosignKey": "x"}]}), PolicyMode::Enforce, 0, true),
        (json!({"allow": [{"registry": "r", "tag": "x"}]}), PolicyMode::Enforce, 0, true),
        (json!({"allow": "all"}), PolicyMode::Enforce, 0, false),
        (Value::Null, PolicyMode::Enforce, 0, false),
    ] {
        let touched = put(&mut sources, Kind::ImagePolicy, spec.clone());
        let policy = &sources.lists().image_policies[0];
        assert_eq!(
            (policy.mode, policy.allow.len(), touched.notice.is_some()),
            (mode, rules, told),
            "{spec}"
        );
    }
}

#[test]
fn config_maps_of_one_namespace() {
    let mut sources = Sources::default();
    let told = sources.apply(Kind::ConfigMap, Event::Applied(config_map("kubeedge", "jwt-keys", 4, "x")));
    assert_eq!((told.lists, told.maps), (false, BTreeSet::from(["jwt-keys".to_owned()])));
    let other = sources.apply(Kind::ConfigMap, Event::Applied(config_map("plant", "jwt-keys", 5, "y")));
    assert_eq!(other, Touched::default());
    assert_eq!(sources.data("jwt-keys"), Data::from([("k".to_owned(), "x".to_owned())]));
    assert_eq!(sources.data("none"), Data::new());
    let gone = Event::Removed(config_map("kubeedge", "jwt-keys", 8, "x"));
    let told = sources.apply(Kind::ConfigMap, gone);
    assert_eq!(told.removed, [("jwt-keys".to_owned(), "8".to_owned())]);
    assert_eq!(sources.map("jwt-keys"), None);
}

#[test]
fn nothing_is_complete_before_all_is_listed() {
    let mut sources = Sources::default();
    for kind in Kind::ALL {
        assert!(!sources.is_complete());
        sources.apply(kind, Event::Listing);
        sources.apply(kind, Event::Listed);
    }
    assert!(sources.is_complete() && sources.has_maps());
}

proptest! {
    /// However a watch breaks and lists again, what is known afterwards is what was listed.
    #[test]
    fn a_new_list_replaces_the_old(before in prop::collection::btree_set(0u8..8, 0..8),
        listed in prop::collection::btree_set(0u8..8, 0..8)) {
        let mut sources = Sources::default();
        let entry = |n: u8| object(Kind::WorkloadIdentity, &format!("n{n}"), 5, registration("/ns/plant/x"));
        let map = |n: u8| config_map("kubeedge", &format!("n{n}"), 5, "v");
        for n in &before {
            sources.apply(Kind::WorkloadIdentity, Event::Applied(entry(*n)));
            sources.apply(Kind::ConfigMap, Event::Applied(map(*n)));
        }
        for kind in [Kind::WorkloadIdentity, Kind::ConfigMap] {
            sources.apply(kind, Event::Listing);
            for n in &listed {
                sources.apply(kind, Event::Applied(if kind == Kind::ConfigMap { map(*n) } else { entry(*n) }));
            }
            let told = sources.apply(kind, Event::Listed);
            let gone = before.difference(&listed).count();
            prop_assert_eq!(told.removed.len(), if kind == Kind::ConfigMap { gone } else { 0 });
        }
        let names: Vec<String> = sources.lists().registrations.into_iter().map(|it| it.name).collect();
        let want: Vec<String> = listed.iter().map(|n| format!("n{n}")).collect();
        prop_assert_eq!(&names, &want, "sorted and nothing else");
        for n in 0..8u8 {
            prop_assert_eq!(sources.map(&format!("n{n}")).is_some(), listed.contains(&n));
        }
    }
}
