//! The configmaps, secrets and tokens that a pod is made from, and which ones it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use serde_json::{Value, json};

use crate::model::ObjectKey;

/// Kinds of [`ObjectKey`]s here.
pub const CONFIGMAP: &str = "configmap";
pub const SECRET: &str = "secret";
pub const TOKEN: &str = "serviceaccounttoken";

/// Life of a projected token when the pod does not say, seconds (the API server's default).
const DEFAULT_TOKEN_SECS: i64 = 3600;

/// Objects by key; `None` (or absent) means it does not exist. Tokens are TokenRequests with
/// `status.token`, under the key that [`token_wants`] gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources(pub BTreeMap<ObjectKey, Option<Arc<Value>>>);

/// A token that a volume of the pod wants.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenWant {
    /// Where it belongs in [`Sources`].
    pub key: ObjectKey,
    pub service_account: String,
    /// `authentication.k8s.io/v1` TokenRequest, bound to the pod.
    pub request: Value,
}

impl Sources {
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Value> {
        self.0.get(key)?.as_deref()
    }

    pub fn insert(&mut self, key: ObjectKey, object: Option<Arc<Value>>) {
        self.0.insert(key, object);
    }

    /// Entries of a configmap (`data`, then `binaryData`); `None` when it does not exist.
    #[must_use]
    pub fn configmap(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let object = self.get(&ObjectKey::namespaced(namespace, CONFIGMAP, name))?;
        let mut entries = BTreeMap::new();
        for (key, value) in members(object, "data") {
            entries.insert(key.clone(), value.as_str().unwrap_or_default().as_bytes().to_vec());
        }
        entries.extend(decoded(object, "binaryData"));
        Some(entries)
    }

    /// Entries of a secret, decoded; `None` when it does not exist.
    #[must_use]
    pub fn secret(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let object = self.get(&ObjectKey::namespaced(namespace, SECRET, name))?;
        Some(decoded(object, "data").collect())
    }

    /// The token text of a [`TokenWant`].
    #[must_use]
    pub fn token(&self, key: &ObjectKey) -> Option<&str> {
        self.get(key)?.get("status")?.get("token")?.as_str().filter(|token| !token.is_empty())
    }
}

fn members<'a>(object: &'a Value, field: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// Base64 members; one that does not decode is left out, so it reads as a missing key.
fn decoded<'a>(object: &'a Value, field: &'a str) -> impl Iterator<Item = (String, Vec<u8>)> + 'a {
    members(object, field)
        .filter_map(|(key, value)| Some((key.clone(), STANDARD.decode(value.as_str()?.trim()).ok()?)))
}

/// Init containers, then containers.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// Every configmap and secret the node should have to start the pod, optional ones included:
/// environments, volumes, projected sources, init containers, image pull secrets. Sorted, unique.
#[must_use]
pub fn references(pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut keys = BTreeSet::new();
    let mut add = |kind: &str, name: &str| {
        if !name.is_empty() {
            keys.insert(ObjectKey::namespaced(namespace, kind, name));
        }
    };
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(SECRET, &secret.name);
    }
    for container in all_containers(spec) {
        for from in container.env_from.iter().flatten() {
            from.config_map_ref.iter().for_each(|source| add(CONFIGMAP, &source.name));
            from.secret_ref.iter().for_each(|source| add(SECRET, &source.name));
        }
        for from in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
            from.config_map_key_ref.iter().for_each(|source| add(CONFIGMAP, &source.name));
            from.secret_key_ref.iter().for_each(|source| add(SECRET, &source.name));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume.config_map.iter().for_each(|source| add(CONFIGMAP, &source.name));
        volume
            .secret
            .iter()
            .for_each(|source| add(SECRET, source.secret_name.as_deref().unwrap_or_default()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            source.config_map.iter().for_each(|source| add(CONFIGMAP, &source.name));
            source.secret.iter().for_each(|source| add(SECRET, &source.name));
        }
    }
    keys.into_iter().collect()
}

/// Every service-account token the pod's projected volumes want, once each.
#[must_use]
pub fn token_wants(pod: &Pod) -> Vec<TokenWant> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut wants: Vec<TokenWant> = Vec::new();
    for (audience, seconds) in volumes.flat_map(token_sources) {
        let want = token_want(pod, audience, seconds);
        if wants.iter().all(|known| known.key != want.key) {
            wants.push(want);
        }
    }
    wants
}

