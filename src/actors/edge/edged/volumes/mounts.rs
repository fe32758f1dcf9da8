//! Where a container sees the pod's volumes, its hosts file and its place for last words.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::disk::{create_dirs, io_error, open_if_there};
use super::material::check_path;
use super::{PodVolumes, VolumeError, VolumeMaterial, subpath};
use crate::actors::edge::edged::dns::{host_aliases, hosts_file};
use crate::actors::edge::edged::environment::{expand, workload_api};
use crate::actors::edge::edged::host::HostContext;
use crate::actors::edge::edged::names::{DEFAULT_TERMINATION_MESSAGE_PATH, PodRef, path_part};

/// Longest last words of a container, bytes (Kubernetes' limit).
const MAX_TERMINATION_MESSAGE: u64 = 4096;

/// One mount of a container; `sub_path` still has to be made into a host path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    pub volume: String,
    /// Root of the volume on the host.
    pub root: PathBuf,
    pub sub_path: Option<String>,
    pub container_path: String,
    pub readonly: bool,
    pub propagation: v1::MountPropagation,
}

/// The kubelet's folder name of a volume.
#[must_use]
pub fn volume_plugin(material: &VolumeMaterial) -> &'static str {
    match material {
        VolumeMaterial::EmptyDir { .. } => "kubernetes.io~empty-dir",
        VolumeMaterial::HostPath { .. } => "kubernetes.io~host-path",
        VolumeMaterial::Files { plugin, .. } => plugin,
    }
}

/// The mounts of the container's `volumeMounts`. Pure. `env` expands `subPathExpr`.
///
/// # Errors
/// [`VolumeError::NoVolume`], [`VolumeError::SubPath`] for paths that would leave the volume.
pub fn plan(
    pod: &Pod,
    container: &Container,
    volumes: &PodVolumes,
    env: &[(String, String)],
    host: &HostContext,
) -> Result<Vec<MountPlan>, VolumeError> {
    let at = PodRef::of(pod);
    at.check()?;
    let mut plans = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let found = volumes.volumes.iter().find(|volume| volume.name == mount.name);
        let Some(volume) = found else {
            let (mount, container) = (mount.name.clone(), container.name.clone());
            return Err(VolumeError::NoVolume { mount, container });
        };
        let root = match &volume.material {
            VolumeMaterial::HostPath { path, .. } => path.clone(),
            material => at.volume_dir(host, volume_plugin(material), &volume.name),
        };
        let ours = matches!(volume.material, VolumeMaterial::Files { .. });
        let sub_path = sub_path(mount, env).map_err(|why| VolumeError::SubPath {
            mount: mount.name.clone(),
            container: container.name.clone(),
            why,
        })?;
        // A relative mount path is one from the root of the container.
        let slash = if mount.mount_path.starts_with('/') { "" } else { "/" };
        plans.push(MountPlan {
            volume: volume.name.clone(),
            root,
            sub_path,
            container_path: format!("{slash}{}", mount.mount_path),
            readonly: ours || mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                _ => v1::MountPropagation::PropagationPrivate,
            },
        });
    }
    Ok(plans)
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let path = match (given(&mount.sub_path_expr), given(&mount.sub_path)) {
        (Some(expression), _) => {
            let lookup: HashMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let missing = std::cell::RefCell::new(None);
            let text = expand(&expression, |name| {
                let value = lookup.get(name).copied();
                if value.is_none() {
                    missing.replace(Some(name.to_owned()));
                }
                value
            });
            if let Some(name) = missing.into_inner() {
                return Err(format!("missing value for {name:?}"));
            }
            text
        }
        (None, Some(path)) => path,
        (None, None) => return Ok(None),
    };
    let path = path.trim_end_matches('/').to_owned();
    if path == "." {
        return Ok(None);
    }
    // Names that begin with two dots are fine here, only the way up is not.
    let plain =
        path.split('/').all(|part| part.is_empty() || check_path(part.trim_start_matches("..")).is_ok());
    if !plain || path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("{path:?} must be a relative path without \"..\""));
    }
    Ok(Some(path))
}

