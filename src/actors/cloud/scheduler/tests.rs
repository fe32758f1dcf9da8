use serde_json::{Value, json};

use super::core::*;
use super::place::*;
use super::view::*;

fn node(name: &str, extra: Value) -> Node {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    crate::kube::patch::merge(&mut object, &extra);
    Node::read(&object)
}

fn pod_object(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("u-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "c"}]},
    });
    crate::kube::patch::merge(&mut object, &json!({"spec": spec}));
    object
}

fn pod(name: &str, spec: Value) -> Pod {
    Pod::read(&pod_object(name, spec), "default-scheduler")
}

fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
}

fn room(node: Node, pods: &[Pod]) -> Room {
    let mut room = Room { node, ..Room::default() };
    pods.iter().for_each(|pod| room.take(pod));
    room
}

fn ports(port: i64, ip: &str) -> Value {
    json!({"containers": [{"name": "c", "ports": [{"hostPort": port, "hostIP": ip, "protocol": "TCP"}]}]})
}

fn affinity(term: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
}

#[test]
fn one_node_takes_a_pod_or_says_why() {
    let free = || room(node("n1", json!({})), &[]);
    let tainted = |effect: &str| {
        room(node("n1", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}})), &[])
    };
    let tolerate = |toleration: Value| json!({"tolerations": [toleration]});
    let cordoned = || room(node("n1", json!({"spec": {"unschedulable": true}})), &[]);
    let labelled = || room(node("n1", json!({"metadata": {"labels": {"zone": "a", "cores": "8"}}})), &[]);
    let expression = |key: &str, operator: &str, values: Value| {
        affinity(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
    };
    let affinity_text = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    let taint_text = "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}.";
    let port_text = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    for (case, room, spec, want) in [
        ("plain", free(), json!({}), Ok("n1")),
        ("fits exactly", free(), cpu("2"), Ok("n1")),
        ("too much cpu", free(), cpu("2001m"), Err("0/1 nodes are available: 1 Insufficient cpu.")),
        (
            "beside others",
            room(node("n1", json!({})), &[pod("o", cpu("1500m"))]),
            json!({"containers": [{"resources": {"requests": {"cpu": "1", "memory": "5Gi"}}}]}),
            Err("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."),
        ),
        (
            "extended resource",
            free(),
            json!({"containers": [{"resources": {"requests": {"x.io/gpu": "1"}}}]}),
            Err("0/1 nodes are available: 1 Insufficient x.io/gpu."),
        ),
        (
            "largest init container",
            free(),
            json!({"initContainers": [{"resources": {"requests": {"cpu": "3"}}}]}),
            Err("0/1 nodes are available: 1 Insufficient cpu."),
        ),
        (
            "sidecars add up",
            free(),
            json!({"initContainers": [{"restartPolicy": "Always", "resources": {"requests": {"cpu": "1500m"}}}],
                "containers": [{"resources": {"requests": {"cpu": "600m"}}}]}),
            Err("0/1 nodes are available: 1 Insufficient cpu."),
        ),
        (
            "full",
            room(node("n1", json!({})), &[pod("a", json!({})), pod("b", json!({})), pod("c", json!({}))]),
            json!({}),
            Err("0/1 nodes are available: 1 Too many pods."),
        ),
        ("selector", labelled(), json!({"nodeSelector": {"zone": "a"}}), Ok("n1")),
        ("other selector", labelled(), json!({"nodeSelector": {"zone": "b"}}), Err(affinity_text)),
        ("in", labelled(), expression("zone", "In", json!(["a", "b"])), Ok("n1")),
        ("not in", labelled(), expression("zone", "NotIn", json!(["a"])), Err(affinity_text)),
        ("exists", labelled(), expression("zone", "Exists", json!([])), Ok("n1")),
        ("absent", labelled(), expression("zone", "DoesNotExist", json!([])), Err(affinity_text)),
        ("greater", labelled(), expression("cores", "Gt", json!(["7"])), Ok("n1")),
        ("less", labelled(), expression("cores", "Lt", json!(["7"])), Err(affinity_text)),
        (
            "by name",
            free(),
            affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})),
            Ok("n1"),
        ),
        (
            "by other name",
            free(),
            affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]})),
            Err(affinity_text),
        ),
        ("empty term", free(), affinity(json!({})), Err(affinity_text)),
        ("taint", tainted("NoSchedule"), json!({}), Err(taint_text)),
        ("taint to run", tainted("NoExecute"), json!({}), Err(taint_text)),
        ("mild taint", tainted("PreferNoSchedule"), json!({}), Ok("n1")),
        (
            "tolerated",
            tainted("NoSchedule"),
            tolerate(json!({"key": "k", "value": "v", "effect": "NoSchedule"})),
            Ok("n1"),
        ),
        ("all tolerated", tainted("NoSchedule"), tolerate(json!({"operator": "Exists"})), Ok("n1")),
        (
            "other value tolerated",
            tainted("NoSchedule"),
            tolerate(json!({"key": "k", "value": "w"})),
            Err(taint_text),
        ),
        (
            "other effect tolerated",
            tainted("NoSchedule"),
            tolerate(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})),
            Err(taint_text),
        ),
        ("cordoned", cordoned(), json!({}), Err("0/1 nodes are available: 1 node(s) were unschedulable.")),
        ("cordoned, tolerated", cordoned(), tolerate(json!({"operator": "Exists"})), Ok("n1")),
        (
            "not ready",
            room(node("n1", json!({"status": {"conditions": []}})), &[]),
            json!({}),
            Err("0/1 nodes are available: 1 node(s) were not ready."),
        ),
        (
            "port taken",
            room(node("n1", json!({})), &[pod("o", ports(80, ""))]),
            ports(80, "10.0.0.1"),
            Err(port_text),
        ),
        (
            "port free on another address",
            room(node("n1", json!({})), &[pod("o", ports(80, "10.0.0.2"))]),
            ports(80, "10.0.0.1"),
            Ok("n1"),
        ),
        ("other port", room(node("n1", json!({})), &[pod("o", ports(80, ""))]), ports(81, ""), Ok("n1")),
    ] {
        let got = place(&pod("p", spec), [room].iter()).map_err(|reasons| explain(1, &reasons));
        assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{case}");
    }
}

