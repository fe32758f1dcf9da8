//! What containerd's own API gives beyond the CRI: live events, and whether a pull moves.
//!
//! containerd serves both APIs on one socket. Another runtime answers UNIMPLEMENTED here, and then
//! there are no events and only the overall limit on pulls.

use std::time::Duration;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{ListStatusesRequest, PublishRequest, SubscribeRequest};
use containerd_client::{events as payload, types};
use futures_util::stream::{self, BoxStream, StreamExt};
use k8s_cri::v1;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::client::error;
use super::runtime::{CriError, CriErrorKind, RuntimeEvent, RuntimeEventKind};

/// containerd's namespace of everything made through the CRI.
const NAMESPACE: &str = "k8s.io";
/// Our own topic: hearing it proves that the subscription is in place.
const MARK_TOPIC: &str = "/kubeedge/subscribed";
const TOPICS: &[&str] = &["/tasks/start", "/tasks/exit", "/tasks/oom", "/containers/delete", MARK_TOPIC];
/// Pause between two marks while the subscription is being set up.
const MARK_EVERY: Duration = Duration::from_millis(50);
/// Exits looked at at the same time.
const SETTLING: usize = 64;
/// How long to wait until the CRI has seen an exit that containerd already told us of.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
const SETTLE_FIRST: Duration = Duration::from_millis(5);

/// How often a pull is looked at.
const PULL_LOOK: Duration = Duration::from_secs(15);
/// A pull that fetches nothing for this long is given up. Unpacking shows no progress, so this is
/// what the slowest disk may take to unpack the largest layer.
const PULL_STALL: Duration = Duration::from_secs(600);

pub(super) fn in_namespace<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

/// Subscribes to containerd's events and returns once nothing that happens from now on is missed.
///
/// An exit is passed on when the CRI's own status shows it, so that whoever looks after an event
/// sees what the event was about.
///
/// # Errors
/// [`CriError`] when the runtime is away or does not answer within `limit`.
pub(super) async fn subscribe(
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    limit: Duration,
) -> Result<BoxStream<'static, RuntimeEvent>, CriError> {
    const CALL: &str = "Events";
    let mut client = EventsClient::new(channel.clone());
    let filters = TOPICS.iter().map(|topic| format!("namespace=={NAMESPACE},topic==\"{topic}\"")).collect();
    // containerd sends no headers before the first event, so the call itself only returns then:
    // our mark is that event.
    let opening = async {
        let mut opening = std::pin::pin!(client.subscribe(SubscribeRequest { filters }));
        let mut marks = tokio::time::interval(MARK_EVERY);
        loop {
            tokio::select! {
                opened = &mut opening => return opened,
                _ = marks.tick() => mark(channel.clone()).await?,
            }
        }
    };
    let envelopes = match tokio::time::timeout(limit, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) if status.code() == Code::Unimplemented => return Ok(stream::pending().boxed()),
        Ok(Err(status)) => return Err(error(CALL, &status)),
        Err(_) => {
            let message = format!("no event stream within {limit:?}");
            return Err(CriError { call: CALL, kind: CriErrorKind::Timeout, message });
        }
    };
    let events = envelopes.take_while(|item| std::future::ready(item.is_ok()));
    let events = events.filter_map(|item| std::future::ready(item.ok().as_ref().and_then(decode)));
    Ok(events.map(move |event| settle(runtime.clone(), event)).buffer_unordered(SETTLING).boxed())
}

/// Publishes one event of ours on the topic nobody else uses.
async fn mark(channel: Channel) -> Result<(), tonic::Status> {
    let event = payload::NamespaceUpdate { name: NAMESPACE.to_owned(), ..Default::default() };
    let event = prost_types::Any {
        type_url: "containerd.events.NamespaceUpdate".to_owned(),
        value: event.encode_to_vec(),
    };
    let request = PublishRequest { topic: MARK_TOPIC.to_owned(), event: Some(event) };
    EventsClient::new(channel).publish(in_namespace(request)).await.map(drop)
}

