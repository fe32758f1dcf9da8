//! The async front of the disk work: runs it where it may block, and gives its result.

use std::io;
use std::path::PathBuf;

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::host::HostContext;
use super::names::PodRef;
use super::volumes::{PodVolumes, VolumeError, disk, last_words, mounts};
use crate::cri::cgroup;

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    let stopped = |err: tokio::task::JoinError| VolumeError::Io {
        op: "finish work on",
        path: PathBuf::from("volumes"),
        why: err.to_string(),
    };
    tokio::task::spawn_blocking(work).await.map_err(stopped)?
}

/// Makes or updates the volumes of a pod; true when a file changed. Safe to repeat.
///
/// # Errors
/// [`VolumeError`], whose text is the message of a `FailedMount` event.
pub async fn apply(at: PodRef, host: HostContext, volumes: PodVolumes) -> Result<bool, VolumeError> {
    blocking(move || disk::apply(&at, &host, &volumes)).await
}

/// Everything to mount into the next run of a container. The volumes must have been applied.
///
/// # Errors
/// [`VolumeError`].
pub async fn container_mounts(
    pod: Pod,
    container: Container,
    restart_count: u32,
    volumes: PodVolumes,
    env: Vec<(String, String)>,
    pod_ip: Option<String>,
    host: HostContext,
) -> Result<Vec<v1::Mount>, VolumeError> {
    blocking(move || {
        let ip = pod_ip.as_deref();
        mounts::container_mounts(&pod, &container, restart_count, &volumes, &env, ip, &host)
    })
    .await
}

/// What a container left in its `terminationMessagePath`, else, with `or_log`, the end of its log;
/// empty when nothing.
///
/// # Errors
/// [`VolumeError`].
pub async fn termination_message(
    at: PodRef,
    host: HostContext,
    container: String,
    restart_count: u32,
    or_log: bool,
) -> Result<String, VolumeError> {
    blocking(move || {
        let message = mounts::termination_message(&at, &host, &container, restart_count)?;
        if message.is_empty() && or_log {
            return last_words::log_tail(&at, &host, &container, restart_count);
        }
        Ok(message)
    })
    .await
}

/// Removes everything a pod had on disk but its logs. Call it when its containers are gone. Safe
/// to repeat.
///
/// # Errors
/// [`VolumeError::Io`]; nothing is removed while something is still mounted.
pub async fn teardown(at: PodRef, host: HostContext) -> Result<(), VolumeError> {
    blocking(move || disk::teardown(&at, &host)).await
}

/// Removes the logs of a pod that is gone.
///
/// # Errors
/// [`VolumeError::Io`].
pub async fn remove_logs(at: PodRef, host: HostContext) -> Result<(), VolumeError> {
    blocking(move || disk::remove_logs(&at, &host)).await
}

/// Makes the pod's log folder, which the runtime expects to exist.
///
/// # Errors
/// [`VolumeError::Io`].
pub async fn create_log_dir(at: PodRef, host: HostContext) -> Result<(), VolumeError> {
    blocking(move || {
        at.check()?;
        let path = at.log_dir(&host);
        // Open to readers, as kubelet's: collectors of logs need not be root.
        disk::create_open_dirs(&path).map_err(|err| io_failure("create", path, &err))
    })
    .await
}

/// Removes the pod's cgroup, which the runtime leaves behind. `parent` is what
/// [`super::resources::cgroup_parent`] gave.
///
/// # Errors
/// [`VolumeError::Io`].
pub async fn remove_cgroup(parent: String) -> Result<(), VolumeError> {
    blocking(move || {
        let path = PathBuf::from(&parent);
        match cgroup::remove(cgroup::MOUNT.as_ref(), &parent) {
            Ok(0) => Ok(()),
            Ok(killed) => {
                tracing::warn!(
                    cgroup = parent,
                    killed,
                    "killed what the runtime had left of a pod that is gone"
                );
                Ok(())
            }
            Err(err) => Err(io_failure("remove cgroup", path, &err)),
        }
    })
    .await
}

fn io_failure(op: &'static str, path: PathBuf, err: &io::Error) -> VolumeError {
    VolumeError::Io { op, path, why: err.to_string() }
}
