//! Tables of the session's state machine.

use serde_json::json;

use super::*;
use crate::model::ObjectKey;

fn session(extensions: Extensions, now: Instant) -> Session {
    let settings = Settings::new(Duration::from_secs(30), Duration::from_secs(10));
    Session::new(NodeName::parse("edge-1").unwrap(), extensions, settings, "CA PEM".into(), now)
}

fn upstream(source: &str, operation: &str, resource: &str) -> Envelope {
    Envelope::new(source, "meta", operation, Resource::parse(resource), Body::Null, 0)
}

fn pod(name: &str) -> Envelope {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": name}});
    let resource = ObjectKey::namespaced("default", "pod", name).into();
    Envelope::new("edgecontroller", "resource", "insert", resource, Body::Object(object), 0)
        .with_resource_version("7")
}

fn kinds(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Write(_) => "write".to_owned(),
            Effect::Upstream(_) => "upstream".to_owned(),
            Effect::Twin(_) => "twin".to_owned(),
            Effect::Listing(_) => "listing".to_owned(),
            Effect::Delivered(it) => format!("delivered {} {}", it.kind, it.version.resource_version),
            Effect::AckSeconds(secs) => format!("acked after {secs}"),
            Effect::Renew(_) => "renew".to_owned(),
            Effect::Report(_) => "report".to_owned(),
            Effect::Unhandled { .. } => "unhandled".to_owned(),
            Effect::NotAnswered => "not answered".to_owned(),
            Effect::EdgeError { .. } => "edge error".to_owned(),
            Effect::TooLarge { .. } => "too large".to_owned(),
            Effect::End(reason) => reason.label().to_owned(),
        })
        .collect()
}

#[test]
fn routing() {
    let now = Instant::now();
    let both = Extensions { ack_window: true, resync: true, ..Extensions::default() };
    for (source, operation, resource, want) in [
        ("websocket", "keepalive", "node", vec![]),
        ("edged", "query", "default/configmap/c", vec!["upstream"]),
        ("edged", "frobnicate", "default/thing/c", vec!["upstream"]),
        ("metamanager", "query", "k8s/ca.crt", vec!["write"]),
        ("metamanager", "resync", "null", vec!["listing"]),
        ("websocket", "ping", "x", vec!["write"]),
        ("edged", "error", "default/pod/p", vec!["edge error"]),
        ("edgecontroller", "insert", "null/node/edge-1", vec!["unhandled"]),
        ("devicecontroller", "update", "default/pod/p", vec!["unhandled"]),
        ("twin", "get", "membership/detail", vec!["twin"]),
        ("twin", "update", "device/default/sensor-1/twin/edge_updated", vec!["twin"]),
        ("twin", "update", "device/default/sensor-1/state/update", vec!["twin"]),
        ("twin", "update", "default/pod/p", vec!["unhandled"]),
        ("bus", "update", "device/default/sensor-1/state/update", vec!["unhandled"]),
        ("bus", "upload", "default/alarms", vec!["unhandled"]),
        ("edged", "insert", "some/Mqtt/Topic", vec!["unhandled"]),
        ("edged", "response", "default/pod/p", vec![]),
        ("edgehub", "report", "node/report", vec!["unhandled"]),
    ] {
        let effects = session(both, now).receive(upstream(source, operation, resource), now, 0);
        assert_eq!(kinds(&effects), want, "{source} {operation} {resource}");
    }
    let old = session(Extensions::default(), now).receive(upstream("metamanager", "resync", "null"), now, 0);
    assert_eq!(kinds(&old), ["unhandled"], "the extension was not agreed on");
    let reports = Extensions { report: true, ..both };
    for (operation, want) in [("report", "report"), ("update", "unhandled")] {
        let effects = session(reports, now).receive(upstream("edgehub", operation, "node/report"), now, 0);
        assert_eq!(kinds(&effects), [want], "{operation}");
    }
}

#[test]
fn a_meta_server_is_refused_at_once() {
    let now = Instant::now();
    let mut asked = upstream("metaserver", "null", "null");
    asked.body = Body::Object(json!({"ID": "a", "Key": "/core/v1/pods/default/p", "Verb": "get"}));
    let effects = session(Extensions::default(), now).receive(asked, now, 0);
    assert_eq!(kinds(&effects), ["write"]);
    let nothing = session(Extensions::default(), now).receive(upstream("metaserver", "x", "null"), now, 0);
    assert_eq!(kinds(&nothing), ["unhandled"]);
}

#[test]
fn acknowledgements() {
    let start = Instant::now();
    let mut session = session(Extensions::default(), start);
    let message = pod("a");
    let ack = message.ack(0);
    assert_eq!(kinds(&session.send(Outgoing::new(message), start)), ["write"]);
    assert_eq!(kinds(&session.send(Outgoing::new(pod("b")), start)), [""; 0], "one at a time for a Go edge");
    assert_eq!(session.unacked(), 1);
    let later = start + Duration::from_secs(2);
    let effects = session.receive(ack, later, 0);
    assert_eq!(kinds(&effects), ["acked after 2", "delivered Pod 7", "write"]);
}