fn token_sources(volume: &Volume) -> impl Iterator<Item = (Option<&str>, Option<i64>)> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| (token.audience.as_deref(), token.expiration_seconds))
}

/// The token of one projected source, bound to the pod.
#[must_use]
pub fn token_want(pod: &Pod, audience: Option<&str>, seconds: Option<i64>) -> TokenWant {
    let meta = &pod.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let service_account = service_account(pod).to_owned();
    let seconds = seconds.unwrap_or(DEFAULT_TOKEN_SECS);
    let audience = audience.filter(|audience| !audience.is_empty());
    let uid = meta.uid.as_deref().unwrap_or_default();
    let name = format!("{service_account}/{}/{seconds}/{uid}", audience.unwrap_or_default());
    let audiences: Vec<&str> = audience.into_iter().collect();
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": service_account, "namespace": namespace},
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": uid},
        },
    });
    TokenWant { key: ObjectKey::namespaced(namespace, TOKEN, &name), service_account, request }
}

/// `default` when the pod names none.
#[must_use]
pub fn service_account(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    let named = spec.and_then(|spec| spec.service_account_name.as_deref().filter(|name| !name.is_empty()));
    named.unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::pod;
    use super::*;

    #[test]
    fn everything_a_pod_refers_to() {
        let pod = pod(json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "init"}}]}],
            "containers": [{
                "name": "c",
                "envFrom": [{"configMapRef": {"name": "all", "optional": true}}],
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "one", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "pull", "key": "k"}}},
                    {"name": "C", "value": "x"},
                ],
            }],
            "volumes": [
                {"name": "a", "configMap": {"name": "vol"}},
                {"name": "b", "secret": {"secretName": "vol"}},
                {"name": "c", "projected": {"sources": [
                    {"configMap": {"name": "kube-root-ca.crt"}},
                    {"secret": {"name": "proj"}},
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"serviceAccountToken": {"path": "again", "expirationSeconds": 3607}},
                    {"serviceAccountToken": {"path": "vault", "audience": "vault"}},
                ]}},
                {"name": "d", "emptyDir": {}},
            ],
        }}));
        let keys: Vec<String> = references(&pod).iter().map(ToString::to_string).collect();
        assert_eq!(
            keys,
            [
                "default/configmap/all",
                "default/configmap/kube-root-ca.crt",
                "default/configmap/one",
                "default/configmap/vol",
                "default/secret/init",
                "default/secret/proj",
                "default/secret/pull",
                "default/secret/vol",
            ]
        );
        let wants = token_wants(&pod);
        assert_eq!(wants.len(), 2);
        assert_eq!(wants[0].service_account, "default");
        assert_eq!(wants[0].request["spec"]["boundObjectRef"]["uid"], "u-1");
        assert_eq!(wants[0].request["spec"]["audiences"], json!([]));
        assert_eq!(wants[1].request["spec"]["audiences"], json!(["vault"]));
        assert_eq!(wants[1].request["spec"]["expirationSeconds"], 3600);
    }

    #[test]
    fn entries_are_decoded_and_broken_ones_are_missing() {
        let mut sources = Sources::default();
        let object = json!({"data": {"a": "1"}, "binaryData": {"b": "/w==", "c": "*"}});
        sources.insert(ObjectKey::namespaced("d", CONFIGMAP, "m"), Some(Arc::new(object)));
        sources
            .insert(ObjectKey::namespaced("d", SECRET, "s"), Some(Arc::new(json!({"data": {"p": "aGk="}}))));
        sources.insert(ObjectKey::namespaced("d", SECRET, "gone"), None);
        let map = sources.configmap("d", "m").unwrap();
        assert_eq!(map, BTreeMap::from([("a".into(), b"1".to_vec()), ("b".into(), vec![255])]));
        assert_eq!(sources.secret("d", "s").unwrap()["p"], b"hi");
        assert_eq!(sources.secret("d", "gone"), None);
        assert_eq!(sources.secret("d", "never"), None);
    }
}
