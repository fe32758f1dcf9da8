//! What Edged needs from a container runtime. Messages are CRI v1's own (`k8s_cri::v1`).

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use k8s_cri::v1;

/// A container runtime. Every call has a deadline inside; none retries.
pub trait Runtime: Send + Sync + 'static {
    fn version(&self) -> BoxFuture<'_, Result<v1::VersionResponse, CriError>>;
    /// Conditions `RuntimeReady` and `NetworkReady`.
    fn status(&self) -> BoxFuture<'_, Result<v1::RuntimeStatus, CriError>>;

    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<v1::PodSandbox>, CriError>>;
    fn sandbox_status(&self, id: String) -> BoxFuture<'_, Result<v1::PodSandboxStatus, CriError>>;
    /// Returns the sandbox id. Idempotence is the caller's: a failed call may leave a NOTREADY
    /// sandbox whose name stays reserved; remove it or raise `metadata.attempt`.
    fn run_sandbox(&self, config: v1::PodSandboxConfig) -> BoxFuture<'_, Result<String, CriError>>;
    fn stop_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>>;
    fn remove_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>>;

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<v1::Container>, CriError>>;
    fn container_status(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStatus, CriError>>;
    /// Returns the container id.
    fn create_container(
        &self,
        sandbox_id: String,
        config: v1::ContainerConfig,
        sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>>;
    fn start_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>>;
    /// Sends the stop signal and kills after `grace_secs`.
    fn stop_container(&self, id: String, grace_secs: i64) -> BoxFuture<'_, Result<(), CriError>>;
    fn remove_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>>;

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<v1::Image>, CriError>>;
    /// `None` when the image is not present.
    fn image_status(&self, image: String) -> BoxFuture<'_, Result<Option<v1::Image>, CriError>>;
    /// Returns the image reference to create containers with.
    fn pull_image(
        &self,
        image: String,
        auth: Option<v1::AuthConfig>,
        sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>>;

    /// What can be said about an image without any network: by name, reference or id. With
    /// `signed_as` (a repository, `host/path`) also what is signed under it. `None` when the image
    /// is not present.
    fn image_evidence(
        &self,
        image: String,
        signed_as: Option<String>,
    ) -> BoxFuture<'_, Result<Option<ImageEvidence>, CriError>>;

    fn remove_image(&self, image: String) -> BoxFuture<'_, Result<(), CriError>>;
    /// Disk use of the image store, one entry per filesystem.
    fn image_fs_info(&self) -> BoxFuture<'_, Result<Vec<v1::FilesystemUsage>, CriError>>;

    /// Runs a command to its end inside a running container, at most `timeout_secs`.
    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        timeout_secs: i64,
    ) -> BoxFuture<'_, Result<v1::ExecSyncResponse, CriError>>;
    /// Usage of one container. `usage_nano_cores` may be empty: compute rates from two samples.
    fn container_stats(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStats, CriError>>;
    /// Usage of every running container in one call.
    fn list_container_stats(&self) -> BoxFuture<'_, Result<Vec<v1::ContainerStats>, CriError>>;
    /// Makes the runtime open a container's log file anew (after it was rotated away).
    fn reopen_log(&self, id: String) -> BoxFuture<'_, Result<(), CriError>>;
    /// Changes limits of a live container.
    fn update_resources(
        &self,
        id: String,
        resources: v1::LinuxContainerResources,
    ) -> BoxFuture<'_, Result<(), CriError>>;
    /// How the runtime manages cgroups; `None` when it cannot say (containerd before 2.0).
    fn cgroup_driver(&self) -> BoxFuture<'_, Result<Option<v1::CgroupDriver>, CriError>>;

    /// Container and sandbox events as they happen (containerd's own API where the CRI has none).
    /// The stream ends when the connection does; the caller reconnects and lists again.
    fn events(&self) -> BoxFuture<'_, Result<BoxStream<'static, RuntimeEvent>, CriError>>;
}

/// What a runtime knows of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageEvidence {
    /// Digest of its configuration; a container created by it runs exactly this image.
    pub id: String,
    /// Names it has here, with tag or digest.
    pub names: Vec<String>,
    /// Digests of its manifest and of indexes that hold it, as far as they are here.
    pub digests: Vec<String>,
    /// Not verified.
    pub signatures: Vec<ImageSignature>,
}

/// A signed text and the signature over it, as cosign attaches them to an image. Not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSignature {
    /// Cosign's "simple signing" JSON.
    pub payload: Vec<u8>,
    /// Standard base64.
    pub signature: String,
}

/// Something happened to a container or sandbox; look at it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// Container or sandbox id.
    pub id: String,
    pub kind: RuntimeEventKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeEventKind {
    Started,
    Exited,
    OutOfMemory,
    Deleted,
}

/// A failed runtime call: which call, and what the runtime said.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{call}: {message}")]
pub struct CriError {
    pub call: &'static str,
    pub kind: CriErrorKind,
    /// The runtime's own words.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CriErrorKind {
    /// Socket absent or refused, connection lost: the runtime may be restarting.
    Unavailable,
    NotFound,
    AlreadyExists,
    /// Our own deadline ran out.
    Timeout,
    Other,
}
