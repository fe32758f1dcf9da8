//! The CRI over gRPC on a unix socket, deadlines and errors in one place.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::runtime::{CriError, CriErrorKind, ImageEvidence, Runtime, RuntimeEvent};
use super::{containerd, evidence};
use crate::telemetry::cri::CriMetrics;

/// Largest answer taken from the runtime, bytes. Lists of hundreds of containers and the output of
/// an exec (which containerd cuts at 16 MiB) fit; a runtime gone mad does not.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// A container's log, exec and stop calls take what was asked for and this much more.
const SLACK: Duration = Duration::from_secs(10);
/// No pull may last longer than this, whatever its progress.
const PULL_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Every call this client makes, as metrics and errors name them.
pub(crate) const CALLS: &[&str] = &[
    "Version",
    "Status",
    "ListPodSandbox",
    "PodSandboxStatus",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "ListContainers",
    "ContainerStatus",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListImages",
    "ImageStatus",
    "PullImage",
    "ImageEvidence",
    "RemoveImage",
    "ImageFsInfo",
    "ExecSync",
    "ContainerStats",
    "ListContainerStats",
    "ReopenContainerLog",
    "UpdateContainerResources",
    "RuntimeConfig",
    "Events",
];

/// A runtime behind a unix socket. It connects when first called and again after every loss, so a
/// runtime that is absent now is `Unavailable` and simply works once it is there.
#[derive(Clone)]
pub struct CriClient {
    channel: Channel,
    /// Deadline of calls that wait for nothing but the runtime.
    timeout: Duration,
    metrics: CriMetrics,
}

/// An endpoint that cannot be a runtime's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("containerRuntimeEndpoint {0:?} is not a unix socket: write unix:///path/to.sock")]
pub struct BadEndpoint(pub String);

impl CriClient {
    /// `endpoint` is `unix:///path` or a path; `timeout` is `runtimeRequestTimeout`. Dials nothing.
    /// Must be called inside a tokio runtime: the connection lives on the calling one.
    ///
    /// # Errors
    /// [`BadEndpoint`].
    pub fn new(endpoint: &str, timeout: Duration) -> Result<Self, BadEndpoint> {
        let path = socket_path(endpoint)?;
        // The URI is only the HTTP/2 authority; the connector knows where to go.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }),
        );
        Ok(Self { channel, timeout, metrics: CriMetrics::new(CALLS) })
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Runs one call under a deadline, measured, its failure in our words.
    async fn within<T>(
        &self,
        call: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CriError> {
        let started = Instant::now();
        let result = match tokio::time::timeout(limit, work).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(error(call, &status)),
            Err(_) => Err(CriError {
                call,
                kind: CriErrorKind::Timeout,
                message: format!("no answer from the container runtime within {limit:?}"),
            }),
        };
        self.metrics.record(call, started.elapsed(), result.is_err());
        result
    }

    async fn call<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CriError> {
        self.within(call, self.timeout, work).await
    }
}

/// The socket of `unix:///path`, `unix:/path` or a bare absolute path.
fn socket_path(endpoint: &str) -> Result<PathBuf, BadEndpoint> {
    let rest = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = Path::new(rest.strip_prefix("//").unwrap_or(rest));
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(BadEndpoint(endpoint.to_owned())) }
}

/// Maps a gRPC status. Failures of the transport carry their cause; those the runtime sent do not.
pub(super) fn error(call: &'static str, status: &tonic::Status) -> CriError {
    let message = status.message();
    let from_transport = std::error::Error::source(status).is_some();
    let kind = match status.code() {
        tonic::Code::Unavailable => CriErrorKind::Unavailable,
        tonic::Code::NotFound => CriErrorKind::NotFound,
        tonic::Code::AlreadyExists => CriErrorKind::AlreadyExists,
        tonic::Code::DeadlineExceeded => CriErrorKind::Timeout,
        // containerd answers before its CRI service is ready; it has no code for that.
        _ if message.contains("server is not initialized yet") => CriErrorKind::Unavailable,
        // Nor for a sandbox or container name that something else holds.
        _ if message.contains("is reserved for") => CriErrorKind::AlreadyExists,
        _ if from_transport => CriErrorKind::Unavailable,
        _ => CriErrorKind::Other,
    };
    let mut message = message.to_owned();
    if from_transport
        && let Some(root) = root_cause(status)
        && !message.contains(&root)
    {
        message = format!("{message}: {root}");
    }
    CriError { call, kind, message }
}

