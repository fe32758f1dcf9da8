//! Files and calls of the API, each bounded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::kube::Client;
use ::kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use ::kube::core::GroupVersionKind;
use ::kube::discovery::{Scope, pinned_kind};

use super::plan::Outcome;
use super::read::{DIGEST, File, Key, Manifest};
use crate::actors::cloud::kube_worker::{CallError, in_time};

/// Most files of the folder.
const MAX_FILES: usize = 256;
/// Largest file, bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// Namespace of what names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The folder's `.yaml`, `.yml` and `.json` files, sorted by name; what cannot be read is told.
pub async fn files(folder: PathBuf) -> Result<Vec<File>, String> {
    let task = tokio::task::spawn_blocking(move || list(&folder));
    task.await.unwrap_or_else(|err| Err(err.to_string()))
}

fn list(folder: &Path) -> Result<Vec<File>, String> {
    let failed = |path: &Path, err: std::io::Error| format!("{}: {err}", path.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|err| failed(folder, err))? {
        let path = entry.map_err(|err| failed(folder, err))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("yaml" | "yml" | "json")) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.len() > MAX_FILES {
        return Err(format!("{}: more than {MAX_FILES} files", folder.display()));
    }
    let mut files = Vec::new();
    for path in paths {
        let length = std::fs::metadata(&path).map_err(|err| failed(&path, err))?.len();
        if length > MAX_BYTES {
            return Err(format!("{}: larger than {MAX_BYTES} bytes", path.display()));
        }
        let text = std::fs::read_to_string(&path).map_err(|err| failed(&path, err))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        files.push(File { name, text });
    }
    Ok(files)
}

/// Makes the API have them, one after the other.
pub async fn apply(client: Client, manifests: Vec<Manifest>) -> Vec<(Key, String, Outcome)> {
    let mut known = BTreeMap::new();
    let mut outcomes = Vec::new();
    for manifest in manifests {
        let outcome = match one(&client, &mut known, &manifest).await {
            Ok(outcome) => outcome,
            Err(err) => Outcome::Failed(err.to_string()),
        };
        outcomes.push((manifest.key, manifest.digest, outcome));
    }
    outcomes
}

async fn one(
    client: &Client,
    known: &mut BTreeMap<(String, String), (ApiResource, Scope)>,
    manifest: &Manifest,
) -> Result<Outcome, CallError> {
    let key = &manifest.key;
    let (group, version) = key.api_version.rsplit_once('/').unwrap_or(("", &key.api_version));
    let kind = (key.api_version.clone(), key.kind.clone());
    let (resource, scope) = match known.get(&kind) {
        Some(found) => found.clone(),
        None => {
            let gvk = GroupVersionKind::gvk(group, version, &key.kind);
            let (resource, capabilities) = in_time(pinned_kind(client, &gvk)).await?;
            known.entry(kind).or_insert((resource, capabilities.scope)).clone()
        }
    };
    let api: Api<DynamicObject> = match scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced if key.namespace.is_empty() => {
            Api::namespaced_with(client.clone(), DEFAULT_NAMESPACE, &resource)
        }
        Scope::Namespaced => Api::namespaced_with(client.clone(), &key.namespace, &resource),
    };
    match in_time(api.get_opt(&key.name)).await? {
        None => {
            let object =
                serde_json::from_value(manifest.object.clone()).map_err(::kube::Error::SerdeError)?;
            in_time(api.create(&PostParams::default(), &object)).await?;
            Ok(Outcome::Created)
        }
        Some(stored) => {
            let applied = stored.metadata.annotations.as_ref().and_then(|all| all.get(DIGEST));
            if applied == Some(&manifest.digest) {
                return Ok(Outcome::Kept);
            }
            let object = manifest.object.clone();
            // Groups of Kubernetes know how to merge their lists; custom resources do not.
            let builtin = !group.contains('.') || group.ends_with(".k8s.io");
            let params = PatchParams::default();
            if builtin {
                in_time(api.patch(&key.name, &params, &Patch::Strategic(object))).await?;
            } else {
                in_time(api.patch(&key.name, &params, &Patch::Merge(object))).await?;
            }
            Ok(Outcome::Changed)
        }
    }
}
