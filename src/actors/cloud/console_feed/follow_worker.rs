//! One watch of one stream: what it says, and how it comes back when it breaks.

use std::time::Duration;

use ::kube::Client;
use ::kube::runtime::watcher;
use futures_util::StreamExt;
use futures_util::stream::{self, LocalBoxStream};
use tokio::time::sleep;

use crate::actors::cloud::watch_worker::{Event, may_list, watch_all};
use crate::console::watched::{Resource, Watched};
use crate::model::device;
use crate::supervise::{doubled, spread};

/// A watch that ended is resumed after this; the server may end it for good reasons.
const RESUME: Duration = Duration::from_millis(500);
/// Pauses after a refusal or no answer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// The API has this long to say whether a list is allowed.
const ASK_DEADLINE: Duration = Duration::from_secs(20);

/// What a watch says to its stream.
pub(super) enum Heard {
    Said(Watched),
    /// The token is not good any more.
    NotWelcome,
}

/// apiVersion, kind, plural.
fn names(resource: Resource) -> (&'static str, &'static str, &'static str) {
    match resource {
        Resource::Nodes => ("v1", "Node", "nodes"),
        Resource::Pods => ("v1", "Pod", "pods"),
        Resource::Events => ("v1", "Event", "events"),
        Resource::Devices => (device::API_VERSION, "Device", "devices"),
        Resource::DeviceModels => (device::API_VERSION, "DeviceModel", "devicemodels"),
        Resource::DeviceStatuses => (device::API_VERSION, "DeviceStatus", "devicestatuses"),
    }
}

struct Follower {
    client: Client,
    resource: Resource,
    watch: Option<LocalBoxStream<'static, Result<Event, watcher::Error>>>,
    failures: u32,
    rest: Option<Duration>,
}

/// Follows all objects of a resource, for ever.
pub(super) fn follow(client: Client, resource: Resource) -> LocalBoxStream<'static, (Resource, Heard)> {
    let follower = Follower { client, resource, watch: None, failures: 0, rest: None };
    let heard = stream::unfold(follower, async |mut follower| {
        let heard = follower.next().await;
        Some(((follower.resource, heard), follower))
    });
    heard.boxed_local()
}

impl Follower {
    async fn next(&mut self) -> Heard {
        loop {
            if let Some(pause) = self.rest.take() {
                sleep(pause).await;
            }
            let event = match &mut self.watch {
                Some(watch) => watch.next().await,
                None => match self.open().await {
                    Ok(()) => continue,
                    Err(err) => Some(Err(err)),
                },
            };
            match event {
                Some(Ok(event)) => return Heard::Said(self.said(event)),
                Some(Err(err)) if code(&err) == Some(401) => return Heard::NotWelcome,
                // The watch itself resumes, or lists again where that is too late.
                Some(Err(watcher::Error::WatchFailed(_) | watcher::Error::WatchError(_))) => {
                    self.rest = Some(RESUME);
                }
                Some(Err(err)) => {
                    // Only a list ends the trouble on the page, so the next watch begins with one.
                    self.watch = None;
                    self.rest =
                        Some(spread(doubled(FIRST_PAUSE, self.failures, LAST_PAUSE), fastrand::f64()));
                    self.failures = self.failures.saturating_add(1);
                    return Heard::Said(Watched::Failed(words(self.resource, &err)));
                }
                None => {
                    self.watch = None;
                    self.rest = Some(RESUME);
                }
            }
        }
    }

    /// Begins a watch. Asked first: a watcher complains in the log of each refusal.
    async fn open(&mut self) -> Result<(), watcher::Error> {
        let (api_version, kind, plural) = names(self.resource);
        let asked = may_list(&self.client, api_version, kind, plural);
        match tokio::time::timeout(ASK_DEADLINE, asked).await {
            Ok(Ok(())) => {
                self.watch = Some(watch_all(&self.client, api_version, kind, plural).boxed_local());
                Ok(())
            }
            Ok(Err(err)) => Err(watcher::Error::InitialListFailed(err)),
            Err(late) => Err(watcher::Error::InitialListFailed(::kube::Error::Service(Box::new(late)))),
        }
    }

    fn said(&mut self, event: Event) -> Watched {
        match event {
            Event::Listing => Watched::Listing,
            Event::Applied(object) => Watched::Applied(object),
            Event::Removed(object) => Watched::Removed(object),
            Event::Listed => {
                self.failures = 0;
                Watched::Listed
            }
        }
    }
}

fn answer(err: &watcher::Error) -> Option<&::kube::core::Status> {
    match err {
        watcher::Error::InitialListFailed(::kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(::kube::Error::Api(status))
        | watcher::Error::WatchFailed(::kube::Error::Api(status)) => Some(status),
        watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

fn code(err: &watcher::Error) -> Option<u16> {
    answer(err).map(|status| status.code)
}

/// For the page: what the API says, or that it says nothing.
fn words(resource: Resource, err: &watcher::Error) -> String {
    let (_, _, plural) = names(resource);
    match answer(err) {
        Some(status) if !status.message.is_empty() => status.message.clone(),
        Some(status) => format!("{plural}: the Kubernetes API answers {}", status.code),
        None => {
            tracing::debug!(error = %err, plural, "a watch of a console failed");
            format!("{plural}: the Kubernetes API does not answer")
        }
    }
}