fn took(taken: u64) -> Progress {
    Progress { taken, ..Progress::default() }
}

#[test]
fn who_reads_slowly_lives() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let mut session = session(Extensions::default(), start);
    session.send(Outgoing::new(pod("a")), at(25));
    for n in 1..8 {
        let now = at(25 + n * 5);
        assert_eq!(
            session
                .turn(Progress { resumed: n, ..Progress::default() }, now)
                .iter()
                .filter(|e| is_end(e))
                .count(),
            0,
            "{n}"
        );
        assert!(session.next_deadline() > now);
    }
    // Nothing is taken any more, and nothing heard.
    assert_eq!(
        kinds(&session.turn(Progress { resumed: 7, ..Progress::default() }, at(70))),
        ["write_timeout"]
    );
}

fn is_end(effect: &Effect) -> bool {
    matches!(effect, Effect::End(_))
}

#[test]
fn deadlines() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let mut idle = session(Extensions::default(), start);
    assert_eq!(idle.next_deadline(), at(30));
    idle.receive(upstream("websocket", "keepalive", "node"), at(20), 0);
    assert_eq!(kinds(&idle.turn(took(0), at(49))), [""; 0]);
    assert_eq!(kinds(&idle.turn(took(0), at(50))), [""; 0], "it is looked at once more");
    assert_eq!(idle.next_deadline(), at(55));
    assert_eq!(kinds(&idle.turn(took(0), at(55))), ["keepalive_lost"]);
    assert_eq!(kinds(&idle.turn(took(0), at(56))), [""; 0], "ends once");

    let mut large = session(Extensions::default(), start);
    let parts = Progress { heard: Some(at(29)), ..Progress::default() };
    assert_eq!(kinds(&large.turn(parts, at(30))), [""; 0], "a large message comes, its end is not there yet");
    assert_eq!((large.next_deadline(), kinds(&large.turn(parts, at(59)))), (at(59), vec![]));
    assert_eq!(kinds(&large.turn(parts, at(64))), ["keepalive_lost"]);

    let mut slow = session(Extensions::default(), start);
    slow.send(Outgoing::new(pod("a")), at(1));
    assert_eq!(slow.next_deadline(), at(6), "resend");
    assert_eq!(kinds(&slow.turn(took(0), at(6))), [""; 0], "it has not left yet");
    assert_eq!(
        kinds(&slow.turn(took(0), at(11))),
        ["write_timeout"],
        "10 s after the frame was given to the pump"
    );
    let mut taken = session(Extensions::default(), start);
    taken.send(Outgoing::new(pod("a")), at(1));
    assert_eq!(kinds(&taken.turn(took(1), at(2))), [""; 0]);
    assert_eq!(kinds(&taken.turn(took(1), at(12))), ["write"], "unacknowledged is not unwritten");
}

/// Its own words may not arrive while it takes all of ours: it says itself how long it is silent at most.
#[test]
fn a_node_that_told_its_silence_is_missed_sooner() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let told = |silence: u64| {
        Settings::new(Duration::from_secs(30), Duration::from_secs(10))
            .told(Some(Duration::from_secs(silence)))
            .silence
            .as_secs()
    };
    assert_eq!([told(0), told(6), told(30), told(u64::MAX)], [2, 6, 30, 30]);

    let heard = |secs| Progress { heard: Some(at(secs)), ..Progress::default() };
    let deaf = |progress| Progress { is_deaf: true, ..progress };
    let mut node = session(Extensions::default(), start);
    node.settings = node.settings.told(Some(Duration::from_secs(6)));
    assert_eq!(node.next_deadline(), at(6));
    // We stood still: its words were there.
    assert_eq!(kinds(&node.turn(Progress::default(), at(20))), [""; 0]);
    assert_eq!(node.next_deadline(), at(22));
    assert_eq!(kinds(&node.turn(heard(20), at(21))), [""; 0]);
    assert_eq!(node.next_deadline(), at(26));
    // Nobody listens to it.
    assert_eq!(kinds(&node.turn(deaf(heard(20)), at(40))), [""; 0]);
    assert_eq!(node.next_deadline(), at(50));
    assert_eq!(kinds(&node.turn(heard(45), at(46))), [""; 0]);
    assert_eq!(kinds(&node.turn(heard(45), at(51))), [""; 0]);
    // A word, and then we stand still: that is no second look.
    assert_eq!(kinds(&node.turn(heard(52), at(70))), [""; 0]);
    // What is dealt with was heard just now, whatever the pump says.
    node.receive(upstream("websocket", "keepalive", "node"), at(71), 0);
    assert_eq!(kinds(&node.turn(deaf(heard(52)), at(71))), [""; 0]);
    node.receive(upstream("websocket", "keepalive", "node"), at(71), 0);
    assert_eq!(node.next_deadline(), at(77));
    assert_eq!(kinds(&node.turn(heard(71), at(77))), [""; 0]);
    assert_eq!(kinds(&node.turn(heard(71), at(79))), ["keepalive_lost"]);
}

