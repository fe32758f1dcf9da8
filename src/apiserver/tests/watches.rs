//! Watches: from where, what, and when they end.

use super::*;
use crate::apiserver::registry::{HISTORY_CHANGES, HISTORY_SECS};

#[tokio::test]
async fn from_a_list_onwards() {
    let bench = Bench::new();
    bench.made(MAPS, &configmap("old")).await;
    let (_, list) = bench.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    bench.made(MAPS, &configmap("a")).await;
    bench.merge(&format!("{MAPS}/a"), &json!({"data": {"a": "2"}})).await;
    let (_, gone) = bench.delete(&format!("{MAPS}/a"), &Value::Null).await;
    assert_eq!(gone["status"], "Success");
    let mut watch =
        bench.watch(&format!("{MAPS}?watch=true&resourceVersion={version}&timeoutSeconds=1")).await;
    assert_eq!(watch.word().await, "ADDED a");
    assert_eq!(watch.word().await, "MODIFIED a");
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(deleted["object"]["data"]["a"], "2");
    let last: u64 = deleted["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(last > version.parse().unwrap());
    assert!(watch.next().await.is_none(), "the timeout ends it");
}

#[tokio::test]
async fn without_a_version_all_objects_come_first() {
    let bench = Bench::new();
    bench.made(MAPS, &configmap("a")).await;
    let url = format!("{MAPS}?watch=true&labelSelector=!x&fieldSelector=metadata.name%3Da");
    let mut watch = bench.watch(&url).await;
    assert_eq!(watch.word().await, "ADDED a");
    bench.made(MAPS, &configmap("b")).await;
    // Leaving the selection looks like a deletion, coming back like a creation.
    bench.merge(&format!("{MAPS}/a"), &json!({"metadata": {"labels": {"x": "1"}}})).await;
    let left = watch.next().await.unwrap();
    assert_eq!((left["type"].as_str(), left["object"]["metadata"].get("labels")), (Some("DELETED"), None));
    let (_, now) = bench.get(&format!("{MAPS}/a")).await;
    assert_eq!(left["object"]["metadata"]["resourceVersion"], now["metadata"]["resourceVersion"]);
    bench.merge(&format!("{MAPS}/a"), &json!({"metadata": {"labels": {"x": null}}})).await;
    assert_eq!(watch.word().await, "ADDED a");
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let bench = Bench::new();
    bench.made(MAPS, &configmap("a")).await;
    let url = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3Da"
    );
    let mut watch = bench.watch(&url).await;
    assert_eq!(watch.word().await, "ADDED a");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let (_, list) = bench.get(MAPS).await;
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], list["metadata"]["resourceVersion"]);
}

