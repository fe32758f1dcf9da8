//! Revoked join tokens: the Secret `revoked-tokens` in namespace `kubeedge`, one key per token id,
//! its value the token's expiry in unix seconds (empty when unknown). CloudHub reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Map, Value, json};

use super::Refusal;
use crate::config::CloudCoreConfig;
use crate::model::unix_secs;
use crate::telemetry::logging::with_causes;

/// Namespace of the Secret.
pub(super) const NAMESPACE: &str = "kubeedge";
/// Name of the Secret.
pub(super) const SECRET: &str = "revoked-tokens";
/// Name of the Secret of used tokens: one key a token id, its value JSON with the `node`. CloudHub
/// writes it.
const USED: &str = "used-tokens";

/// Longest wait for the API.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the cloud's API, by the administrator's kubeconfig.
pub(super) async fn client(config: &CloudCoreConfig) -> Result<kube::Client, Refusal> {
    let api = &config.kube_api_config;
    let path = if api.kube_config.as_os_str().is_empty() {
        &config.modules.api_server.kubeconfig
    } else {
        &api.kube_config
    };
    let fail = |err: &dyn std::error::Error| {
        Refusal::new(format!("kubeconfig {}: {}", path.display(), with_causes(err)))
    };
    if !path.exists() {
        let path = path.display();
        return Err(Refusal::new(format!("{path} does not exist: start cloudcore, which writes it")));
    }
    let kubeconfig = Kubeconfig::read_from(path).map_err(|err| fail(&err))?;
    let options = KubeConfigOptions::default();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|err| fail(&err))?;
    if !api.master.is_empty() {
        config.cluster_url = api
            .master
            .parse()
            .map_err(|_| Refusal::new(format!("kubeAPIConfig.master {:?} is no URL", api.master)))?;
    }
    config.connect_timeout = Some(TIMEOUT);
    config.read_timeout = Some(TIMEOUT);
    kube::Client::try_from(config).map_err(|err| fail(&err))
}

pub(super) fn api_failed(what: &str, err: &kube::Error) -> Refusal {
    let unreachable = matches!(err, kube::Error::Service(_) | kube::Error::HyperError(_));
    let hint = if unreachable { " (does cloudcore run?)" } else { "" };
    Refusal::new(format!("{what}: {}{hint}", with_causes(err)))
}

/// What became of tokens.
#[derive(Debug, Default)]
pub(super) struct Fates {
    pub revoked: BTreeSet<String>,
    /// Token id to the node that used it.
    pub used: BTreeMap<String, String>,
}

/// Revoked and used tokens, as the API has them.
pub(super) async fn fates(client: kube::Client) -> Result<Fates, Refusal> {
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let data = async |name: &str| {
        let secret = secrets.get_opt(name).await;
        let secret = secret.map_err(|err| api_failed(&format!("secret kubeedge/{name}"), &err))?;
        Ok::<_, Refusal>(secret.and_then(|secret| secret.data).unwrap_or_default())
    };
    let revoked = data(SECRET).await?.into_keys().collect();
    let node = |value: &ByteString| {
        let record: Value = serde_json::from_slice(&value.0).unwrap_or_default();
        record.get("node").and_then(Value::as_str).unwrap_or("an unknown node").to_owned()
    };
    let used = data(USED).await?.iter().map(|(id, value)| (id.clone(), node(value))).collect();
    Ok(Fates { revoked, used })
}

/// Adds a token to the Secret and drops the ones that expired since. Revoking twice is fine.
pub(super) async fn revoke(
    client: kube::Client,
    id: &str,
    expires_at: Option<u64>,
    now: SystemTime,
) -> Result<(), Refusal> {
    let failed = |err: &kube::Error| api_failed("secret kubeedge/revoked-tokens", err);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    if secrets.get_opt(SECRET).await.map_err(|err| failed(&err))?.is_none() {
        let namespaces: Api<Namespace> = Api::all(client);
        let namespace = object(json!({"metadata": {"name": NAMESPACE}}))?;
        created(namespaces.create(&PostParams::default(), &namespace).await, "namespace kubeedge")?;
        let secret = object(json!({"metadata": {"name": SECRET}, "type": "Opaque"}))?;
        created(secrets.create(&PostParams::default(), &secret).await, "secret kubeedge/revoked-tokens")?;
    }
    let present = secrets.get(SECRET).await.map_err(|err| failed(&err))?.data.unwrap_or_default();
    let patch = Patch::Merge(patch(&present, id, expires_at, now));
    secrets.patch(SECRET, &PatchParams::default(), &patch).await.map_err(|err| failed(&err))?;
    Ok(())
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|err| Refusal::new(err.to_string()))
}

