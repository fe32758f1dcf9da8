//! Enrolled nodes that are hostile: floods of valid messages, old ones again, another node's name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kubeedge::identity::{NodeRequest, TrustBundle};
use kubeedge::model::identity::{AttestationRequest, Evidence};
use serde_json::{Value, json};

use super::harness::cluster::{Cloud, PATIENT};
use super::harness::hostile::{Watch, figure};
use super::harness::machine::{Session, call, join, jwt, node, token};
use super::harness::process::{PATIENCE, alone, until};
use super::main_job::{World, sleeper};
use super::neighbours::Ends;

/// What cloudcore may grow by for one hostile node, KiB.
const RISE_KIB: u64 = 24 << 10;
/// Connections of the node that floods.
const FLOODING_SESSIONS: usize = 2;
/// What one node may say at once, and in a second (docs/SECURITY.md).
const BURST: f64 = 8_000.0;
const PER_SEC: f64 = 2_000.0;
/// More than a node that is not hostile says during a test; less than a flood.
const QUIET: f64 = 1_000.0;

fn message(operation: &str, resource: &str, content: &Value) -> Vec<u8> {
    said("edged", "meta", operation, resource, content, None)
}

fn said(
    source: &str,
    group: &str,
    operation: &str,
    resource: &str,
    content: &Value,
    parent: Option<&str>,
) -> Vec<u8> {
    let mut header = json!({"msg_id": uuid::Uuid::new_v4().to_string(), "timestamp": 1_795_376_407_613_u64});
    if let Some(parent) = parent {
        header["parent_msg_id"] = parent.into();
    }
    let route = json!({"source": source, "group": group, "operation": operation, "resource": resource});
    json!({"header": header, "route": route, "content": content}).to_string().into_bytes()
}

/// A question whose answer is longer than itself.
pub fn question() -> Vec<u8> {
    message("query", "k8s/ca.crt", &Value::Null)
}

fn upstream(cloud: &Cloud, result: &str) -> f64 {
    figure(&cloud.monitor, &format!("kubeedge_edgecontroller_requests_total{{result=\"{result}\"}}"))
}

fn renewed(world: &World) -> String {
    world.kubectl().run(&[
        "get",
        "lease",
        "edge-1",
        "-n",
        "kube-node-lease",
        "-o",
        "jsonpath={.spec.renewTime}",
    ])
}

/// What cloudcore heard from all nodes.
fn heard(cloud: &Cloud) -> f64 {
    let kind = |kind: &str| format!("kubeedge_cloudhub_messages_total{{direction=\"up\",kind=\"{kind}\"}}");
    ["keepalive", "response", "request"].iter().map(|name| figure(&cloud.monitor, &kind(name))).sum()
}

/// Three pods, one after the other, and from one renewal of the node's lease to the next: how long each took.
fn pods_and_a_lease(world: &World, pods: [&str; 3]) -> [Duration; 2] {
    let kubectl = world.kubectl();
    let begun = Instant::now();
    for pod in pods {
        kubectl.apply(&sleeper(pod, ""));
        kubectl.wait_running(pod);
    }
    let started = begun.elapsed();
    let next = |last: &str| {
        until("the lease of a node beside is renewed", PATIENCE, || {
            let now = renewed(world);
            if now.as_str() > last { Ok(now) } else { Err(now) }
        })
    };
    let first = next(&renewed(world));
    let begun = Instant::now();
    next(&first);
    [started, begun.elapsed()]
}