fn root_cause(status: &tonic::Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}

/// An answer without the one field that makes it one.
fn missing(call: &'static str) -> CriError {
    CriError { call, kind: CriErrorKind::Other, message: "the answer is empty".to_owned() }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

fn image_spec(image: String) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image, ..v1::ImageSpec::default() })
}

impl Runtime for CriClient {
    fn version(&self) -> BoxFuture<'_, Result<v1::VersionResponse, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move { self.call("Version", client.version(v1::VersionRequest::default())).await })
    }

    fn status(&self) -> BoxFuture<'_, Result<v1::RuntimeStatus, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let answer = self.call("Status", client.status(v1::StatusRequest::default())).await?;
            answer.status.ok_or_else(|| missing("Status"))
        })
    }

    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<v1::PodSandbox>, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::ListPodSandboxRequest::default();
            Ok(self.call("ListPodSandbox", client.list_pod_sandbox(request)).await?.items)
        })
    }

    fn sandbox_status(&self, id: String) -> BoxFuture<'_, Result<v1::PodSandboxStatus, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
            let answer = self.call("PodSandboxStatus", client.pod_sandbox_status(request)).await?;
            answer.status.ok_or_else(|| missing("PodSandboxStatus"))
        })
    }

    fn run_sandbox(&self, config: v1::PodSandboxConfig) -> BoxFuture<'_, Result<String, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
            // Network set-up may be slow where everything else is not.
            let limit = self.timeout * 2;
            let answer = self.within("RunPodSandbox", limit, client.run_pod_sandbox(request)).await?;
            Ok(answer.pod_sandbox_id)
        })
    }

    fn stop_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::StopPodSandboxRequest { pod_sandbox_id: id };
            self.call("StopPodSandbox", client.stop_pod_sandbox(request)).await.map(drop)
        })
    }

    fn remove_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
            self.call("RemovePodSandbox", client.remove_pod_sandbox(request)).await.map(drop)
        })
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<v1::Container>, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::ListContainersRequest::default();
            Ok(self.call("ListContainers", client.list_containers(request)).await?.containers)
        })
    }

    fn container_status(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStatus, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
            let answer = self.call("ContainerStatus", client.container_status(request)).await?;
            answer.status.ok_or_else(|| missing("ContainerStatus"))
        })
    }

    fn create_container(
        &self,
        sandbox_id: String,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::CreateContainerRequest {
                pod_sandbox_id: sandbox_id,
                config: Some(config),
                sandbox_config: Some(sandbox),
            };
            Ok(self.call("CreateContainer", client.create_container(request)).await?.container_id)
        })
    }

    fn start_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::StartContainerRequest { container_id: id };
            self.call("StartContainer", client.start_container(request)).await.map(drop)
        })
    }

    fn stop_container(&self, id: String, grace_secs: i64) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::StopContainerRequest { container_id: id, timeout: grace_secs };
            let limit = self.timeout + seconds(grace_secs);
            self.within("StopContainer", limit, client.stop_container(request)).await.map(drop)
        })
    }

    fn remove_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::RemoveContainerRequest { container_id: id };
            self.call("RemoveContainer", client.remove_container(request)).await.map(drop)
        })
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<v1::Image>, CriError>> {
        let mut client = self.images();
        Box::pin(async move {
            let request = v1::ListImagesRequest::default();
            Ok(self.call("ListImages", client.list_images(request)).await?.images)
        })
    }

    fn image_status(&self, image: String) -> BoxFuture<'_, Result<Option<v1::Image>, CriError>> {
        let mut client = self.images();
        Box::pin(async move {
            let request = v1::ImageStatusRequest { image: image_spec(image), verbose: false };
            Ok(self.call("ImageStatus", client.image_status(request)).await?.image)
        })
    }

    fn pull_image(
        &self,
        image: String,
        auth: Option<v1::AuthConfig>,
        sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>> {
        let mut client = self.images();
        Box::pin(async move {
            let request =
                v1::PullImageRequest { image: image_spec(image), auth, sandbox_config: Some(sandbox) };
            let pull = self.within("PullImage", PULL_LIMIT, client.pull_image(request));
            // Dropping the pull cancels it in the runtime.
            tokio::select! {
                answer = pull => Ok(answer?.image_ref),
                limit = containerd::pull_stalls(self.channel.clone()) => {
                    self.metrics.record("PullImage", limit, true);
                    let message = format!("pull made no progress for {limit:?}");
                    Err(CriError { call: "PullImage", kind: CriErrorKind::Timeout, message })
                }
            }
        })
    }

    fn image_evidence(
        &self,
        image: String,
        signed_as: Option<String>,
    ) -> BoxFuture<'_, Result<Option<ImageEvidence>, CriError>> {
        Box::pin(async move {
            let Some(found) = self.image_status(image).await? else { return Ok(None) };
            let (call, started) = ("ImageEvidence", Instant::now());
            let looking = evidence::look(self.channel.clone(), found, signed_as);
            let result = tokio::time::timeout(self.timeout, looking).await.unwrap_or_else(|_| {
                let message = format!("no answer from the image store within {:?}", self.timeout);
                Err(CriError { call, kind: CriErrorKind::Timeout, message })
            });
            self.metrics.record(call, started.elapsed(), result.is_err());
            result.map(Some)
        })
    }

    fn remove_image(&self, image: String) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.images();
        Box::pin(async move {
            let request = v1::RemoveImageRequest { image: image_spec(image) };
            self.call("RemoveImage", client.remove_image(request)).await.map(drop)
        })
    }

    fn image_fs_info(&self) -> BoxFuture<'_, Result<Vec<v1::FilesystemUsage>, CriError>> {
        let mut client = self.images();
        Box::pin(async move {
            let request = v1::ImageFsInfoRequest::default();
            Ok(self.call("ImageFsInfo", client.image_fs_info(request)).await?.image_filesystems)
        })
    }

    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout_secs: i64,
    ) -> BoxFuture<'_, Result<v1::ExecSyncResponse, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::ExecSyncRequest { container_id: id, cmd: command, timeout: timeout_secs };
            // 0 lets the command run on; our own deadline still ends the wait.
            let limit = if timeout_secs > 0 { seconds(timeout_secs) + SLACK } else { self.timeout };
            self.within("ExecSync", limit, client.exec_sync(request)).await
        })
    }

    fn container_stats(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStats, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::ContainerStatsRequest { container_id: id };
            let answer = self.call("ContainerStats", client.container_stats(request)).await?;
            answer.stats.ok_or_else(|| missing("ContainerStats"))
        })
    }

    fn list_container_stats(&self) -> BoxFuture<'_, Result<Vec<v1::ContainerStats>, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::ListContainerStatsRequest::default();
            Ok(self.call("ListContainerStats", client.list_container_stats(request)).await?.stats)
        })
    }

    fn reopen_log(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::ReopenContainerLogRequest { container_id: id };
            self.call("ReopenContainerLog", client.reopen_container_log(request)).await.map(drop)
        })
    }

    fn update_resources(
        &self,
        id: String,
        resources: v1::LinuxContainerResources,
    ) -> BoxFuture<'_, Result<(), CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let request = v1::UpdateContainerResourcesRequest {
                container_id: id,
                linux: Some(resources),
                ..v1::UpdateContainerResourcesRequest::default()
            };
            self.call("UpdateContainerResources", client.update_container_resources(request)).await.map(drop)
        })
    }

    fn cgroup_driver(&self) -> BoxFuture<'_, Result<Option<v1::CgroupDriver>, CriError>> {
        let mut client = self.runtime();
        Box::pin(async move {
            let unknown = async {
                match client.runtime_config(v1::RuntimeConfigRequest {}).await {
                    Err(status) if status.code() == tonic::Code::Unimplemented => {
                        Ok(tonic::Response::new(v1::RuntimeConfigResponse::default()))
                    }
                    other => other,
                }
            };
            let answer = self.call("RuntimeConfig", unknown).await?;
            Ok(answer.linux.and_then(|linux| v1::CgroupDriver::try_from(linux.cgroup_driver).ok()))
        })
    }

    fn events(&self) -> BoxFuture<'_, Result<BoxStream<'static, RuntimeEvent>, CriError>> {
        Box::pin(async move {
            let started = Instant::now();
            let result = containerd::subscribe(self.channel.clone(), self.runtime(), self.timeout).await;
            self.metrics.record("Events", started.elapsed(), result.is_err());
            result
        })
    }
}

#[cfg(test)]
mod tests;
