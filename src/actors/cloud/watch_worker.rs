//! How controllers follow the objects of the Kubernetes API.

use std::future::ready;

use ::kube::Client;
use ::kube::api::{Api, ApiResource, DynamicObject, ListParams};
use ::kube::runtime::{WatchStreamExt, watcher};
use futures_util::{Stream, StreamExt};
use metrics::Counter;
use serde_json::Value;

/// Nodes of KubeEdge carry this label (protocol section 6.1); others are not followed.
const EDGE_NODES: &str = "node-role.kubernetes.io/edge";

/// One event of a watch. A list is `Listing`, an `Applied` for each object, `Listed`.
#[derive(Debug, Clone)]
pub enum Event {
    Listing,
    Applied(Value),
    Removed(Value),
    Listed,
}

/// All objects of a kind; of nodes those of KubeEdge. Lists again and pauses by itself when it
/// breaks.
pub fn watch(
    client: &Client,
    api_version: &str,
    kind: &str,
    plural: &str,
) -> impl Stream<Item = Result<Event, watcher::Error>> + use<> {
    let resource = resource(api_version, kind, plural);
    let config = match plural {
        "nodes" => watcher::Config::default().labels(EDGE_NODES),
        _ => watcher::Config::default(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    watcher(api, config).default_backoff().filter_map(|event| ready(event.map(read).transpose()))
}

/// All objects of a kind, nodes of others too. Does not pause by itself when it breaks: whoever polls it
/// again does.
pub fn watch_all(
    client: &Client,
    api_version: &str,
    kind: &str,
    plural: &str,
) -> impl Stream<Item = Result<Event, watcher::Error>> + use<> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(api_version, kind, plural));
    watcher(api, watcher::Config::default()).filter_map(|event| ready(event.map(read).transpose()))
}

/// Asks for one object of a kind: may they be listed, and is the API there?
///
/// # Errors
/// What the API answers, or that it does not.
pub async fn may_list(
    client: &Client,
    api_version: &str,
    kind: &str,
    plural: &str,
) -> Result<(), ::kube::Error> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(api_version, kind, plural));
    api.list(&ListParams::default().limit(1)).await.map(drop)
}

/// The objects of a kind in one namespace, in the same way.
pub fn watch_in(
    client: &Client,
    namespace: &str,
    api_version: &str,
    kind: &str,
    plural: &str,
) -> impl Stream<Item = Result<Event, watcher::Error>> + use<> {
    let resource = resource(api_version, kind, plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    events.filter_map(|event| ready(event.map(read).transpose()))
}

/// The event, if one came. Errors of a watch are counted and logged: it tries again by itself.
pub fn arrived(plural: &str, event: Result<Event, watcher::Error>, errors: &Counter) -> Option<Event> {
    event
        .inspect_err(|err| {
            errors.increment(1);
            tracing::warn!(kind = plural, error = %err, "watch failed, trying again");
        })
        .ok()
}

fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

/// `None` for an object that is not JSON; what can be read comes all the same.
fn read(event: watcher::Event<DynamicObject>) -> Option<Event> {
    let value = |object: DynamicObject| {
        let value = serde_json::to_value(object);
        value.inspect_err(|err| tracing::warn!(error = %err, "object is not JSON")).ok()
    };
    match event {
        watcher::Event::Init => Some(Event::Listing),
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            value(object).map(Event::Applied)
        }
        watcher::Event::Delete(object) => value(object).map(Event::Removed),
        watcher::Event::InitDone => Some(Event::Listed),
    }
}