/// Everything a node may say, as fast as it is heard, from two nodes: another node works on as if
/// nothing were.
#[test]
fn a_flood_of_valid_messages_delays_no_other_node() {
    let _alone = alone();
    let world = World::with(&[PATIENT], &[]);
    let kubectl = world.kubectl();
    let nodes: Vec<_> = (0..FLOODING_SESSIONS)
        .map(|number| {
            let name = format!("flood-{number}");
            let held = join(&world.cloud, &name, token(&world.cloud, &[])).unwrap();
            kubectl.apply(&format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name}, labels: {{ node-role.kubernetes.io/edge: '' }} }}\n"
            ));
            (name, held)
        })
        .collect();
    kubectl.apply(&sleeper("warm", ""));
    kubectl.wait_running("warm");
    let calm = pods_and_a_lease(&world, ["calm-1", "calm-2", "calm-3"]);
    kubectl.run(&["delete", "pod", "calm-1", "calm-2", "calm-3"]);
    let held = "kubeedge_cloudhub_messages_total{direction=\"up\",kind=\"held\"}";
    let before = figure(&world.cloud.monitor, held);
    let watch = Watch::of(world.cloud.process.pid());
    let (begun, heard_before) = (Instant::now(), heard(&world.cloud));
    let stop = AtomicBool::new(false);
    let (sent, flooded) = std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let (cloud, until_then) = (&world.cloud, &stop);
        let threads: Vec<_> = nodes
            .iter()
            .map(|(name, held)| scope.spawn(move || flood(cloud, name, &held.svid, until_then)))
            .collect();
        until("the flood is held back", PATIENCE, || {
            let now = figure(&cloud.monitor, held);
            if now > before { Ok(()) } else { Err(format!("{now} messages")) }
        });
        // Others start pods, are told of changes, and renew their leases meanwhile.
        let from = heard(cloud);
        let flooded = pods_and_a_lease(&world, ["one", "two", "three"]);
        let by_then = heard(cloud);
        assert!(by_then > from + QUIET, "that was no flood: {} messages heard", by_then - from);
        kubectl.wait_node("edge-1", "True");
        kubectl.run(&["delete", "pod", "one", "two"]);
        until("the flood goes on", PATIENCE, || {
            let now = heard(cloud);
            if now > by_then + QUIET { Ok(()) } else { Err(format!("{by_then} messages then, {now} now")) }
        });
        drop(ends);
        (threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>(), flooded)
    });
    let all = heard(&world.cloud) - heard_before;
    let most = FLOODING_SESSIONS as f64 * (BURST + PER_SEC * begun.elapsed().as_secs_f64()) + QUIET;
    let rise = watch.rise();
    println!(
        "{sent} messages of {FLOODING_SESSIONS} nodes, {all} heard: {rise} KiB; pods and lease {flooded:.1?}, {calm:.1?} before"
    );
    assert!(all <= most, "{all} messages were heard, not {most}");
    for (what, (flooded, calm)) in ["three pods", "a lease"].into_iter().zip(flooded.into_iter().zip(calm)) {
        let most = calm * 3 + Duration::from_secs(5);
        assert!(flooded <= most, "{what} took {flooded:.1?} beside a flood, {calm:.1?} before");
    }
    assert!(rise <= RISE_KIB, "the flood cost {rise} KiB");
    assert!(sent > 2_000, "that was no flood: {sent} messages");
    assert_eq!(world.runtime.running_containers("three"), 1);
    assert!(!world.cloud.process.log().contains("panicked"), "{}", world.cloud.process.tail());
}

/// Says all kinds of things until it may stop; how many.
fn flood(cloud: &Cloud, name: &str, pair: &kubeedge::identity::KeyPair, stop: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut session) = Session::open_with(cloud, name, pair, "resync,report") else { continue };
        let mut heard = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = sent % 50;
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
            let event = json!({"apiVersion": "v1", "kind": "Event",
                "metadata": {"name": format!("e-{number}"), "namespace": "default"},
                "involvedObject": {"kind": "Node", "name": name}, "reason": "Flood", "message": "x".repeat(500)});
            let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True",
                "lastHeartbeatTime": "2026-11-22T19:40:08Z"}]}})
            .to_string();
            let batch = [
                message("query", &format!("kube-node-lease/lease/{name}"), &Value::Null),
                message("update", &format!("kube-node-lease/lease/{name}"), &lease),
                message("insert", &format!("default/event/e-{number}"), &event),
                message("patch", &format!("null/nodepatch/{name}"), &patch.into()),
                message("query", &format!("default/configmap/none-{number}"), &Value::Null),
                said("edgehub", "resource", "keepalive", "node", &"ping".into(), None),
                said("edged", "meta", "error", "default/pod/x", &"it hurts".into(), None),
                said(
                    "metamanager",
                    "meta",
                    "resync",
                    "null",
                    &json!({"objects": [], "part": 0, "last": true}),
                    None,
                ),
                said("twin", "twin", "updated", "device/none/twin/cloud_updated", &json!({}), None),
                question(),
            ];
            if batch.iter().any(|one| session.say(one).is_err()) {
                break;
            }
            sent += batch.len() as u64;
            // It reads: whoever does not is another test's.
            session.hear(&mut heard);
            heard.clear();
        }
    }
    sent
}

