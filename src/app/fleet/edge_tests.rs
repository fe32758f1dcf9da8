use serde_json::json;

use super::*;
use crate::model::{ErrStatus, ObjectResp, Status};

fn edge() -> Edge {
    let settings = Settings {
        edged: EdgedConfig::default(),
        facts: Facts::default(),
        lease_every: Duration::from_secs(10),
        status_every: Duration::from_secs(300),
        report_every: Some(Duration::from_secs(15)),
    };
    Edge::new(NodeName::parse("hollow-1").unwrap(), Arc::new(settings))
}

fn at(secs: u64) -> Moment {
    use std::sync::OnceLock;
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    let begun = *BEGUN.get_or_init(Instant::now);
    Moment { at: begun + Duration::from_secs(secs), unix_ms: 1_800_000_000_000 + secs as i64 * 1_000 }
}

fn sent(effects: &[Effect]) -> Vec<&Envelope> {
    effects.iter().filter_map(|it| if let Effect::Send(sent) = it { Some(&**sent) } else { None }).collect()
}

fn said(effects: &[Effect]) -> Vec<String> {
    sent(effects).iter().map(|it| format!("{} {}", it.route.operation, it.route.resource)).collect()
}

/// The one of these messages about a resource.
fn about(effects: &[Effect], resource: &str) -> Envelope {
    let mut found = sent(effects).into_iter().filter(|it| it.route.resource.to_string() == resource);
    let one = found.next().unwrap_or_else(|| panic!("nothing about {resource}: {:?}", said(effects)));
    one.clone()
}

fn answer(question: &Envelope, object: serde_json::Value) -> Envelope {
    let body = Body::ObjectResp(Box::new(ObjectResp { object: Some(object), err: None }));
    from_cloud(question.response(body, 1))
}

fn refusal(question: &Envelope, reason: Reason) -> Envelope {
    let err = ErrStatus::from(Status::failure(reason, "no"));
    let body = Body::ObjectResp(Box::new(ObjectResp { object: None, err: Some(err) }));
    from_cloud(question.response(body, 1))
}

fn from_cloud(mut envelope: Envelope) -> Envelope {
    "resource".clone_into(&mut envelope.route.group);
    "edgecontroller".clone_into(&mut envelope.route.source);
    envelope
}

fn node_object() -> serde_json::Value {
    json!({"metadata": {"name": "hollow-1", "uid": "n1", "resourceVersion": "5"}})
}

#[test]
fn a_new_node_registers_says_how_it_is_and_renews_its_lease() {
    let mut edge = edge();
    let effects = edge.opened(true, false, 0.5, at(0));
    let want = ["query kube-node-lease/lease/hollow-1", "insert null/node/hollow-1", "resync null"];
    assert_eq!(said(&effects), want);
    let lease = about(&effects, "kube-node-lease/lease/hollow-1");
    let effects_of_lease = edge.received(refusal(&lease, Reason::NotFound), at(0));
    assert_eq!(said(&effects_of_lease), ["insert kube-node-lease/lease/hollow-1"]);
    let insert = about(&effects_of_lease, "kube-node-lease/lease/hollow-1");
    let held = json!({"metadata": {"name": "hollow-1", "resourceVersion": "7"}, "spec": {}});
    let done = edge.received(answer(&insert, held), at(1));
    assert_eq!(done, [Effect::Time(Timed::Lease, Duration::from_secs(1))]);

    let created = edge.received(answer(&about(&effects, "null/node/hollow-1"), node_object()), at(1));
    assert_eq!(said(&created), ["patch null/nodepatch/hollow-1"]);
    let patch = about(&created, "null/nodepatch/hollow-1");
    let Body::Text(text) = &patch.body else { panic!("{patch:?}") };
    assert!(text.contains("\"uid\":\"n1\"") && text.contains("EdgeReady"), "{text}");
    let done = edge.received(answer(&patch, node_object()), at(2));
    assert!(done.contains(&Effect::Registered), "{done:?}");

    // Half of an interval later the lease is due, as it is known now an update.
    assert_eq!(edge.next_wakeup(), Some(at(5).at));
    let renewal = edge.tick(at(5));
    assert_eq!(said(&renewal), ["update kube-node-lease/lease/hollow-1"]);
    let renewal = about(&renewal, "kube-node-lease/lease/hollow-1");
    assert_eq!(renewal.body.meta("resourceVersion"), Some("7"));
}