/// A watcher of something quiet learns how far it is, or it would have to list again after an hour.
#[tokio::test]
async fn quiet_watches_get_bookmarks_if_they_ask() {
    let bench = Bench::new();
    let (_, list) = bench.get(MAPS).await;
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let url = |more: &str| {
        format!(
            "{MAPS}?watch=true&resourceVersion={from}&timeoutSeconds=200&fieldSelector=metadata.name%3Dnone{more}"
        )
    };
    let mut asked = bench.watch(&url("&allowWatchBookmarks=true")).await;
    let mut silent = bench.watch(&url("")).await;
    for name in ["a", "b", "c"] {
        let made = bench.made(MAPS, &configmap(name)).await;
        tokio::time::pause();
        let mark = asked.next().await.unwrap();
        tokio::time::resume();
        assert_eq!(
            (mark["type"].as_str(), mark["object"]["kind"].as_str()),
            (Some("BOOKMARK"), Some("ConfigMap"))
        );
        assert_eq!(mark["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
        assert_eq!(mark["object"]["metadata"].get("annotations"), None);
    }
    tokio::time::pause();
    assert_eq!(silent.next().await, None, "nothing until its timeout");
}

#[tokio::test]
async fn history_is_bounded_and_says_so() {
    let bench = Bench::new();
    let made = bench.made(MAPS, &configmap("a")).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut slow = bench.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    for turn in 0..=HISTORY_CHANGES {
        let (code, _) = bench.merge(&format!("{MAPS}/a"), &json!({"data": {"a": turn.to_string()}})).await;
        assert_eq!(code, 200);
    }
    // A client that did not keep up is told so and cut off.
    let event = slow.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    assert!(slow.next().await.is_none());
    let (code, value) = bench.get(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!((code, value["reason"].as_str()), (410, Some("Expired")));
    let (code, _) = bench.get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!(code, 410);
}

/// What changes seldom does not pile up: five minutes are kept, and only of a kind that goes on changing.
#[tokio::test]
async fn history_is_forgotten_by_age() {
    let bench = Bench::new();
    let made = bench.made(MAPS, &configmap("a")).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let change = async |text: &str| {
        let (code, value) = bench.merge(&format!("{MAPS}/a"), &json!({"data": {"a": text}})).await;
        assert_eq!(code, 200);
        value["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    };
    let first = change("first").await;
    bench.pass_secs(HISTORY_SECS * 10);
    // Nothing has changed since: nothing was lost either.
    let mut watch = bench.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["data"]["a"], "first");
    let second = change("second").await;
    assert_eq!(watch.next().await.unwrap()["object"]["data"]["a"], "second", "who listens misses nothing");
    let (code, value) = bench.get(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!((code, value["reason"].as_str()), (410, Some("Expired")));
    bench.pass_secs(HISTORY_SECS);
    change("third").await;
    for (from, next) in [(first, "second"), (second, "third")] {
        let mut watch = bench.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
        assert_eq!(watch.next().await.unwrap()["object"]["data"]["a"], next);
    }
}

#[tokio::test]
async fn tables_in_watches() {
    let bench = Bench::new();
    bench.made(PODS, &pod("p")).await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let response =
        bench.core.call(bench.request(Method::GET, &format!("{PODS}?watch=true"), b"", &accept)).await;
    let ApiBody::Stream(lines) = response.body else { panic!("no stream") };
    let mut watch = Watching { lines, buffer: Vec::new() };
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["kind"], "Table");
    assert_eq!(event["object"]["rows"][0]["object"]["metadata"]["name"], "p");
    assert!(!event["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    bench.pass_secs(90);
    bench.merge(&format!("{PODS}/p"), &json!({"metadata": {"labels": {"a": "1"}}})).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["rows"][0]["cells"][4], "90s", "the age when the row was sent");
}

#[tokio::test]
async fn a_failed_commit_is_not_seen() {
    let bench = Bench::new();
    bench.made(MAPS, &configmap("a")).await;
    let (_, list) = bench.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    bench.store.set_faults(crate::store::Faults { fail_writes: 1, ..Default::default() });
    let (code, value) = bench.merge(&format!("{MAPS}/a"), &json!({"data": {"a": "lost"}})).await;
    assert_eq!((code, value["reason"].as_str()), (500, Some("InternalError")));
    assert_eq!(bench.get(&format!("{MAPS}/a")).await.1["data"]["a"], "1");
    for (page, want) in [("/healthz", 500), ("/readyz", 500), ("/livez", 200)] {
        assert_eq!(bench.get(page).await.0, want, "{page} after a lost write");
    }
    let (code, _) = bench.merge(&format!("{MAPS}/a"), &json!({"data": {"a": "kept"}})).await;
    assert_eq!(code, 200);
    assert_eq!(bench.get("/readyz").await.0, 200);
    let mut watch = bench.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["data"]["a"], "kept");
}

/// A sync that failed may leave its rows in the log.
#[tokio::test]
async fn what_was_refused_is_not_there_after_a_restart() {
    let mut bench = Bench::new();
    for name in ["edited", "deleted"] {
        bench.made(MAPS, &configmap(name)).await;
    }
    bench.store.set_faults(crate::store::Faults { fail_writes: 3, keep_failed: true, ..Default::default() });
    assert_eq!(bench.post(MAPS, &configmap("refused")).await.0, 500);
    assert_eq!(bench.merge(&format!("{MAPS}/edited"), &json!({"data": {"a": "refused"}})).await.0, 500);
    assert_eq!(bench.delete(&format!("{MAPS}/deleted"), &Value::Null).await.0, 500);
    bench.made(MAPS, &configmap("after")).await;
    let before = bench.get(MAPS).await.1["items"].clone();
    bench.restart();
    let (_, list) = bench.get(MAPS).await;
    assert_eq!(list["items"], before);
    assert_eq!(names(&list), ["after", "deleted", "edited", "kube-root-ca.crt"]);
    assert_eq!(bench.get(&format!("{MAPS}/edited")).await.1["data"]["a"], "1");
}

/// While a disk stays full, what is in doubt is bounded.
#[tokio::test]
async fn after_many_refused_writes_the_store_is_well_again() {
    let bench = Bench::new();
    bench.store.set_faults(crate::store::Faults { fail_writes: u32::MAX, ..Default::default() });
    for n in 0..crate::apiserver::registry::MAX_STAGED + 10 {
        assert_eq!(bench.post(MAPS, &configmap(&format!("refused-{n}"))).await.0, 500);
    }
    bench.store.set_faults(crate::store::Faults::default());
    bench.made(MAPS, &configmap("after")).await;
    assert_eq!(names(&bench.get(MAPS).await.1), ["after", "kube-root-ca.crt"]);
}

#[tokio::test]
async fn data_of_yesterday_gives_out_new_versions() {
    let mut bench = Bench::new();
    bench.made(MAPS, &configmap("a")).await;
    let number =
        |value: &Value| value["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let yesterday = bench.get(MAPS).await.1;
    bench.pass_secs(86_400);
    bench.restart();
    let (_, list) = bench.get(MAPS).await;
    assert!(
        number(&list) >= number(&yesterday) + 86_399 * 1_000_000,
        "{} then {}",
        number(&yesterday),
        number(&list)
    );
    assert_eq!(list["items"], yesterday["items"], "what is there keeps its version");
    // A place between the two is none: who has it lists again.
    let version = number(&yesterday) + 1_000;
    let (code, _) = bench.get(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(code, 410);
    assert!(number(&bench.made(MAPS, &configmap("b")).await) > number(&list));
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_lose_nothing() {
    let mut bench = Bench::new();
    bench.store.set_faults(crate::store::Faults {
        write_delay: std::time::Duration::from_millis(5),
        ..Default::default()
    });
    let before = bench.store.writes();
    let bodies: Vec<Value> = (0..200).map(|index| configmap(&format!("c{index}"))).collect();
    let all = bodies.iter().map(|body| bench.post(MAPS, body));
    let answers = futures_util::future::join_all(all).await;
    assert!(answers.iter().all(|(code, _)| *code == 201));
    assert!(bench.store.writes() - before < 100, "{} commits", bench.store.writes() - before);
    bench.restart();
    let (_, list) = bench.get(MAPS).await;
    assert_eq!(names(&list).len(), 201);
}

/// HTTP takes each piece whole: a client that does not read costs one object more than the piece, not all of them.
#[tokio::test]
async fn large_objects_come_in_pieces() {
    let bench = Bench::new();
    let large = |name: &str| {
        let mut map = configmap(name);
        map["data"]["a"] = "x".repeat(100 << 10).into();
        map
    };
    let (_, list) = bench.get(MAPS).await;
    let from = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for name in ["a", "b", "c"] {
        bench.made(MAPS, &large(name)).await;
    }
    for url in [format!("{MAPS}?watch=true"), format!("{MAPS}?watch=true&resourceVersion={from}")] {
        let mut watch = bench.watch(&url).await;
        let mut sizes = Vec::new();
        let mut objects = 0;
        while objects < 3 {
            let piece = watch.lines.next().await.unwrap();
            objects += piece.split(|byte| *byte == b'\n').filter(|line| line.len() > 100 << 10).count();
            sizes.push(piece.len());
        }
        assert!(sizes.iter().all(|size| *size < 200 << 10), "{url}: {sizes:?}");
    }
}