/// Another node's certificate says who speaks, whatever the message says.
#[test]
fn nobody_speaks_for_another_node() {
    let world = World::with(&[PATIENT], &[]);
    let kubectl = world.kubectl();
    let held = join(&world.cloud, "liar", token(&world.cloud, &[])).unwrap();
    kubectl.run(&["create", "secret", "generic", "theirs", "--from-literal=k=correct-horse"]);
    kubectl.apply(&sleeper("victim", ""));
    kubectl.wait_running("victim");

    let others = "kubeedge_identity_refused_total{reason=\"other_node\"}";
    let before = figure(&world.cloud.monitor, others);
    let Err((code, why)) = Session::open(&world.cloud, "edge-1", &held.svid) else { panic!("let in") };
    assert!(code == 403 && why.contains("certificate is for node"), "{code} {why}");
    assert_eq!(figure(&world.cloud.monitor, others), before + 1.0);

    let forbidden = upstream(&world.cloud, "forbidden");
    let watch = Watch::of(world.cloud.process.pid());
    let mut session = Session::open(&world.cloud, "liar", &held.svid).unwrap();
    let mut heard = Vec::new();
    let down = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Lies"}]}})
        .to_string();
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "edge-1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "liar", "leaseDurationSeconds": 40, "renewTime": "2001-01-01T00:00:00.000000Z"}});
    let status =
        json!({"metadata": {"uid": kubectl.run(&["get", "pod", "victim", "-o", "jsonpath={.metadata.uid}"])},
        "status": {"phase": "Failed", "reason": "Lies"}})
        .to_string();
    let lies = [
        message("patch", "null/nodepatch/edge-1", &down.into()),
        message("update", "kube-node-lease/lease/edge-1", &lease),
        message("patch", "default/podpatch/victim", &status.into()),
        message(
            "delete",
            "default/pod/victim",
            &json!({"metadata": {"name": "victim", "namespace": "default"}}),
        ),
        message("query", "default/secret/theirs", &Value::Null),
        message("query", "null/node/edge-1", &Value::Null),
    ];
    for lie in &lies {
        session.say(lie).unwrap();
    }
    until("every lie is refused and counted", PATIENCE, || {
        session.hear(&mut heard);
        let now = upstream(&world.cloud, "forbidden") - forbidden;
        if now >= lies.len() as f64 { Ok(()) } else { Err(format!("{now} of {}", lies.len())) }
    });
    session.hear(&mut heard);
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(
        !heard.contains("correct-horse") && !heard.contains("Y29ycmVjdC1ob3JzZQ"),
        "it was told the secret"
    );
    assert!(watch.rise() <= RISE_KIB);
    kubectl.wait_node("edge-1", "True");
    assert_eq!(kubectl.run(&["get", "pod", "victim", "-o", "jsonpath={.status.phase}"]), "Running");
    let holder = ["get", "lease", "edge-1", "-n", "kube-node-lease", "-o", "jsonpath={.spec.holderIdentity}"];
    assert_eq!(kubectl.run(&holder), "edge-1");
}

