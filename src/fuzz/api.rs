//! The Kubernetes API as a whole, over a store in memory. What writes is a dry run, so that an input finds the same objects
//! whatever ran before it.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::kube::now;
use super::{cut, text};
use crate::apiserver::query::{Query, wanted, wants_aggregated_discovery, wants_openapi_v2};
use crate::apiserver::{ApiBody, ApiCore, ApiRequest, ApiSettings, User, paths};
use crate::identity::ServiceAccountKeys;
use crate::store::MemoryStore;

struct Bench {
    core: Arc<ApiCore>,
    runtime: Runtime,
}

thread_local! {
    static BENCH: OnceCell<Bench> = const { OnceCell::new() };
}

fn bench() -> Bench {
    let folder = std::env::temp_dir().join(format!(
        "kubeedge-fuzz-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&folder).expect("a folder");
    let keys = ServiceAccountKeys::load_or_create(&folder.join("sa.key")).expect("a key");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let core = ApiCore::start(ApiSettings {
        store: Arc::new(MemoryStore::new()),
        keys: Arc::new(keys),
        ca_pem: "ca".into(),
        clock: Arc::new(now),
    })
    .expect("an API");
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let bench = Bench { core, runtime };
    for (url, object) in objects() {
        let made = bench.runtime.block_on(bench.core.call(ApiRequest {
            method: Method::POST,
            path: url.into(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::from(object.to_string()),
            user: Some(User::system("fuzz")),
        }));
        assert_eq!(made.status.as_u16(), 201, "{url}");
    }
    bench
}

/// What is there to be read, changed and deleted.
fn objects() -> [(&'static str, Value); 6] {
    let meta = |name: &str| json!({"name": name, "labels": {"app": "web"}});
    [
        ("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": meta("edge-1")})),
        (
            "/api/v1/namespaces/default/pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("web"), "spec": {"containers": [{"name": "c", "image": "i"}]}}),
        ),
        (
            "/api/v1/namespaces/default/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("c"), "data": {"k": "v"}}),
        ),
        (
            "/api/v1/namespaces/default/secrets",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta("s"), "data": {"k": "dg=="}}),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta("r"), "rules": []}),
        ),
        (
            "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicemodels",
            json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": meta("m"),
                   "spec": {"protocol": "modbus", "properties": [{"name": "t", "type": "INT", "accessMode": "ReadOnly"}]}}),
        ),
    ]
}

/// `METHOD /path?query`, lines of headers, an empty line, the body.
pub fn request(bytes: &[u8]) {
    let (head, body) = cut(bytes, b"\n\n");
    let Some(head) = text(head) else { return };
    let mut lines = head.lines();
    let Some((method, url)) = lines.next().and_then(|line| line.split_once(' ')) else { return };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    // A dry run, whatever the input says of it.
    let query: Vec<&str> =
        query.split('&').filter(|part| !part.to_ascii_lowercase().contains("dry")).collect();
    let query =
        if method == Method::GET { query.join("&") } else { [query, vec!["dryRun=All"]].concat().join("&") };
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let request = ApiRequest {
        method,
        path: path.to_owned(),
        query,
        headers,
        body: Bytes::copy_from_slice(body),
        user: Some(User::system("fuzz")),
    };
    BENCH.with(|cell| {
        let bench = cell.get_or_init(bench);
        bench.runtime.block_on(async {
            let response = bench.core.call(request.clone()).await;
            match response.body {
                ApiBody::Full(body) => {
                    let code = response.status.as_u16();
                    assert!(code != 500, "{request:?}: {}", String::from_utf8_lossy(&body));
                    let is_json =
                        response.headers.get("content-type").is_some_and(|kind| kind == "application/json");
                    assert!(!is_json || serde_json::from_slice::<Value>(&body).is_ok());
                }
                // What is there already, as far as it goes without waiting.
                ApiBody::Stream(mut lines) => {
                    for _ in 0..10 {
                        if lines.next().now_or_never().flatten().is_none() {
                            break;
                        }
                    }
                }
            }
        });
    });
}

/// Paths, queries and the headers that choose an answer's form.
pub fn url(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (path, query) = text.split_once('?').unwrap_or((text, text));
    drop(paths::parse(path));
    if let Some(plain) = paths::decode(path) {
        assert!(plain.len() <= path.len());
    }
    if let Ok(query) = Query::parse(query) {
        for kind in &crate::apiserver::kinds::KINDS {
            drop(query.check_fields(kind));
        }
    }
    if let Ok(value) = HeaderValue::from_str(text) {
        let mut headers = HeaderMap::new();
        headers.insert("accept", value);
        drop(wanted(&headers));
        wants_aggregated_discovery(&headers);
        wants_openapi_v2(&headers);
    }
}
