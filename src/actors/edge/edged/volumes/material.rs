//! From a pod and its sources to the files and folders its volumes consist of. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, Volume as PodVolume, VolumeProjection,
};

use super::{FileMaterial, HostPathCheck, PodVolumes, Volume, VolumeError, VolumeMaterial, Why};
use crate::actors::edge::edged::environment::named_container;
use crate::actors::edge::edged::fields;
use crate::actors::edge::edged::host::HostContext;
use crate::actors::edge::edged::names::path_part;
use crate::actors::edge::edged::sources::{CONFIGMAP, SECRET, Sources, all_containers, token_want};

const DEFAULT_MODE: u32 = 0o644;
/// Tokens are for one user only when that user or group is known.
const TOKEN_MODE: u32 = 0o600;
/// What the group may do with files when the pod has an `fsGroup`.
const GROUP_READ: u32 = 0o440;
/// Longest path under a volume's root, bytes.
const MAX_PATH: usize = 4096;

/// The content of every volume of the pod.
///
/// # Errors
/// [`VolumeError::Setup`] names the first volume that cannot be made, and why: a source that is
/// missing and not optional, a key that would leave the volume, a kind we do not have.
pub fn prepare(pod: &Pod, sources: &Sources, host: &HostContext) -> Result<PodVolumes, VolumeError> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let fs_group = context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
    let scope = Scope { pod, sources, host, fs_group };
    let mut volumes = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        path_part("spec.volumes.name", &volume.name)?;
        let material = scope.material(volume).map_err(|why| VolumeError::setup(&volume.name, why))?;
        volumes.push(Volume { name: volume.name.clone(), material });
    }
    Ok(PodVolumes { volumes, fs_group })
}

type Files = BTreeMap<String, FileMaterial>;

struct Scope<'a> {
    pod: &'a Pod,
    sources: &'a Sources,
    host: &'a HostContext,
    fs_group: Option<u32>,
}

impl Scope<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn material(&self, volume: &PodVolume) -> Result<VolumeMaterial, Why> {
        let mut files = Files::new();
        if let Some(source) = &volume.empty_dir {
            let memory = source.medium.as_deref() == Some("Memory");
            let limit = source.size_limit.as_ref().map(|limit| fields::milli("emptyDir.sizeLimit", limit));
            let bytes = limit.transpose()?.map(|milli| i64::try_from(milli / 1000).unwrap_or(i64::MAX));
            return Ok(VolumeMaterial::EmptyDir {
                memory,
                size_limit_bytes: bytes.filter(|bytes| *bytes > 0),
            });
        }
        if let Some(source) = &volume.host_path {
            return host_path(source);
        }
        if let Some(source) = &volume.config_map {
            let mode = bits(source.default_mode);
            self.configmap(&mut files, &source.name, source.items.as_deref(), source.optional, mode)?;
            return Ok(VolumeMaterial::Files { plugin: "kubernetes.io~configmap", files, memory: false });
        }
        if let Some(source) = &volume.secret {
            let (name, mode) = (source.secret_name.as_deref().unwrap_or_default(), bits(source.default_mode));
            self.secret(&mut files, name, source.items.as_deref(), source.optional, mode)?;
            return Ok(VolumeMaterial::Files { plugin: "kubernetes.io~secret", files, memory: true });
        }
        if let Some(source) = &volume.downward_api {
            self.downward(&mut files, source.items.as_deref(), bits(source.default_mode))?;
            return Ok(VolumeMaterial::Files { plugin: "kubernetes.io~downward-api", files, memory: false });
        }
        if let Some(source) = &volume.projected {
            for part in source.sources.iter().flatten() {
                self.projection(&mut files, part, bits(source.default_mode))?;
            }
            return Ok(VolumeMaterial::Files { plugin: "kubernetes.io~projected", files, memory: true });
        }
        Err(Why::Unsupported)
    }

    fn projection(&self, files: &mut Files, part: &VolumeProjection, mode: u32) -> Result<(), Why> {
        if let Some(source) = &part.config_map {
            return self.configmap(files, &source.name, source.items.as_deref(), source.optional, mode);
        }
        if let Some(source) = &part.secret {
            return self.secret(files, &source.name, source.items.as_deref(), source.optional, mode);
        }
        if let Some(source) = &part.downward_api {
            return self.downward(files, source.items.as_deref(), mode);
        }
        if let Some(source) = &part.service_account_token {
            let want = token_want(self.pod, source.audience.as_deref(), source.expiration_seconds);
            let token = self.sources.token(&want.key);
            let token = token.ok_or_else(|| Why::NoToken(want.service_account.clone()))?;
            let owner = common_user(self.pod);
            let mode = if owner.is_some() || self.fs_group.is_some() { TOKEN_MODE } else { mode };
            return self.put(files, &source.path, token.as_bytes().to_vec(), mode, owner);
        }
        match &part.cluster_trust_bundle {
            Some(bundle) if bundle.optional == Some(true) => Ok(()),
            _ => Err(Why::Unsupported),
        }
    }

    fn configmap(
        &self,
        files: &mut Files,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<(), Why> {
        let entries = self.sources.configmap(self.namespace(), name);
        let missing = Why::ObjectNotFound { kind: CONFIGMAP, name: name.to_owned() };
        self.entries(files, entries.ok_or(missing), "config", items, optional, mode)
    }

    fn secret(
        &self,
        files: &mut Files,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<(), Why> {
        let entries = self.sources.secret(self.namespace(), name);
        let missing = Why::ObjectNotFound { kind: SECRET, name: name.to_owned() };
        self.entries(files, entries.ok_or(missing), "secret", items, optional, mode)
    }

    fn entries(
        &self,
        files: &mut Files,
        entries: Result<BTreeMap<String, Vec<u8>>, Why>,
        what: &'static str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: u32,
    ) -> Result<(), Why> {
        let optional = optional == Some(true);
        let entries = match entries {
            Ok(entries) => entries,
            Err(_) if optional => return Ok(()),
            Err(why) => return Err(why),
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, value) in entries {
                self.put(files, &key, value, mode, None)?;
            }
            return Ok(());
        };
        for item in items {
            match entries.get(&item.key) {
                Some(value) => {
                    let mode = item.mode.map_or(mode, |mode| bits(Some(mode)));
                    self.put(files, &item.path, value.clone(), mode, None)?;
                }
                None if optional => {}
                None => return Err(Why::KeyNotFound { what, key: item.key.clone() }),
            }
        }
        Ok(())
    }

    fn downward(
        &self,
        files: &mut Files,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: u32,
    ) -> Result<(), Why> {
        for item in items.into_iter().flatten() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(selector), _) => fields::field(self.pod, &selector.field_path, self.host, None)?,
                (None, Some(selector)) => {
                    let name = selector.container_name.as_deref().unwrap_or_default();
                    let container =
                        named_container(self.pod, name).map_err(|_| Why::NoContainer(name.to_owned()))?;
                    fields::resource(container, selector, self.host)?
                }
                (None, None) => return Err(Why::Unsupported),
            };
            let mode = item.mode.map_or(mode, |mode| bits(Some(mode)));
            self.put(files, &item.path, text.into_bytes(), mode, None)?;
        }
        Ok(())
    }

    fn put(
        &self,
        files: &mut Files,
        path: &str,
        data: Vec<u8>,
        mode: u32,
        owner: Option<u32>,
    ) -> Result<(), Why> {
        check_path(path)?;
        let mode = if self.fs_group.is_some() { mode | GROUP_READ } else { mode };
        files.insert(path.to_owned(), FileMaterial { data, mode, owner });
        Ok(())
    }
}

