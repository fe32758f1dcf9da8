//! Registry credentials for a pull, from `imagePullSecrets`. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::sources::Sources;

/// Registry of images that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "lowercase")]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// Credentials that fit the image, most specific first. Secrets that are missing or do not decode
/// give none, as with the kubelet.
#[must_use]
pub fn credentials(pod: &Pod, sources: &Sources, image: &str) -> Vec<AuthConfig> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for secret in secrets {
        let entries = sources.secret(namespace, &secret.name).unwrap_or_default();
        let modern = entries.get(".dockerconfigjson").map(|raw| serde_json::from_slice::<DockerConfig>(raw));
        let old = entries.get(".dockercfg").map(|raw| serde_json::from_slice(raw));
        let auths = match (modern, old) {
            (Some(Ok(config)), _) => config.auths,
            (_, Some(Ok(auths))) => auths,
            _ => continue,
        };
        for (registry, entry) in auths {
            if let Some(depth) = fits(&registry, image) {
                found.push((depth, auth(entry)));
            }
        }
    }
    found.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// How well `registry` (`host[:port][/path]`, perhaps with a scheme or `*.`) fits: its length.
fn fits(registry: &str, image: &str) -> Option<usize> {
    let wanted = registry.trim_start_matches("https://").trim_start_matches("http://");
    let wanted = wanted.trim_end_matches('/').trim_end_matches("/v2").trim_end_matches("/v1");
    let (host, path) = wanted.split_once('/').unwrap_or((wanted, ""));
    let host = if host == "index.docker.io" { DEFAULT_REGISTRY } else { host };
    let (image_host, image_path) = split(image);
    let same = match host.strip_prefix("*.") {
        Some(domain) => image_host.split_once('.').is_some_and(|(_, rest)| rest == domain),
        None => host == image_host,
    };
    let below = path.is_empty()
        || image_path
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
    (same && below).then_some(wanted.len())
}

/// Host and path of an image name. The first part is a host if it looks like one.
fn split(image: &str) -> (&str, &str) {
    match image.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DEFAULT_REGISTRY, image),
    }
}

fn auth(entry: Entry) -> AuthConfig {
    let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|raw| String::from_utf8(raw).ok());
    let (username, password) = match decoded.as_deref().and_then(|text| text.split_once(':')) {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None => (entry.username, entry.password),
    };
    AuthConfig {
        username,
        password,
        auth: String::new(),
        // Empty as with the kubelet: containerd compares it as a URL with a host, and what stands in
        // a secret (`registry.example:5000`) is mostly none, so that the credentials would not be used.
        server_address: String::new(),
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::fixtures::pod;
    use super::*;
    use crate::model::ObjectKey;

    #[test]
    fn the_most_specific_registry_goes_first() {
        let pod =
            pod(json!({"spec": {"imagePullSecrets": [{"name": "a"}, {"name": "gone"}, {"name": "bad"}]}}));
        let config = json!({"auths": {
            "registry.local": {"auth": STANDARD.encode("u:p:w")},
            "https://registry.local/team/": {"username": "team", "password": "x"},
            "other.local": {"username": "o", "password": "o"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "h"},
        }});
        let mut sources = Sources::default();
        let secret = |raw: &str| json!({"data": {".dockerconfigjson": STANDARD.encode(raw)}});
        let mut put = |name: &str, raw: &str| {
            sources.insert(ObjectKey::namespaced("default", "secret", name), Some(Arc::new(secret(raw))));
        };
        put("a", &config.to_string());
        put("bad", "{");
        let users = |image: &str| -> Vec<(String, String)> {
            credentials(&pod, &sources, image).into_iter().map(|a| (a.username, a.password)).collect()
        };
        let own = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        assert_eq!(users("registry.local/hello:1"), [own("u", "p:w")]);
        assert_eq!(users("registry.local/team/app:1"), [own("team", "x"), own("u", "p:w")]);
        assert_eq!(users("registry.local/teams/app:1"), [own("u", "p:w")]);
        assert_eq!(users("busybox"), [own("hub", "h")]);
        assert_eq!(users("elsewhere.local/x"), []);
    }
}