#[test]
fn a_session_ends_with_its_certificate_unless_that_is_renewed() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let ours = Extensions { identity: true, ..Extensions::default() };
    let ask = || upstream("edgehub", "query", "identity/renewal");
    let alive = |session: &mut Session, secs| {
        session.receive(upstream("websocket", "keepalive", "node"), at(secs), 0);
    };

    let mut go = session(Extensions::default(), start).until(at(20));
    assert_eq!(go.next_deadline(), at(20));
    assert_eq!(kinds(&go.receive(ask(), at(10), 0)), ["unhandled"], "the extension was not agreed on");
    assert_eq!(kinds(&go.turn(took(0), at(19))), [""; 0]);
    assert_eq!(kinds(&go.turn(took(0), at(20))), ["expired"]);

    let mut node = session(ours, start).until(at(20));
    let request = ask();
    let answer = || request.response(Body::Null, 0);
    assert_eq!(kinds(&node.receive(request.clone(), at(10), 0)), ["renew"]);
    assert_eq!(kinds(&node.receive(ask(), at(10), 0)), ["write"], "one at a time: the second is refused");
    assert_eq!(kinds(&node.renewed(answer(), Some(at(40)), at(11))), ["write"]);
    alive(&mut node, 20);
    assert_eq!(kinds(&node.turn(took(2), at(21))), [""; 0]);
    assert_eq!(kinds(&node.receive(ask(), at(30), 0)), ["renew"], "and again");
    node.renewed(answer(), None, at(31));
    alive(&mut node, 39);
    assert!(
        kinds(&node.turn(took(3), at(40))).contains(&"expired".to_owned()),
        "a refused renewal changes nothing"
    );
    assert_eq!(kinds(&node.renewed(answer(), Some(at(90)), at(41))), [""; 0], "too late");
}

#[test]
fn the_pipe_is_bounded() {
    let now = Instant::now();
    let mut session = session(Extensions { ack_window: true, resync: true, ..Extensions::default() }, now);
    let reply = || Outgoing::new(upstream("edgecontroller", "response", "default/lease/l"));
    for n in 0..PIPE_FRAMES + 10 {
        let want = usize::from(n < PIPE_FRAMES);
        assert_eq!(session.send(reply(), now).len(), want);
    }
    assert!(session.is_starved());
    assert_eq!(session.turn(took(4), now).len(), 4, "as many as the pump took");
}

#[test]
fn answers_are_given_up_only_when_too_many_of_them_wait() {
    let now = Instant::now();
    let mut session = session(Extensions { ack_window: true, resync: true, ..Extensions::default() }, now);
    let filled = |mut message: Envelope, bytes: usize| {
        message.body = Body::Text("x".repeat(bytes));
        Outgoing::new(message)
    };
    for n in 0..8 {
        session.send(filled(pod(&n.to_string()), PIPE_BYTES), now);
    }
    let answer =
        || filled(upstream("edged", "query", "default/secret/s").response(Body::Null, 0), PIPE_BYTES / 2);
    let mut waiting = 0;
    let refused = loop {
        let effects = kinds(&session.send(answer(), now));
        if !effects.is_empty() {
            break effects;
        }
        waiting += 1;
    };
    assert_eq!((refused, waiting), (vec!["not answered".to_owned()], 7), "objects that wait are not counted");
}

#[test]
fn endings() {
    let now = Instant::now();
    let mut deleted = session(Extensions::default(), now);
    let gone = Envelope::new(
        "edgecontroller",
        "resource",
        "delete",
        Resource::parse("null/node/edge-1"),
        Body::Null,
        0,
    );
    assert_eq!(kinds(&deleted.send(Outgoing::new(gone), now)), ["node_deleted"]);
    assert_eq!(kinds(&deleted.send(Outgoing::new(pod("a")), now)), [""; 0]);

    let settings =
        Settings { queue_messages: 2, ..Settings::new(Duration::MAX / 4, Duration::from_secs(10)) };
    let settings = Settings { keepalive: Duration::from_secs(30), ..settings };
    let node = NodeName::parse("edge-1").unwrap();
    let mut full = Session::new(node, Extensions::default(), settings, "".into(), now);
    for (name, want) in [("a", vec!["write"]), ("b", vec![]), ("c", vec!["queue_full"])] {
        assert_eq!(kinds(&full.send(Outgoing::new(pod(name)), now)), want, "{name}");
    }
}

#[test]
fn a_too_large_object_does_not_stop_the_others() {
    let now = Instant::now();
    let mut session = session(Extensions::default(), now);
    let mut large = pod("large");
    if let Body::Object(object) = &mut large.body {
        object["data"] = "x".repeat(MAX_FRAME_BYTES).into();
    }
    assert_eq!(kinds(&session.send(Outgoing::new(large), now)), ["too large"]);
    assert_eq!(kinds(&session.send(Outgoing::new(pod("a")), now)), ["write"]);
}