/// Somebody else may have been faster: that is success too.
pub(super) fn created<T>(result: Result<T, kube::Error>, what: &str) -> Result<(), Refusal> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(err) => Err(api_failed(what, &err)),
    }
}

/// The merge patch: the new id in, expired ids out.
fn patch(
    present: &BTreeMap<String, ByteString>,
    id: &str,
    expires_at: Option<u64>,
    now: SystemTime,
) -> Value {
    let now = unix_secs(now);
    let expired = present.iter().filter(|(_, value)| {
        let expiry = std::str::from_utf8(&value.0).ok().and_then(|text| text.parse::<u64>().ok());
        expiry.is_some_and(|expiry| expiry <= now)
    });
    let mut data: Map<String, Value> = expired.map(|(id, _)| (id.clone(), Value::Null)).collect();
    let value = expires_at.map(|secs| secs.to_string()).unwrap_or_default();
    data.insert(id.to_owned(), STANDARD.encode(value).into());
    json!({"data": data})
}

/// Whether the cloud has nodes; an error when the API cannot tell.
pub(super) async fn has_nodes(client: kube::Client) -> Result<bool, Refusal> {
    let nodes: Api<Node> = Api::all(client);
    let list = nodes.list(&ListParams::default().limit(1)).await.map_err(|err| api_failed("nodes", &err))?;
    Ok(!list.items.is_empty())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use http_body_util::BodyExt;
    use kube::client::Body;
    use parking_lot::Mutex;

    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn the_patch_adds_one_and_drops_the_expired() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let value = |text: &str| ByteString(text.as_bytes().to_vec());
        let present = BTreeMap::from([
            ("old".to_owned(), value("1000")),
            ("live".to_owned(), value("1001")),
            ("unknown".to_owned(), value("")),
            ("odd".to_owned(), ByteString(vec![0xff])),
        ]);
        let want = json!({"data": {"old": null, "new": STANDARD.encode("2000")}});
        assert_eq!(patch(&present, "new", Some(2000), now), want);
        assert_eq!(patch(&BTreeMap::new(), "new", None, now), json!({"data": {"new": ""}}));
    }

    /// An API that has no such Secret at first and a namespace already.
    fn fake_api() -> (kube::Client, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let log = log.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("body").to_bytes();
                let created = log
                    .lock()
                    .iter()
                    .any(|line: &String| line.starts_with("POST /api/v1/namespaces/kubeedge/secrets"));
                let line =
                    format!("{} {} {}", parts.method, parts.uri.path(), String::from_utf8_lossy(&body));
                log.lock().push(line);
                let failure = |code: u16, reason: &str| {
                    (
                        code,
                        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code}),
                    )
                };
                let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}});
                let (code, answer) = match (parts.method.as_str(), parts.uri.path()) {
                    ("GET", _) if !created => failure(404, "NotFound"),
                    ("POST", "/api/v1/namespaces") => failure(409, "AlreadyExists"),
                    ("POST", _) => (201, secret),
                    _ => (200, secret),
                };
                let response =
                    http::Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, Infallible>(response.expect("response"))
            }
        });
        (kube::Client::new(service, "default"), seen)
    }

    #[tokio::test]
    async fn the_first_revocation_makes_the_secret() {
        let (client, seen) = fake_api();
        revoke(client, "abc", Some(77), UNIX_EPOCH).await.expect("revoked");
        let seen = seen.lock().clone();
        let heads: Vec<_> =
            seen.iter().map(|line| line.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        let secret = "/api/v1/namespaces/kubeedge/secrets";
        let want = [
            format!("GET {secret}/revoked-tokens"),
            "POST /api/v1/namespaces".into(),
            format!("POST {secret}"),
            format!("GET {secret}/revoked-tokens"),
            format!("PATCH {secret}/revoked-tokens"),
        ];
        assert_eq!(heads, want);
        assert!(
            seen[4].ends_with(&json!({"data": {"abc": STANDARD.encode("77")}}).to_string()),
            "{}",
            seen[4]
        );
    }
}
