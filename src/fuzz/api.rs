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
use super::{cut, parts, text};
use crate::apiserver::kinds::KINDS;
use crate::apiserver::query::{Query, wanted, wants_aggregated_discovery, wants_openapi_v2};
use crate::apiserver::{ApiBody, ApiCore, ApiRequest, ApiSettings, User, paths};
use crate::identity::ServiceAccountKeys;
use crate::store::{Batch, MemoryStore, Store, StoreError, Table};

struct Bench {
    store: Arc<MemoryStore>,
    keys: Arc<ServiceAccountKeys>,
    core: Arc<ApiCore>,
    runtime: Runtime,
}

thread_local! {
    static BENCH: OnceCell<Bench> = const { OnceCell::new() };
}

fn start(store: &Arc<MemoryStore>, keys: &Arc<ServiceAccountKeys>) -> Result<Arc<ApiCore>, StoreError> {
    ApiCore::start(ApiSettings {
        store: Arc::clone(store) as Arc<dyn Store>,
        keys: Arc::clone(keys),
        ca_pem: "ca".into(),
        clock: Arc::new(now),
    })
}

impl Bench {
    fn new() -> Self {
        let thread = std::thread::current().id();
        let folder = std::env::temp_dir().join(format!("kubeedge-fuzz-{}-{thread:?}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let keys = Arc::new(ServiceAccountKeys::load_or_create(&folder.join("sa.key")).expect("a key"));
        std::fs::remove_dir_all(&folder).expect("the folder goes");
        let store = Arc::new(MemoryStore::new());
        let core = start(&store, &keys).expect("an API");
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        let bench = Self { store, keys, core, runtime };
        for (url, object) in objects() {
            let request = ApiRequest {
                method: Method::POST,
                path: url.into(),
                query: String::new(),
                headers: HeaderMap::new(),
                body: Bytes::from(object.to_string()),
                user: Some(User::system("fuzz")),
            };
            assert_eq!(bench.runtime.block_on(bench.core.call(request)).status.as_u16(), 201, "{url}");
        }
        bench
    }

    /// The answer's body; of a watch what comes without waiting.
    fn call(&self, core: &Arc<ApiCore>, request: ApiRequest) -> Bytes {
        let shown = format!("{} {}?{}", request.method, request.path, request.query);
        self.runtime.block_on(async {
            let response = core.call(request).await;
            match response.body {
                ApiBody::Full(body) => {
                    assert!(response.status.as_u16() != 500, "{shown}: {}", String::from_utf8_lossy(&body));
                    let kind = response.headers.get("content-type");
                    let is_json = kind.is_some_and(|kind| kind == "application/json");
                    assert!(!is_json || serde_json::from_slice::<Value>(&body).is_ok(), "{shown}");
                    body
                }
                ApiBody::Stream(mut lines) => {
                    let mut all = Vec::new();
                    while all.len() < 100_000 {
                        let Some(Some(more)) = lines.next().now_or_never() else { break };
                        all.extend_from_slice(&more);
                    }
                    all.into()
                }
            }
        })
    }
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
fn read(bytes: &[u8], dry: bool) -> Option<ApiRequest> {
    let (head, body) = cut(bytes, b"\n\n");
    let mut lines = text(head)?.lines();
    let (method, url) = lines.next()?.split_once(' ')?;
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let query = if dry && method != Method::GET {
        // Whatever the input says of it.
        let parts = query.split('&').filter(|part| !part.to_ascii_lowercase().contains("dry"));
        parts.chain(["dryRun=All"]).collect::<Vec<&str>>().join("&")
    } else {
        query.to_owned()
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    let (path, body) = (path.to_owned(), Bytes::copy_from_slice(body));
    Some(ApiRequest { method, path, query, headers, body, user: Some(User::system("fuzz")) })
}

/// One request.
pub fn request(bytes: &[u8]) {
    let Some(request) = read(bytes, true) else { return };
    BENCH.with(|cell| {
        let bench = cell.get_or_init(Bench::new);
        drop(bench.call(&bench.core, request));
    });
}

/// Requests that do write, each after a zero byte; `r`, key, newline, value puts a row on the disk before. What is there at the
/// end is there after a restart.
pub fn store(bytes: &[u8]) {
    BENCH.with(|cell| {
        let bench = cell.get_or_init(Bench::new);
        let store = Arc::new(MemoryStore::new());
        for table in [Table::Objects, Table::Local] {
            for (key, value) in bench.store.scan(table, b"", None, 1000).expect("rows") {
                store.write(&[Batch::new().put(table, key, value)]).expect("a row");
            }
        }
        for row in parts(bytes, 12).filter_map(|part| part.strip_prefix(b"r")) {
            let (key, value) = cut(row, b"\n");
            let table = if key.starts_with(b"api/o/") { Table::Objects } else { Table::Local };
            store.write(&[Batch::new().put(table, key, value)]).expect("a row");
        }
        let Ok(core) = start(&store, &bench.keys) else { return };
        for request in parts(bytes, 12).filter_map(|part| read(part, false)) {
            drop(bench.call(&core, request));
        }
        let before = everything(bench, &core);
        core.close();
        let again = start(&store, &bench.keys).expect("what was written is read");
        assert_eq!(everything(bench, &again), before);
        again.close();
    });
}

/// All lists of what a start neither adds nor mends.
fn everything(bench: &Bench, core: &Arc<ApiCore>) -> Vec<Value> {
    let plain = ["devicemodels", "devices", "devicestatuses", "leases", "nodes", "pods", "secrets"];
    let stored = KINDS.iter().filter(|kind| plain.contains(&kind.plural));
    let lists = stored.map(|kind| {
        let root =
            if kind.group.is_empty() { "/api/v1".into() } else { format!("/apis/{}", kind.api_version()) };
        let list = read(format!("GET {root}/{}\n\n", kind.plural).as_bytes(), false).expect("a request");
        let body: Value = serde_json::from_slice(&bench.call(core, list)).expect("a list");
        body.get("items").cloned().unwrap_or_default()
    });
    lists.collect()
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
        for kind in &KINDS {
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