#[test]
fn a_node_that_was_there_is_brought_up_to_date() {
    let mut edge = edge();
    let opened = edge.opened(false, false, 0.0, at(0));
    let asked = edge.received(refusal(&about(&opened, "null/node/hollow-1"), Reason::AlreadyExists), at(0));
    assert_eq!(said(&asked), ["query null/node/hollow-1"]);
    let update = edge.received(answer(&about(&asked, "null/node/hollow-1"), node_object()), at(0));
    assert_eq!(said(&update), ["update null/node/hollow-1"], "labels are missing");
    let ok = from_cloud(about(&update, "null/node/hollow-1").response(Body::Text("OK".into()), 1));
    let first = edge.received(ok, at(0));
    let second = edge.received(answer(&about(&first, "null/nodepatch/hollow-1"), node_object()), at(0));
    assert_eq!(said(&second), ["patch null/nodepatch/hollow-1"], "as edgecore does");
    let done = edge.received(answer(&about(&second, "null/nodepatch/hollow-1"), node_object()), at(1));
    assert!(done.contains(&Effect::Registered));
    edge.closed();
    assert_eq!((edge.next_wakeup(), edge.tick(at(9))), (None, vec![]));
    let again = edge.opened(true, false, 0.0, at(10));
    let Body::Object(listing) = about(&again, "null").body else { panic!("{again:?}") };
    assert_eq!(
        listing["objects"][0],
        json!(["null/node/hollow-1", "n1", "5"]),
        "what it holds outlives a session"
    );
}

#[test]
fn what_is_not_answered_or_refused_is_tried_again() {
    let mut edge = edge();
    let opened = edge.opened(false, false, 0.9, at(0));
    let late = edge.tick(at(10));
    let lost = late.iter().filter(|it| **it == Effect::Count(Counted::Unanswered)).count();
    assert_eq!(lost, 2, "{late:?}");
    let again = edge.tick(at(12));
    assert!(said(&again).contains(&"insert null/node/hollow-1".to_owned()), "{:?}", said(&again));
    let stale = edge.received(answer(&about(&opened, "null/node/hollow-1"), node_object()), at(12));
    assert_eq!(stale, vec![], "an answer that nobody waits for");
    let refused = edge.received(refusal(&about(&again, "null/node/hollow-1"), Reason::Forbidden), at(12));
    assert_eq!(refused, [Effect::Count(Counted::Refused)]);
    assert!(said(&edge.tick(at(14))).contains(&"insert null/node/hollow-1".to_owned()));
}

#[test]
fn its_pods_run_at_once_and_end_when_they_are_told_to() {
    let mut edge = edge();
    edge.opened(false, false, 0.5, at(0));
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "image": "i"}]},
        "metadata": {"namespace": "default", "name": "p", "uid": "u", "resourceVersion": "9"}});
    let push = |pod: &serde_json::Value, operation: &str| {
        let body = Body::Object(pod.clone());
        let resource = crate::model::Resource::parse("default/pod/p");
        Envelope::new("edgecontroller", "resource", operation, resource, body, at(0).unix_ms)
    };
    let started = edge.received(push(&pod, "insert"), at(1));
    assert_eq!(said(&started), ["response default/pod/p", "patch default/podpatch/p"]);
    assert!(started.contains(&Effect::Time(Timed::Delivered, Duration::from_secs(1))));
    let patch = about(&started, "default/podpatch/p");
    let status = edge.received(answer(&patch, pod.clone()), at(2));
    assert!(status.contains(&Effect::Count(Counted::PodsRunning)), "{status:?}");
    let twice = edge.received(push(&pod, "insert"), at(3));
    assert_eq!(said(&twice), ["response default/pod/p"], "delivered again: only acknowledged");
    pod["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:05:00Z");
    pod["metadata"]["resourceVersion"] = json!("10");
    let ending = edge.received(push(&pod, "update"), at(4));
    assert_eq!(said(&ending), ["response default/pod/p", "delete default/pod/p"]);
    let ok = from_cloud(about(&ending[2..], "default/pod/p").response(Body::Text("OK".into()), 1));
    assert_eq!(edge.received(ok, at(5)), [Effect::Count(Counted::PodsGone)]);
    let late = edge.received(push(&pod, "delete"), at(6));
    assert_eq!(said(&late), ["response default/pod/p"], "it is gone already");
}

#[test]
fn reports_follow_their_interval() {
    let mut edge = edge();
    assert!(!said(&edge.opened(false, false, 0.0, at(0))).contains(&"report node/report".to_owned()));
    assert!(!said(&edge.tick(at(1))).contains(&"report node/report".to_owned()), "the cloud takes none");
    edge.closed();
    edge.opened(false, true, 0.2, at(20));
    assert!(said(&edge.tick(at(23))).contains(&"report node/report".to_owned()));
    assert!(!said(&edge.tick(at(30))).contains(&"report node/report".to_owned()));
    assert!(said(&edge.tick(at(38))).contains(&"report node/report".to_owned()));
}
