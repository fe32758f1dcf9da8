//! Files and calls of the API, each bounded.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use ::kube::Client;
use ::kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use ::kube::core::GroupVersionKind;
use ::kube::discovery::{Scope, pinned_kind};

use super::plan::Outcome;
use super::read::{DIGEST, File, Key, Manifest, Wanted, read};
use crate::actors::cloud::kube_worker::{CallError, in_time};

/// Most files of the folder.
const MAX_FILES: usize = 256;
/// Largest file, bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// All files together.
const MAX_ALL_BYTES: u64 = 16 * MAX_BYTES;
/// Namespace of what names none.
const DEFAULT_NAMESPACE: &str = "default";

/// What the folder's `.yaml`, `.yml` and `.json` files say, in the order of their names. One that cannot be
/// read is told and stops no other.
pub async fn look(folder: PathBuf) -> Wanted {
    let task = tokio::task::spawn_blocking(move || {
        let (files, mut wrong) = list(&folder);
        let mut wanted = read(&files);
        wanted.wrong.append(&mut wrong);
        wanted
    });
    task.await.unwrap_or_else(|err| Wanted { wrong: vec![err.to_string()], ..Wanted::default() })
}

fn list(folder: &Path) -> (Vec<File>, Vec<String>) {
    let failed = |err: std::io::Error| (Vec::new(), vec![format!("{}: {err}", folder.display())]);
    let entries = match std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(err) => return failed(err),
    };
    let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.retain(|path| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("yaml" | "yml" | "json")) && path.is_file()
    });
    paths.sort();
    if paths.len() > MAX_FILES {
        return failed(std::io::Error::other(format!("more than {MAX_FILES} files")));
    }
    let (mut files, mut wrong, mut room) = (Vec::new(), Vec::new(), MAX_ALL_BYTES);
    for path in paths {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match text(&path, room.min(MAX_BYTES)) {
            Ok(text) => {
                room = room.saturating_sub(text.len() as u64);
                files.push(File { name, text });
            }
            // It went while the folder was read.
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => wrong.push(format!("{name}: {err}")),
        }
    }
    (files, wrong)
}

fn text(path: &Path, most: u64) -> std::io::Result<String> {
    let mut text = String::new();
    // It may grow meanwhile.
    std::fs::File::open(path)?.take(most.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        let why = format!("it is larger than {MAX_BYTES} bytes, or all files together than {MAX_ALL_BYTES}");
        return Err(std::io::Error::other(why));
    }
    Ok(text)
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
