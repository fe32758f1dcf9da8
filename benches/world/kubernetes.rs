//! The programs under measurement and the watches that see them.

use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;

use super::harness::cluster::{Cloud, Edge};
use super::harness::process::PATIENCE;
use super::harness::process::http;

/// Settings of a user's edge where the tests have shorter ones.
pub const EDGE_SETTINGS: &[&str] = &["modules.edgeHub.heartbeat=15"];

/// A client of the cloud's API with the administrator's kubeconfig.
pub async fn client(cloud: &Cloud) -> Client {
    let file = kube::config::Kubeconfig::read_from(cloud.dir.join("admin.conf")).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Changes of one kind from now on.
pub struct Watch<K> {
    events: std::pin::Pin<Box<dyn futures_util::Stream<Item = kube::Result<WatchEvent<K>>>>>,
}

impl<K> Watch<K>
where
    K: Clone + std::fmt::Debug + DeserializeOwned + 'static,
{
    pub async fn open(api: &Api<K>) -> Self {
        let version = api.list(&Default::default()).await.unwrap().metadata.resource_version.unwrap();
        let events = api.watch(&WatchParams::default().timeout(280), &version).await.unwrap();
        Self { events: events.boxed_local() }
    }

    /// Waits for an object that `wanted` takes; `true` says that it was deleted.
    pub async fn until(&mut self, mut wanted: impl FnMut(&K, bool) -> bool) {
        let seen = async {
            loop {
                let found = match self.events.next().await.expect("the watch goes on").unwrap() {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => wanted(&object, false),
                    WatchEvent::Deleted(object) => wanted(&object, true),
                    WatchEvent::Bookmark(_) => false,
                    WatchEvent::Error(err) => panic!("{err:?}"),
                };
                if found {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("seen in the API in time");
    }
}

pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Seconds from `begun` until a connection is taken, and until `/readyz` says yes.
pub fn watch_start(begun: Instant, port: u16, monitor: &str) -> JoinHandle<(f64, f64)> {
    let monitor = monitor.to_owned();
    let look = Duration::from_millis(2);
    std::thread::spawn(move || {
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "nothing listens on port {port}");
            std::thread::sleep(look);
        }
        let listening = begun.elapsed().as_secs_f64();
        while !matches!(http("GET", &monitor, "/readyz", &[]), Ok((200, _))) {
            assert!(begun.elapsed() < PATIENCE, "{monitor} is not ready");
            std::thread::sleep(look);
        }
        (listening, begun.elapsed().as_secs_f64())
    })
}

/// Kills cloudcore and starts it again: seconds to listening and to ready.
pub fn restart_cloud(cloud: &mut Cloud) -> (f64, f64) {
    cloud.process.kill9();
    let seen = watch_start(Instant::now(), cloud.hub_port, &cloud.monitor);
    cloud.restart(&[]);
    seen.join().unwrap()
}

/// Starts a node that never was, with a token: seconds to node Ready.
pub async fn first_join(
    cloud: &Cloud,
    client: &Client,
    dir: &Path,
    name: &str,
    socket: &Path,
    settings: &[&str],
) -> (Edge, f64) {
    let token = cloud.token();
    let mut nodes = Watch::open(&Api::<Node>::all(client.clone())).await;
    let begun = Instant::now();
    let edge = Edge::start(cloud, dir, name, socket, &token, settings);
    nodes.until(|node, _| node.metadata.name.as_deref() == Some(name) && is_ready(node)).await;
    (edge, begun.elapsed().as_secs_f64())
}

/// Kills edgecore and starts it again: seconds until it heartbeats (its Node never stopped being
/// Ready in between, and an unchanged status is not posted again).
pub async fn warm_restart(client: &Client, edge: &mut Edge, name: &str) -> f64 {
    edge.process.kill9();
    let (begun, since) = (Instant::now(), jiff::Timestamp::now());
    edge.restart(EDGE_SETTINGS);
    heartbeat_after(client, name, since).await;
    begun.elapsed().as_secs_f64()
}

/// Waits for a renewal of the node's lease after `since`; the API may be away meanwhile.
pub async fn heartbeat_after(client: &Client, node: &str, since: jiff::Timestamp) {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    let renewed = async {
        loop {
            if let Ok(lease) = leases.get(node).await
                && let Some(time) = lease.spec.and_then(|spec| spec.renew_time)
                && time.0 > since
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("the node heartbeats in time");
}