/// A file's path under the volume's root: relative, without `..`, and no first part beginning with
/// two dots (those names are the writer's own).
///
/// # Errors
/// [`Why::BadPath`].
pub fn check_path(path: &str) -> Result<(), Why> {
    let bad = |rule| Err(Why::BadPath { path: path.chars().take(MAX_PATH).collect(), rule });
    if path.is_empty() {
        return bad("is empty");
    }
    if path.len() > MAX_PATH || path.split('/').any(|part| part.len() > 255) {
        return bad("is too long");
    }
    if path.contains('\0') {
        return bad("contains a NUL");
    }
    if path.starts_with("..") {
        return bad("must not begin with \"..\"");
    }
    if path.ends_with('/') || path.split('/').any(|part| part.is_empty() || part == ".") {
        return bad("must be a plain relative path");
    }
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return bad("must be a relative path without \"..\"");
    }
    Ok(())
}

fn bits(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).map_or(DEFAULT_MODE, |mode| mode & 0o777)
}

/// The user all containers run as, if the pod says so for all of them.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let shared = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = all_containers(spec)
        .map(|container| container.security_context.as_ref().and_then(|c| c.run_as_user).or(shared));
    let first = users.next().flatten()?;
    if users.all(|user| user == Some(first)) { u32::try_from(first).ok() } else { None }
}

fn host_path(source: &HostPathVolumeSource) -> Result<VolumeMaterial, Why> {
    let path = Path::new(&source.path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        let rule = "must be absolute and without \"..\"";
        return Err(Why::BadPath { path: source.path.chars().take(MAX_PATH).collect(), rule });
    }
    let check = match source.type_.as_deref().unwrap_or_default() {
        "" => HostPathCheck::Unchecked,
        "DirectoryOrCreate" => HostPathCheck::DirectoryOrCreate,
        "Directory" => HostPathCheck::Directory,
        "FileOrCreate" => HostPathCheck::FileOrCreate,
        "File" => HostPathCheck::File,
        "Socket" => HostPathCheck::Socket,
        "CharDevice" => HostPathCheck::CharDevice,
        "BlockDevice" => HostPathCheck::BlockDevice,
        other => return Err(Why::HostPathType(other.to_owned())),
    };
    Ok(VolumeMaterial::HostPath { path: path.to_owned(), check })
}

#[cfg(test)]
#[path = "material_tests.rs"]
mod tests;
