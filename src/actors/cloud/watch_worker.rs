//! How controllers follow the objects of the Kubernetes API.

use std::future::ready;
use std::time::{Duration, Instant};

use ::kube::Client;
use ::kube::api::{Api, ApiResource, DynamicObject, ListParams};
use ::kube::runtime::watcher::{self, watcher};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use metrics::Counter;
use serde_json::Value;

use crate::supervise::{doubled, spread};
use crate::telemetry::logging::with_causes;

/// Nodes of KubeEdge carry this label (protocol section 6.1); others are not followed.
const EDGE_NODES: &str = "node-role.kubernetes.io/edge";

/// Seconds after which a watch is opened anew, from where it was: one that the server forgot is deaf no longer.
pub const LIFE_SECS: u32 = 120;
/// Pauses after failures in a row. An API that is back is heard again within the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(8);
/// After so much quiet a failure is the first one.
const QUIET: Duration = Duration::from_secs(60);

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
        "nodes" => config().labels(EDGE_NODES),
        _ => config(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    follow_with(api, config).filter_map(|event| ready(event.map(read).transpose()))
}

/// The events of a watch that lasts. It pauses after a failure, and lists again where only that helps.
pub fn follow(api: Api<DynamicObject>) -> impl Stream<Item = Seen> + use<> {
    follow_with(api, config())
}

/// What kube's watcher tells.
pub type Seen = Result<watcher::Event<DynamicObject>, watcher::Error>;

fn config() -> watcher::Config {
    watcher::Config::default().timeout(LIFE_SECS)
}

struct Following {
    api: Api<DynamicObject>,
    config: watcher::Config,
    watch: Option<BoxStream<'static, Seen>>,
    failures: u32,
    failed_at: Option<Instant>,
    /// Before the watch is polled again.
    pause: Option<Duration>,
}

fn follow_with(api: Api<DynamicObject>, config: watcher::Config) -> impl Stream<Item = Seen> + use<> {
    let following = Following { api, config, watch: None, failures: 0, failed_at: None, pause: None };
    stream::unfold(following, async |mut following| Some((following.next().await, following)))
}

impl Following {
    async fn next(&mut self) -> Seen {
        loop {
            if let Some(pause) = self.pause.take() {
                tokio::time::sleep(pause).await;
            }
            let open = || watcher(self.api.clone(), self.config.clone()).boxed();
            match self.watch.get_or_insert_with(open).next().await {
                Some(Ok(event)) => {
                    if !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_)) {
                        self.failures = 0;
                    }
                    return Ok(event);
                }
                Some(Err(err)) => {
                    self.failed(&err);
                    return Err(err);
                }
                None => self.watch = None,
            }
        }
    }

    fn failed(&mut self, err: &watcher::Error) {
        if self.failed_at.is_some_and(|at| at.elapsed() > QUIET) {
            self.failures = 0;
        }
        self.failed_at = Some(Instant::now());
        self.pause = Some(spread(doubled(FIRST_PAUSE, self.failures, LAST_PAUSE), fastrand::f64()));
        self.failures = self.failures.saturating_add(1);
        if needs_list(err) {
            self.watch = None;
        }
    }
}

/// The version a watch would go on from is no use: too old for the server's history (410), or from a future that the
/// server has lost, as after a restored backup (504). kube's watcher lists again when an event says so, but asks for
/// ever when the answer to its request does.
#[must_use]
pub fn needs_list(err: &watcher::Error) -> bool {
    matches!(err, watcher::Error::WatchStartFailed(::kube::Error::Api(status)) if matches!(status.code, 410 | 504))
}

/// Objects that [`watch_all`] asks for at once: every console lists all Events, and 500 of them are 2 MB of memory.
const PAGE: u32 = 100;

/// All objects of a kind, nodes of others too. Does not pause by itself when it breaks: whoever polls it
/// again does.
pub fn watch_all(
    client: &Client,
    api_version: &str,
    kind: &str,
    plural: &str,
) -> impl Stream<Item = Result<Event, watcher::Error>> + use<> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(api_version, kind, plural));
    watcher(api, config().page_size(PAGE)).filter_map(|event| ready(event.map(read).transpose()))
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
    follow(api).filter_map(|event| ready(event.map(read).transpose()))
}

/// The event, if one came. Errors of a watch are counted and logged: it tries again by itself.
pub fn arrived(plural: &str, event: Result<Event, watcher::Error>, errors: &Counter) -> Option<Event> {
    event
        .inspect_err(|err| {
            errors.increment(1);
            tracing::warn!(kind = plural, error = %with_causes(err), "watch failed, trying again");
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

#[cfg(test)]
mod tests;