/// Everything to mount into a container. Makes what mounts need: subpaths, the hosts file, the file
/// for last words of run `restart_count`. Blocking; the volumes must have been applied.
///
/// # Errors
/// [`VolumeError`].
pub fn container_mounts(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
    volumes: &PodVolumes,
    env: &[(String, String)],
    pod_ip: Option<&str>,
    host: &HostContext,
) -> Result<Vec<v1::Mount>, VolumeError> {
    let at = PodRef::of(pod);
    path_part("spec.containers.name", &container.name)?;
    let mut mounts = Vec::new();
    for (index, plan) in plan(pod, container, volumes, env, host)?.into_iter().enumerate() {
        let host_path = match &plan.sub_path {
            None => plan.root.clone(),
            Some(sub_path) => {
                let place = at.dir(host).join("volume-subpaths").join(&plan.volume).join(&container.name);
                subpath::bind(&plan.root, sub_path, &place.join(index.to_string())).map_err(|err| {
                    VolumeError::SubPath {
                        mount: plan.volume.clone(),
                        container: container.name.clone(),
                        why: err.to_string(),
                    }
                })?
            }
        };
        mounts.push(v1::Mount {
            container_path: plan.container_path,
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: plan.readonly,
            propagation: plan.propagation as i32,
            ..v1::Mount::default()
        });
    }
    let bind = |container_path: &str, host_path: &Path| v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..v1::Mount::default()
    };
    let taken = |mounts: &[v1::Mount], path: &str| mounts.iter().any(|mount| mount.container_path == path);
    // Its folder and not the socket: a new socket after a restart of edgecore shows up.
    if let Ok(Some(folder)) = workload_api(pod, host).map(|socket| socket.and_then(Path::parent))
        && !taken(&mounts, &folder.to_string_lossy())
    {
        create_dirs(folder, 0o755).map_err(|err| io_error("create", folder, &err))?;
        mounts.push(v1::Mount { readonly: true, ..bind(&folder.to_string_lossy(), folder) });
    }
    if !taken(&mounts, "/etc/hosts")
        && let Some(text) = hosts_text(pod, host, pod_ip)
    {
        let path = at.dir(host).join("etc-hosts");
        fs::write(&path, text).map_err(|err| io_error("write", &path, &err))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .map_err(|err| io_error("open up", &path, &err))?;
        mounts.push(bind("/etc/hosts", &path));
    }
    let last_words =
        container.termination_message_path.as_deref().unwrap_or(DEFAULT_TERMINATION_MESSAGE_PATH);
    if !last_words.is_empty() && !taken(&mounts, last_words) {
        let path = termination_file(&at, host, &container.name, restart_count);
        write_termination_file(&path).map_err(|err| io_error("create", &path, &err))?;
        mounts.push(bind(last_words, &path));
    }
    Ok(mounts)
}

/// The hosts file we give, or `None` where the runtime's own (the host's) is right.
fn hosts_text(pod: &Pod, host: &HostContext, pod_ip: Option<&str>) -> Option<String> {
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    if !host_network {
        return Some(hosts_file(pod, host, pod_ip.unwrap_or_default()));
    }
    let aliases = host_aliases(pod);
    let own = || fs::read_to_string("/etc/hosts").unwrap_or_default();
    (!aliases.is_empty()).then(|| own() + &aliases)
}

fn termination_file(at: &PodRef, host: &HostContext, container: &str, restart_count: u32) -> PathBuf {
    at.dir(host).join("containers").join(container).join(restart_count.to_string())
}

/// A fresh, empty file that any user may write.
fn write_termination_file(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        create_dirs(dir, 0o750)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o666))
}

/// What a container left in its `terminationMessagePath`; empty when nothing. Blocking.
///
/// # Errors
/// [`VolumeError`] for names that are paths or a file that cannot be read.
pub fn termination_message(
    at: &PodRef,
    host: &HostContext,
    container: &str,
    restart_count: u32,
) -> Result<String, VolumeError> {
    at.check()?;
    path_part("spec.containers.name", container)?;
    let path = termination_file(at, host, container, restart_count);
    let Some(file) = open_if_there(&path)? else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    file.take(MAX_TERMINATION_MESSAGE)
        .read_to_end(&mut bytes)
        .map_err(|err| io_error("read", &path, &err))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
