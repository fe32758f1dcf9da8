//! A Kubernetes API for tests of actors: answers lists, keeps watches open and silent, accepts
//! every write and hands it to the test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::kube::Client;
use ::kube::client::Body;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A write: method, path, body.
pub type Write = (Method, String, Value);

pub struct FakeApi {
    writes: mpsc::Receiver<Write>,
}

impl FakeApi {
    /// `objects` by path of their collection, such as `/api/v1/pods`.
    pub fn start(objects: &[(&str, Value)]) -> (Client, Self) {
        let lists: BTreeMap<String, Value> =
            objects.iter().map(|(path, items)| ((*path).to_owned(), items.clone())).collect();
        let lists = Arc::new(lists);
        let (sender, writes) = mpsc::channel(64);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (lists, sender) = (Arc::clone(&lists), sender.clone());
            async move { Ok::<_, Infallible>(answer(&lists, &sender, request).await) }
        });
        (Client::new(service, "default"), Self { writes })
    }

    /// The next write whose path ends so. Others before it are dropped.
    pub async fn write(&mut self, path_end: &str) -> Write {
        let search = async {
            loop {
                let write = self.writes.recv().await.expect("the client lives");
                if write.1.ends_with(path_end) {
                    return write;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), search).await.expect(path_end)
    }
}

async fn answer(
    lists: &BTreeMap<String, Value>,
    sender: &mpsc::Sender<Write>,
    request: Request<Body>,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default());
    if query.contains("watch=true") {
        let silent = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, Infallible>>();
        return Response::new(StreamBody::new(silent).boxed_unsync());
    }
    let document = if parts.method == Method::GET {
        let items = lists.get(&path).cloned().unwrap_or_else(|| json!([]));
        match lists
            .iter()
            .find_map(|(list, items)| Some(items.get(0)?).filter(|_| path.starts_with(&format!("{list}/"))))
        {
            Some(object) => object.clone(),
            None => {
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
            }
        }
    } else {
        let bytes = body.collect().await.expect("a body").to_bytes();
        let document: Value = serde_json::from_slice(&bytes).expect("JSON");
        sender.send((parts.method, path, document.clone())).await.expect("the test listens");
        let mut stored = json!({"metadata": {"name": "stored"}});
        crate::kube::patch::merge(&mut stored, &document);
        stored
    };
    Response::new(Full::new(Bytes::from(document.to_string())).boxed_unsync())
}
