//! The API through [`ApiCore::call`], over a store in memory.

mod access;
mod devices;
mod identity;
mod kinds;
mod lifecycle;
mod model;
mod objects;
mod rbac;
mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ApiBody, ApiCore, ApiRequest, ApiSettings, User};
use crate::identity::ServiceAccountKeys;
use crate::store::{MemoryStore, Store};

/// 2027-01-15T08:00:00Z.
const START_SECS: i64 = 1_800_000_000;

struct Bench {
    core: Arc<ApiCore>,
    store: Arc<MemoryStore>,
    clock: Arc<AtomicI64>,
    dir: tempfile::TempDir,
    user: User,
}

impl Bench {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let clock = Arc::new(AtomicI64::new(START_SECS));
        let dir = tempfile::tempdir().unwrap();
        let core = open(&store, &clock, &dir);
        Self { core, store, clock, dir, user: User::system("test") }
    }

    /// What `kill -9` and a new start leave: what is in the store.
    fn restart(&mut self) {
        self.core = open(&self.store, &self.clock, &self.dir);
    }

    fn pass_secs(&self, secs: i64) {
        self.clock.fetch_add(secs, Ordering::SeqCst);
    }

    fn request(&self, method: Method, url: &str, body: &[u8], headers: &[(&str, &str)]) -> ApiRequest {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        ApiRequest {
            method,
            path: path.into(),
            query: query.into(),
            headers: map,
            body: Bytes::copy_from_slice(body),
            user: Some(self.user.clone()),
        }
    }

    async fn send(&self, request: ApiRequest) -> (u16, Value) {
        let response = self.core.call(request).await;
        let ApiBody::Full(bytes) = response.body else { panic!("a stream") };
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        (response.status.as_u16(), value)
    }

    async fn get(&self, url: &str) -> (u16, Value) {
        self.send(self.request(Method::GET, url, b"", &[])).await
    }

    async fn post(&self, url: &str, body: &Value) -> (u16, Value) {
        self.send(self.request(Method::POST, url, body.to_string().as_bytes(), &[])).await
    }

    async fn put(&self, url: &str, body: &Value) -> (u16, Value) {
        self.send(self.request(Method::PUT, url, body.to_string().as_bytes(), &[])).await
    }

    async fn patch(&self, url: &str, style: &str, body: &Value) -> (u16, Value) {
        let kind = format!("application/{style}+json");
        let headers = [("content-type", kind.as_str())];
        self.send(self.request(Method::PATCH, url, body.to_string().as_bytes(), &headers)).await
    }

    async fn merge(&self, url: &str, body: &Value) -> (u16, Value) {
        self.patch(url, "merge-patch", body).await
    }

    async fn delete(&self, url: &str, options: &Value) -> (u16, Value) {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send(self.request(Method::DELETE, url, body.as_bytes(), &[])).await
    }

    /// Expects 2xx.
    async fn made(&self, url: &str, body: &Value) -> Value {
        let (code, value) = self.post(url, body).await;
        assert_eq!(code, 201, "{url}: {value}");
        value
    }

    async fn watch(&self, url: &str) -> Watching {
        let response = self.core.call(self.request(Method::GET, url, b"", &[])).await;
        match response.body {
            ApiBody::Stream(lines) => Watching { lines, buffer: Vec::new() },
            ApiBody::Full(bytes) => panic!("{url}: {}", String::from_utf8_lossy(&bytes)),
        }
    }
}

fn open(store: &Arc<MemoryStore>, clock: &Arc<AtomicI64>, dir: &tempfile::TempDir) -> Arc<ApiCore> {
    let store: Arc<dyn Store> = store.clone();
    let clock = Arc::clone(clock);
    ApiCore::start(ApiSettings {
        store,
        keys: Arc::new(ServiceAccountKeys::load_or_create(&dir.path().join("sa.key")).unwrap()),
        ca_pem: "the ca".into(),
        clock: Arc::new(move || Timestamp::from_second(clock.load(Ordering::SeqCst)).unwrap()),
    })
    .unwrap()
}

struct Watching {
    lines: BoxStream<'static, Bytes>,
    buffer: Vec<Value>,
}

impl Watching {
    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        while self.buffer.is_empty() {
            let bytes = self.lines.next().await?;
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            self.buffer = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        }
        Some(self.buffer.remove(0))
    }

    /// `ADDED name`.
    async fn word(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

fn configmap(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox:1"}]},
    })
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}
