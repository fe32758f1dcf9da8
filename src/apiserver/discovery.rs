//! What is served: `/version`, `/api`, `/apis`, in the aggregated and the older form.

use serde_json::{Value, json};

use super::kinds::{self, KINDS, Kind, Nature, Sub};

/// Content-Type of aggregated discovery.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];
const CREATE_ONLY: [&str; 1] = ["create"];

/// `/version`. The number decides which kubectl the users of a kubectl dispatcher get.
#[must_use]
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "32",
        "gitVersion": concat!("v1.32.0-kubeedge-rs-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The name Kubernetes has for what this was built for.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/api`, older form.
#[must_use]
pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

/// `/apis`, older form.
#[must_use]
pub fn groups() -> Value {
    let groups: Vec<Value> = kinds::groups()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, version)| group_json(group, version, false))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`.
#[must_use]
pub fn group(name: &str) -> Option<Value> {
    let (group, version) =
        kinds::groups().into_iter().find(|(group, _)| *group == name && !name.is_empty())?;
    Some(group_json(group, version, true))
}

fn group_json(group: &str, version: &str, typed: bool) -> Value {
    let entry = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let mut value = json!({"name": group, "versions": [entry], "preferredVersion": entry});
    if typed && let Some(map) = value.as_object_mut() {
        map.insert("kind".into(), "APIGroup".into());
        map.insert("apiVersion".into(), "v1".into());
    }
    value
}

/// `/api/v1`, `/apis/{group}/{version}`.
#[must_use]
pub fn resources(group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for kind in members(group, version) {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": verbs(kind), "shortNames": kind.short_names,
            "categories": kind.categories,
        }));
        for sub in kind.subresources {
            let (sub_group, sub_version, sub_kind) = response_kind(kind, *sub);
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, sub.path()), "singularName": "",
                "namespaced": kind.namespaced, "kind": sub_kind, "verbs": sub_verbs(*sub),
            });
            if sub_group != kind.group
                && let Some(map) = entry.as_object_mut()
            {
                map.insert("group".into(), sub_group.into());
                map.insert("version".into(), sub_version.into());
            }
            resources.push(entry);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version, "resources": resources,
    })
}

/// `/api` (core) or `/apis` (the rest), aggregated.
#[must_use]
pub fn aggregated(core: bool) -> Value {
    let items: Vec<Value> = kinds::groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, version)| {
            let resources: Vec<Value> = members(group, version).map(aggregated_resource).collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({
                "metadata": metadata,
                "versions": [{"version": version, "freshness": "Current", "resources": resources}],
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn aggregated_resource(kind: &Kind) -> Value {
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let (group, version, name) = response_kind(kind, *sub);
            json!({
                "subresource": sub.path(), "verbs": sub_verbs(*sub),
                "responseKind": {"group": group, "version": version, "kind": name},
            })
        })
        .collect();
    let scope = if kind.namespaced { "Namespaced" } else { "Cluster" };
    json!({
        "resource": kind.plural, "singularResource": kind.singular, "scope": scope,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "verbs": verbs(kind), "shortNames": kind.short_names, "categories": kind.categories,
        "subresources": subresources,
    })
}

fn members(group: &str, version: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| kind.group == group && kind.version == version)
}

fn verbs(kind: &Kind) -> Vec<&'static str> {
    match kind.nature {
        Nature::Stored => {
            let served = |verb: &&str| *verb != "deletecollection" || kind.deletes_collections();
            ALL_VERBS.into_iter().filter(served).collect()
        }
        Nature::Review => CREATE_ONLY.to_vec(),
    }
}

fn sub_verbs(sub: Sub) -> &'static [&'static str] {
    match sub {
        Sub::Status => &STATUS_VERBS,
        Sub::Binding | Sub::Eviction | Sub::Token => &CREATE_ONLY,
    }
}

fn response_kind(kind: &Kind, sub: Sub) -> (&'static str, &'static str, &'static str) {
    match sub {
        Sub::Status => (kind.group, kind.version, kind.kind),
        Sub::Binding => ("", "v1", "Binding"),
        Sub::Eviction => ("policy", "v1", "Eviction"),
        Sub::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
    }
}