#[test]
fn the_better_node_wins_and_ties_are_stable() {
    let busy = |name: &str| room(node(name, json!({})), &[pod("o", cpu("1"))]);
    let free = |name: &str| room(node(name, json!({})), &[]);
    let mild = |name: &str| {
        room(node(name, json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}})), &[])
    };
    let prefer = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 5, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}}]}}});
    for (case, rooms, spec, want) in [
        ("emptier", [busy("a"), free("b")], json!({}), "b"),
        ("tie", [free("a"), free("b")], json!({}), "a"),
        ("mild taint", [mild("a"), busy("b")], json!({}), "b"),
        ("preferred", [busy("a"), free("b")], prefer, "a"),
    ] {
        assert_eq!(place(&pod("p", spec), rooms.iter()), Ok(want.to_owned()), "{case}");
    }
    assert_eq!(explain(0, &[]), "no nodes available to schedule pods");
}

fn at(secs: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn started(nodes: Vec<Node>, pods: Vec<Pod>) -> Core {
    let mut core = Core::default();
    core.see_node(Change::Init);
    nodes.into_iter().for_each(|node| core.see_node(Change::Listed(node)));
    core.see_node(Change::InitDone);
    core.see_pod(Change::Init, at(0));
    pods.into_iter().for_each(|pod| core.see_pod(Change::Listed(pod), at(0)));
    core.see_pod(Change::InitDone, at(0));
    core
}

fn key(name: &str) -> PodKey {
    ("default".to_owned(), name.to_owned())
}

fn bind(name: &str, node: &str) -> Effect {
    Effect::Bind { key: key(name), uid: format!("u-{name}"), node: node.to_owned() }
}

fn explained(name: &str, message: &str) -> Effect {
    Effect::Explain { key: key(name), uid: format!("u-{name}"), message: message.to_owned() }
}

#[test]
fn nothing_is_placed_before_both_lists_are_known() {
    let mut core = Core::default();
    core.see_pod(Change::Init, at(0));
    core.see_pod(Change::Listed(pod("p", json!({}))), at(0));
    core.see_pod(Change::InitDone, at(0));
    assert_eq!(core.next(at(0), 0.0), []);
    core.see_node(Change::Init);
    core.see_node(Change::Listed(node("n1", json!({}))));
    assert_eq!(core.next(at(0), 0.0), []);
    core.see_node(Change::InitDone);
    assert_eq!(core.next(at(0), 0.0), [bind("p", "n1")]);
    assert_eq!(core.next(at(99), 0.0), [], "one binding at a time");
}

#[test]
fn only_pods_that_ask_for_it_are_placed() {
    let mut ended = pod_object("ended", json!({}));
    ended["status"] = json!({"phase": "Failed"});
    let mut going = pod_object("going", json!({}));
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let read = |object: &Value| Pod::read(object, "default-scheduler");
    let pods = vec![
        read(&ended),
        read(&going),
        pod("placed", json!({"nodeName": "n1"})),
        pod("foreign", json!({"schedulerName": "other"})),
        pod("gated", json!({"schedulingGates": [{"name": "g"}]})),
        pod("mine", json!({"schedulerName": "default-scheduler"})),
    ];
    let mut core = started(vec![node("n1", json!({}))], pods);
    assert_eq!(core.next(at(0), 0.0), [bind("mine", "n1")]);
}

#[test]
fn what_is_being_bound_takes_its_room_at_once() {
    let mut core = started(vec![node("n1", json!({}))], vec![pod("a", cpu("1500m")), pod("b", cpu("1"))]);
    let no_room = "0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(core.next(at(0), 0.0), [bind("a", "n1"), explained("b", no_room)]);
    // The pod's own condition comes back through the watch before the binding does.
    let mut again = pod_object("a", cpu("1500m"));
    again["metadata"]["labels"] = json!({"x": "y"});
    again["spec"]["priority"] = 1.into();
    core.see_pod(Change::Applied(Pod::read(&again, "default-scheduler")), at(1));
    assert_eq!(core.next(at(10), 0.0), [], "b still does not fit, and was told");
    assert_eq!(core.bound(&key("a"), "u-a", Outcome::Done, at(10)).map(|waited| waited.as_secs()), Some(10));
    core.see_pod(
        Change::Applied(pod("a", json!({"nodeName": "n1", "containers": cpu("1500m")["containers"]}))),
        at(11),
    );
    assert_eq!(core.next(at(20), 0.0), []);
    core.see_pod(Change::Deleted(pod("a", json!({}))), at(21));
    assert_eq!(core.next(at(24), 0.0), [bind("b", "n1")], "its room is free again");
}

#[test]
fn unschedulable_pods_wait_for_a_change_and_a_pause() {
    let mut core = started(vec![], vec![pod("p", json!({}))]);
    assert_eq!(core.next(at(0), 0.0), [explained("p", "no nodes available to schedule pods")]);
    assert_eq!(core.next(at(200), 0.0), [], "nothing changed");
    assert_eq!(core.next_due(), Some(at(301)), "but it is looked at again some day");
    core.see_node(Change::Applied(node("n1", json!({"spec": {"unschedulable": true}}))));
    let cordoned = "0/1 nodes are available: 1 node(s) were unschedulable.";
    assert_eq!(core.next(at(201), 0.0), [explained("p", cordoned)]);
    core.see_node(Change::Applied(node("n1", json!({"spec": {"unschedulable": true}}))));
    assert_eq!(core.next(at(205), 0.0), [], "the same again is no change");
    core.see_node(Change::Applied(node("n1", json!({}))));
    assert_eq!(core.next(at(202), 0.0), [], "the pause is not over");
    assert_eq!(core.next_due(), Some(at(203)));
    assert_eq!(core.next(at(203), 0.0), [bind("p", "n1")]);
}

#[test]
fn a_failed_binding_frees_the_room_and_is_tried_again() {
    let mut core = started(vec![node("n1", json!({}))], vec![pod("p", cpu("2"))]);
    assert_eq!(core.next(at(0), 1.0), [bind("p", "n1")]);
    assert_eq!(core.bound(&key("p"), "u-p", Outcome::Failed, at(0)), None);
    assert_eq!(core.next(at(1), 1.0), [], "one second and the jitter");
    assert_eq!(core.next(at(2), 1.0), [bind("p", "n1")]);
    assert_eq!(core.bound(&key("p"), "u-p", Outcome::Moot, at(2)), None);
    assert_eq!(core.next(at(60), 0.0), [], "the watch will tell");
    core.see_pod(Change::Deleted(pod("p", json!({}))), at(61));
    assert_eq!((core.waiting(), core.next_due()), (0, None));
    assert_eq!(core.bound(&key("p"), "u-p", Outcome::Done, at(62)), None, "a late answer is ignored");
}

#[test]
fn a_fresh_list_replaces_what_was_known() {
    let placed = |name: &str| pod(name, json!({"nodeName": "n1", "containers": cpu("2")["containers"]}));
    let mut core = started(vec![node("n1", json!({}))], vec![placed("old"), pod("p", cpu("1"))]);
    assert_eq!(core.next(at(0), 0.0).len(), 1);
    core.see_pod(Change::Init, at(5));
    core.see_pod(Change::Listed(pod("p", cpu("1"))), at(5));
    assert_eq!(core.next(at(5), 0.0), [], "until the list is complete the old one counts");
    core.see_pod(Change::InitDone, at(5));
    assert_eq!(core.next(at(5), 0.0), [bind("p", "n1")]);
    core.see_node(Change::Init);
    core.see_node(Change::InitDone);
    core.see_pod(Change::Applied(pod("q", json!({}))), at(6));
    assert_eq!(core.next(at(6), 0.0), [explained("q", "no nodes available to schedule pods")]);
}

#[test]
fn priority_then_age_decides_the_order_and_calls_are_bounded() {
    let mut important = pod_object("z", json!({"priority": 10}));
    important["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z".into();
    let mut pods: Vec<Pod> = (0..20).map(|n| pod(&format!("p{n:02}"), json!({}))).collect();
    pods.push(Pod::read(&important, "default-scheduler"));
    let mut core = started(vec![node("n1", json!({"status": {"allocatable": {"pods": "110"}}}))], pods);
    let effects = core.next(at(0), 0.0);
    assert_eq!(effects.len(), 16);
    assert_eq!(effects[0], bind("z", "n1"));
    assert_eq!(effects[1], bind("p00", "n1"));
    core.bound(&key("z"), "u-z", Outcome::Done, at(0));
    assert_eq!(core.next(at(0), 0.0).len(), 1);
}
