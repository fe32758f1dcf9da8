//! What cloudcore believes and signs with, as its configuration says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Node;

use super::program::Fatal;
use crate::config::{CloudCoreConfig, CloudIdentityConfig};
use crate::identity::{Ca, CaSettings, ClientAuth, CloudServerTls, FactoryRoots, KeyPair};

/// Life of CloudHub's certificate, at most that of the issuing CA. It is renewed at half of it.
const HUB_CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest wait for a real cluster's list of nodes.
const ENROLLED_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the CA. A new one is made only where no node is enrolled: nodes believe the one they joined
/// with, and each would have to join again.
pub(super) fn authorities(config: &CloudCoreConfig, enrolled: usize) -> Result<Arc<Ca>, Fatal> {
    let settings = CaSettings { may_create: enrolled == 0, ..CaSettings::from(config) };
    let opened = Ca::open(settings, SystemTime::now()).map_err(|err| match enrolled {
        0 => Fatal::from(err),
        _ => Fatal::from(format!(
            "{err}; {enrolled} nodes are enrolled and believe this CA, so no new one is made: bring its files \
             back from your backup"
        )),
    })?;
    Ok(Arc::new(opened))
}

/// How many edge nodes a real cluster has.
pub(super) async fn edge_nodes(client: &::kube::Client) -> Result<usize, Fatal> {
    let nodes: ::kube::Api<Node> = ::kube::Api::all(client.clone());
    let edges = ::kube::api::ListParams::default().labels("node-role.kubernetes.io/edge");
    let listed = tokio::time::timeout(ENROLLED_TIMEOUT, nodes.list_metadata(&edges)).await;
    let why = match listed {
        Ok(Ok(list)) => return Ok(list.items.len()),
        Ok(Err(err)) => err.to_string(),
        Err(_) => format!("no answer within {} s", ENROLLED_TIMEOUT.as_secs()),
    };
    Err(format!("the CA is missing, and whether nodes are enrolled with it cannot be asked: {why}").into())
}

/// Roots of `identity.factoryCaFile`.
pub(super) fn factory_roots(config: &CloudIdentityConfig) -> Result<Option<Arc<FactoryRoots>>, Fatal> {
    let file = &config.factory_ca_file;
    let set = !file.as_os_str().is_empty();
    Ok(set.then(|| FactoryRoots::load(file)).transpose()?.map(Arc::new))
}

/// TLS of a CloudHub listener: the configured files if they exist, else certificates of our CA.
pub(super) fn hub_tls(
    config: &CloudCoreConfig,
    ca: &Arc<Ca>,
    names: &[String],
    auth: ClientAuth,
) -> Result<CloudServerTls, Fatal> {
    let hub = &config.modules.cloud_hub;
    if !hub.tls_cert_file.exists() && !hub.tls_private_key_file.exists() {
        return Ok(CloudServerTls::issued(Arc::clone(ca), "KubeEdge", names, HUB_CERTIFICATE_TTL, auth)?);
    }
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(|err| format!("cannot read {}: {err}", path.display()))
    };
    let pair = KeyPair { cert_pem: read(&hub.tls_cert_file)?, key_pem: read(&hub.tls_private_key_file)? };
    Ok(CloudServerTls::given(Arc::clone(ca), &pair, auth)?)
}