/// What was said once is said again: it undoes nothing.
#[test]
fn old_messages_change_nothing() {
    let world = World::with(&[PATIENT], &[]);
    let kubectl = world.kubectl();
    // A join request, word for word, from another machine that listened.
    let (request, keys) = NodeRequest::new(&node("again")).unwrap();
    let body = AttestationRequest {
        node: "again".to_owned(),
        evidence: Evidence::JoinToken { token: jwt(&world.cloud, &[]) },
        request,
    };
    let recorded = serde_json::to_vec(&body).unwrap();
    let ask = |body: &[u8]| call(&world.cloud, "POST /identity/node", None, &[], body).unwrap();
    let (code, answer) = ask(&recorded);
    assert_eq!(code, 200);
    let held = keys.credentials(&node("again"), &serde_json::from_slice(&answer).unwrap()).unwrap();
    // The same key gets its certificate again, which is of no use without the key; another gets nothing.
    let (other, _) = NodeRequest::new(&node("again")).unwrap();
    let stolen = serde_json::to_vec(&AttestationRequest { request: other, ..body }).unwrap();
    let refused = "kubeedge_cloudhub_certificates_total{result=\"refused\"}";
    let before = figure(&world.cloud.monitor, refused);
    for _ in 0..5 {
        let (code, why) = ask(&stolen);
        assert_eq!(code, 401, "{}", String::from_utf8_lossy(&why));
    }
    assert_eq!(figure(&world.cloud.monitor, refused), before + 5.0);
    assert!(TrustBundle::from_pem(&held.trust_domain, &held.roots_pem).is_ok());

    // A lease as it was, a status of a pod that is gone, acknowledgements of nothing, reports of before.
    kubectl.apply(
        "apiVersion: v1\nkind: Node\nmetadata: { name: again, labels: { node-role.kubernetes.io/edge: '' } }\n",
    );
    let path = "kube-node-lease/lease/again";
    let lease = |time: &str, version: &str| {
        let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "again", "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": "again", "leaseDurationSeconds": 40, "renewTime": time}});
        if !version.is_empty() {
            lease["metadata"]["resourceVersion"] = version.into();
        }
        lease
    };
    let field = |field: &str| {
        let path = format!("jsonpath={{{field}}}");
        kubectl.try_run(&["get", "lease", "again", "-n", "kube-node-lease", "-o", &path])
    };
    let mut session = Session::open_with(&world.cloud, "again", &held.svid, "report").unwrap();
    let mut heard = Vec::new();
    session.say(&message("insert", path, &lease("2026-01-01T00:00:01.000000Z", ""))).unwrap();
    let version = until("the lease is there", PATIENCE, || field(".metadata.resourceVersion"));
    let old = message("update", path, &lease("2026-01-01T00:00:02.000000Z", &version));
    session.say(&old).unwrap();
    let version = until("the lease is renewed", PATIENCE, || match field(".metadata.resourceVersion") {
        Ok(now) if now != version => Ok(now),
        other => Err(format!("{other:?}")),
    });
    session.say(&message("update", path, &lease("2026-01-01T00:00:03.000000Z", &version))).unwrap();
    until("the lease is renewed again", PATIENCE, || match field(".spec.renewTime") {
        Ok(now) if now.contains(":03") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let failed = upstream(&world.cloud, "failed");
    let watch = Watch::of(world.cloud.process.pid());
    for _ in 0..50 {
        session.say(&old).unwrap();
    }
    until("the old lease is refused each time", PATIENCE, || {
        session.hear(&mut heard);
        let now = upstream(&world.cloud, "failed") - failed;
        if now >= 50.0 { Ok(()) } else { Err(format!("{now} times")) }
    });
    assert!(field(".spec.renewTime").unwrap().contains(":03"), "an old lease came back");

    // A pod of this node that was deleted does not come back, and acknowledgements of nothing are nothing.
    kubectl.apply(&sleeper("gone", "  nodeName: again\n"));
    let uid = kubectl.run(&["get", "pod", "gone", "-o", "jsonpath={.metadata.uid}"]);
    let running = json!({"metadata": {"uid": uid}, "status": {"phase": "Running"}}).to_string();
    let status = message("patch", "default/podpatch/gone", &running.into());
    session.say(&status).unwrap();
    kubectl.wait_for("pod/gone", "{.status.phase}", "Running", PATIENCE);
    kubectl.run(&["delete", "pod", "gone", "--force", "--grace-period=0"]);
    let served = upstream(&world.cloud, "failed") + upstream(&world.cloud, "forbidden");
    for _ in 0..50 {
        session.say(&status).unwrap();
        let parent = uuid::Uuid::new_v4().to_string();
        session
            .say(&said(
                "edgecontroller",
                "resource",
                "response",
                "default/pod/gone",
                &"OK".into(),
                Some(&parent),
            ))
            .unwrap();
    }
    until("the old status is refused each time", PATIENCE, || {
        session.hear(&mut heard);
        let now = upstream(&world.cloud, "failed") + upstream(&world.cloud, "forbidden") - served;
        if now >= 50.0 { Ok(()) } else { Err(format!("{now} times")) }
    });
    kubectl.wait_gone("pod/gone");
    let rise = watch.rise();
    println!("replays: {rise} KiB");
    assert!(rise <= RISE_KIB, "{rise} KiB");
    assert!(!heard.is_empty(), "nothing was answered");
    // Beside all that another node does its work.
    kubectl.wait_node("edge-1", "True");
    kubectl.apply(&sleeper("after", ""));
    kubectl.wait_running("after");
}
