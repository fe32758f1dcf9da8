use super::*;

fn pod(uid: &str) -> PodId {
    PodId { namespace: "default".into(), name: "a".into(), uid: uid.into() }
}

fn patch(uid: &str, phase: &str, generation: u64) -> Job {
    Job::Patch { pod: pod(uid), status: Arc::new(json!({"phase": phase})), generation }
}

#[test]
fn the_latest_status_wins_and_survives_an_answer_to_an_older_one() {
    let now = Instant::now();
    let mut reports = Reports::default();
    reports.report(pod("u"), json!({"phase": "Pending"}), now);
    let first = reports.due(now);
    assert_eq!(first, [patch("u", "Pending", 1)]);
    assert_eq!(reports.report(pod("u"), json!({"phase": "Running"}), now).ops().len(), 1);
    assert_eq!(reports.due(now), [], "one at a time");
    let settled = reports.settle(&first[0], Answer::Accepted, now, 0.0);
    assert!(settled.batch.is_empty(), "the newer one still waits");
    let second = reports.due(now);
    assert_eq!(second, [patch("u", "Running", 2)]);
    assert_eq!(reports.settle(&second[0], Answer::Accepted, now, 0.0).batch.ops().len(), 1);
    assert!(reports.pods.is_empty());
}

#[test]
fn status_goes_before_the_deletion() {
    let now = Instant::now();
    let mut reports = Reports::default();
    reports.confirm_deleted(pod("u"), now);
    reports.report(pod("u"), json!({"phase": "Succeeded"}), now);
    let jobs = reports.due(now);
    assert_eq!(jobs, [patch("u", "Succeeded", 1)]);
    reports.settle(&jobs[0], Answer::Refused, now, 0.0);
    let jobs = reports.due(now);
    assert_eq!(jobs, [Job::Delete { pod: pod("u") }]);
    let settled = reports.settle(&jobs[0], Answer::Accepted, now, 0.0);
    assert!(settled.pod_is_gone);
    assert_eq!(settled.batch.ops().len(), 1);
}

#[test]
fn answers_decide() {
    let now = Instant::now();
    for (case, answer, gone, left) in [
        ("accepted", Answer::Accepted, false, 0),
        ("gone", Answer::Gone, true, 0),
        ("another pod now", Answer::Refused, false, 0),
        ("no answer", Answer::Later, false, 1),
    ] {
        let mut reports = Reports::default();
        reports.report(pod("u"), json!({}), now);
        let jobs = reports.due(now);
        let settled = reports.settle(&jobs[0], answer, now, 0.0);
        assert_eq!((settled.pod_is_gone, reports.pods.len()), (gone, left), "{case}");
        assert_eq!(settled.batch.is_empty(), left == 1, "{case}: durable until settled");
    }
}

#[test]
fn retries_slow_down_and_a_new_session_hurries() {
    let now = Instant::now();
    let mut reports = Reports::default();
    reports.report(pod("u"), json!({}), now);
    let mut at = now;
    for want in [1, 2, 4, 8, 16, 30, 30] {
        let jobs = reports.due(at);
        assert_eq!(jobs.len(), 1, "{want}");
        reports.settle(&jobs[0], Answer::Later, at, 1.0);
        at += Duration::from_secs(want);
        assert!(reports.due(at - Duration::from_millis(1)).is_empty(), "{want}");
    }
    let jobs = reports.due(at);
    reports.settle(&jobs[0], Answer::Later, at, 1.0);
    reports.wake(at);
    assert_eq!(reports.due(at).len(), 1);
}

#[test]
fn incarnations_are_apart_and_rows_come_back() {
    let now = Instant::now();
    let mut reports = Reports::default();
    let mut batch = reports.confirm_deleted(pod("old"), now);
    batch.append(reports.report(pod("new"), json!({"phase": "Running"}), now));
    let rows: Vec<Row> = batch
        .ops()
        .iter()
        .map(|op| match op {
            crate::store::Op::Put { key, value, .. } => (key.clone(), value.clone()),
            op => panic!("{op:?}"),
        })
        .collect();
    let mut loaded = Reports::default();
    loaded.load(&rows, now);
    loaded.load(&[(b"podstatus/short".to_vec(), b"{}".to_vec())], now);
    assert_eq!(loaded.due(now), [patch("new", "Running", 0), Job::Delete { pod: pod("old") }]);
    assert_eq!(loaded.forget(&pod("old")).ops().len(), 1);
    assert!(loaded.forget(&pod("never")).is_empty());
}

#[test]
fn the_patch_names_the_uid_and_replaces_addresses() {
    let cloud = json!({"metadata": {"uid": "u"}, "status": {
        "phase": "Pending", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIPs": [{"ip": "192.0.2.1"}],
    }});
    for (status, want_ip, want_ips) in [
        (
            json!({"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]}),
            json!("10.0.0.2"),
            json!([{"ip": "10.0.0.2"}]),
        ),
        (json!({"phase": "Running"}), json!(null), json!([])),
    ] {
        let patch: serde_json::Value = serde_json::from_str(&status_patch(&pod("u"), &status)).unwrap();
        assert_eq!(patch["metadata"], json!({"uid": "u"}));
        let merged = crate::kube::patch::strategic("Pod", &cloud, &patch).unwrap();
        let after = &merged["status"];
        assert_eq!((&after["phase"], &after["podIP"]), (&json!("Running"), &want_ip));
        assert_eq!((&after["podIPs"], &after["hostIPs"]), (&want_ips, &json!([])));
    }
}