/// What an event means to us; `None` for those of exec'ed processes, marks, and what does not
/// decode.
pub(crate) fn decode(envelope: &types::Envelope) -> Option<RuntimeEvent> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let (id, kind) = match envelope.topic.as_str() {
        "/tasks/start" => (payload::TaskStart::decode(bytes).ok()?.container_id, RuntimeEventKind::Started),
        "/tasks/exit" => {
            let exit = payload::TaskExit::decode(bytes).ok()?;
            if exit.id != exit.container_id {
                return None;
            }
            (exit.container_id, RuntimeEventKind::Exited)
        }
        "/tasks/oom" => (payload::TaskOom::decode(bytes).ok()?.container_id, RuntimeEventKind::OutOfMemory),
        "/containers/delete" => (payload::ContainerDelete::decode(bytes).ok()?.id, RuntimeEventKind::Deleted),
        _ => return None,
    };
    Some(RuntimeEvent { id, kind })
}

/// Holds an exit back until the CRI shows it (usually at once), for [`SETTLE_LIMIT`] at most.
async fn settle(mut runtime: RuntimeServiceClient<Channel>, event: RuntimeEvent) -> RuntimeEvent {
    if event.kind == RuntimeEventKind::Exited {
        let mut pause = SETTLE_FIRST;
        let settling = async {
            while still_runs(&mut runtime, &event.id).await {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        };
        if tokio::time::timeout(SETTLE_LIMIT, settling).await.is_err() {
            tracing::debug!(id = %event.id, "the runtime shows no exit yet");
        }
    }
    event
}

async fn still_runs(runtime: &mut RuntimeServiceClient<Channel>, id: &str) -> bool {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    match runtime.container_status(request).await {
        Ok(answer) => {
            let state = answer.into_inner().status.map(|status| status.state);
            state == Some(v1::ContainerState::ContainerRunning as i32)
        }
        Err(status) if status.code() == Code::NotFound => {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
            let answer = runtime.pod_sandbox_status(request).await;
            let state = answer.ok().and_then(|answer| answer.into_inner().status).map(|status| status.state);
            state == Some(v1::PodSandboxState::SandboxReady as i32)
        }
        Err(_) => false,
    }
}

/// Returns, with the time that passed, once nothing was fetched into containerd's content store
/// for [`PULL_STALL`]. Never returns while the runtime cannot say.
pub(super) async fn pull_stalls(channel: Channel) -> Duration {
    let mut client = ContentClient::new(channel);
    let mut looks = tokio::time::interval(PULL_LOOK);
    let mut last = None;
    let mut quiet = Duration::ZERO;
    loop {
        looks.tick().await;
        let request = in_namespace(ListStatusesRequest { filters: Vec::new() });
        match client.list_statuses(request).await {
            Ok(answer) => {
                let statuses = answer.into_inner().statuses;
                let now: Vec<(String, i64)> =
                    statuses.into_iter().map(|status| (status.r#ref, status.offset)).collect();
                quiet = if last.as_ref() == Some(&now) { quiet + PULL_LOOK } else { Duration::ZERO };
                last = Some(now);
            }
            Err(status) if status.code() == Code::Unimplemented => std::future::pending().await,
            // The pull itself reports a lost connection.
            Err(_) => quiet = Duration::ZERO,
        }
        if quiet >= PULL_STALL {
            return quiet;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, value: Vec<u8>) -> types::Envelope {
        let event = prost_types::Any { type_url: String::new(), value };
        types::Envelope { topic: topic.to_owned(), event: Some(event), ..Default::default() }
    }

    #[test]
    fn events() {
        let exit = |id: &str| {
            payload::TaskExit {
                container_id: "c1".into(),
                id: id.into(),
                exit_status: 7,
                ..Default::default()
            }
            .encode_to_vec()
        };
        let start = payload::TaskStart { container_id: "c1".into(), pid: 9 }.encode_to_vec();
        let oom = payload::TaskOom { container_id: "c1".into() }.encode_to_vec();
        let gone = payload::ContainerDelete { id: "c1".into() }.encode_to_vec();
        for (topic, value, want) in [
            ("/tasks/start", start.clone(), Some(RuntimeEventKind::Started)),
            ("/tasks/exit", exit("c1"), Some(RuntimeEventKind::Exited)),
            ("/tasks/exit", exit("exec-1"), None),
            ("/tasks/oom", oom, Some(RuntimeEventKind::OutOfMemory)),
            ("/containers/delete", gone, Some(RuntimeEventKind::Deleted)),
            (MARK_TOPIC, start, None),
            ("/tasks/exit", vec![0xff, 0xff, 0xff], None),
        ] {
            let got = decode(&envelope(topic, value));
            assert_eq!(got, want.map(|kind| RuntimeEvent { id: "c1".into(), kind }), "{topic}");
        }
        assert_eq!(decode(&types::Envelope::default()), None);
    }
}
