//! A watch against an API that answers as it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use ::kube::client::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};

use super::*;

type Asked = Arc<Mutex<Vec<String>>>;

/// Each request takes the next answer: status and body. The queries are noted.
fn api(answers: Vec<(u16, Value)>) -> (Client, Asked) {
    let asked = Asked::default();
    let (noted, answers) = (Arc::clone(&asked), Arc::new(Mutex::new(VecDeque::from(answers))));
    let service = tower::service_fn(move |request: Request<Body>| {
        noted.lock().unwrap().push(request.uri().query().unwrap_or_default().to_owned());
        let (status, body) = answers.lock().unwrap().pop_front().unwrap_or((500, failure(500)));
        let answer = Response::builder().status(status).body(Full::new(Bytes::from(format!("{body}\n"))));
        std::future::ready(Ok::<_, Infallible>(answer.unwrap()))
    });
    (Client::new(service, "default"), asked)
}

fn failure(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "code": code})
}

fn map(name: &str, version: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "resourceVersion": version.to_string()}})
}

fn list(version: u32, items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": version.to_string()},
        "items": items})
}

fn event(word: &str, object: &Value) -> Value {
    json!({"type": word, "object": object})
}

/// `L` listing, `+name`, `-name`, `.` listed, `!` failed.
async fn heard(client: &Client, want: usize) -> Vec<String> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let word = |event: Result<Event, watcher::Error>| match event {
        Ok(Event::Listing) => "L".to_owned(),
        Ok(Event::Applied(object)) => format!("+{}", name(&object)),
        Ok(Event::Removed(object)) => format!("-{}", name(&object)),
        Ok(Event::Listed) => ".".to_owned(),
        Err(_) => "!".to_owned(),
    };
    watch_in(client, "ns", "v1", "ConfigMap", "configmaps").map(word).take(want).collect().await
}

#[tokio::test(start_paused = true)]
async fn where_only_a_list_helps_it_lists() {
    for code in [410, 504] {
        for in_an_event in [true, false] {
            let gone = match in_an_event {
                true if code == 410 => (200, event("ERROR", &failure(code))),
                true => continue,
                false => (code, failure(code)),
            };
            let (client, asked) = api(vec![
                (200, list(7, &[map("a", 5)])),
                gone,
                (200, list(90, &[map("b", 89)])),
                (200, event("DELETED", &map("b", 91))),
            ]);
            let all = heard(&client, 8).await;
            assert_eq!(all, ["L", "+a", ".", "!", "L", "+b", ".", "-b"], "{code} in an event: {in_an_event}");
            let asked = asked.lock().unwrap();
            assert!(asked[1].contains("watch=true") && asked[1].contains("resourceVersion=7"), "{asked:?}");
            assert!(asked[1].contains("allowWatchBookmarks=true") && asked[1].contains("timeoutSeconds=120"));
            assert!(!asked[2].contains("watch=true"), "{asked:?}");
            assert!(asked[3].contains("resourceVersion=90"), "{asked:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_waited_for_and_the_watch_goes_on_from_where_it_was() {
    let (client, asked) = api(vec![
        (503, failure(503)),
        (200, list(7, &[])),
        (429, failure(429)),
        (401, failure(401)),
        (500, failure(500)),
        (200, event("ADDED", &map("a", 8))), // and the server ends the watch
        (200, event("BOOKMARK", &map("", 30))),
        (200, event("MODIFIED", &map("a", 31))),
    ]);
    assert_eq!(heard(&client, 9).await, ["L", "!", "L", ".", "!", "!", "!", "+a", "+a"]);
    let asked = asked.lock().unwrap();
    for (at, version) in [(2, 7), (3, 7), (4, 7), (5, 7), (6, 8), (7, 30)] {
        assert!(asked[at].contains(&format!("resourceVersion={version}")), "{at}: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_followed_and_a_page_that_is_too_old_begins_the_list_again() {
    let page = |items: &[Value]| {
        let mut page = list(7, items);
        page["metadata"]["continue"] = "next".into();
        page
    };
    let (client, asked) = api(vec![
        (200, page(&[map("a", 5)])),
        (410, failure(410)),
        (200, page(&[map("a", 5)])),
        (200, list(7, &[map("b", 6)])),
    ]);
    assert_eq!(heard(&client, 7).await, ["L", "+a", "!", "L", "+a", "+b", "."]);
    assert!(asked.lock().unwrap()[3].contains("continue=next"));
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_some_seconds_and_no_further() {
    let (client, _) = api(vec![]);
    let began = tokio::time::Instant::now();
    let all = heard(&client, 40).await;
    assert_eq!(all.iter().filter(|word| *word == "!").count(), 20);
    let took = began.elapsed();
    assert!(took > LAST_PAUSE * 14 && took < LAST_PAUSE.mul_f64(1.5) * 20, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_consoles_list_comes_in_small_pages() {
    let (client, asked) = api(vec![(200, list(7, &[map("a", 5)]))]);
    let told = watch_all(&client, "v1", "ConfigMap", "configmaps").take(3).count().await;
    assert_eq!(told, 3);
    assert!(asked.lock().unwrap()[0].contains("limit=100"), "{asked:?}");
}
