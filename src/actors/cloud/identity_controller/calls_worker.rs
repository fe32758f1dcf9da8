//! What IdentityController asks others to do: sealing off the arbiter, writing ConfigMaps, events.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kube::Client;
use actix::Message;
use serde_json::json;

use super::ledger::{JWT_KEYS, NODE_IDENTITIES, NODE_REVOCATIONS, Pending};
use super::publication::Published;
use super::sources::Notice;
use super::{NAME, NAMESPACE, config_map_worker, document};
use crate::actors::cloud::kube_worker::{CallError, Told, tell};
use crate::bus::Link;
use crate::bus::cloud_hub::Outgoing;
use crate::identity::Ca;
use crate::model::identity::EDGE_IDENTITY_KIND;
use crate::model::{NodeName, unix_ms, unix_secs};
use crate::supervise::{doubled, spread};

/// A link that is not taken for so long is given up: its actor starts anew and compares.
const TRIES: u32 = 12;
const ASK: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Unix milliseconds.
pub fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}

/// The document for each of these nodes. Signing may ask a token, so it happens off the arbiter.
///
/// # Errors
/// Why nothing could be signed.
pub async fn seal(
    ca: Arc<Ca>,
    nodes: Vec<NodeName>,
    current: Published,
    operation: &'static str,
) -> Result<Vec<(NodeName, Arc<Outgoing>)>, String> {
    let work = move || {
        let (now, now_ms, spec) = (SystemTime::now(), now_ms(), &current.spec);
        let one = |node: NodeName| {
            let seal =
                ca.seal(EDGE_IDENTITY_KIND, &node, spec.as_bytes(), now).map_err(|err| err.to_string())?;
            let message = document::message(operation, &node, &current.version, spec, &seal, now_ms);
            Ok((node, message.printed()))
        };
        nodes.into_iter().map(one).collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(|err| err.to_string())?
}

/// Writes down what is pending.
///
/// # Errors
/// [`CallError`] of the first map that was not written; writing all of it again is harmless.
pub async fn write(client: &Client, pending: &Pending) -> Result<(), CallError> {
    let now = unix_secs(SystemTime::now());
    // Revocations first: they must not wait for anything.
    config_map_worker::amend(client, NODE_REVOCATIONS, |data| pending.edit_revocations(data)).await?;
    config_map_worker::amend(client, JWT_KEYS, |data| pending.edit_keys(data, now)).await?;
    config_map_worker::amend(client, NODE_IDENTITIES, |data| pending.edit_identities(data, now)).await?;
    Ok(())
}

/// Asks until it is taken.
pub async fn until_taken<M>(link: &Link<M>, message: M)
where
    M: Message<Result = ()> + Clone + Send + 'static,
{
    for tries in 0..TRIES {
        match link.ask(message.clone(), ASK).await {
            Ok(()) => return,
            Err(err) => tracing::warn!(error = %err, "not taken, trying again"),
        }
        tokio::time::sleep(spread(doubled(FIRST_PAUSE, tries, LAST_PAUSE), fastrand::f64())).await;
    }
    tracing::error!(actor = link.actor(), "given up after {TRIES} tries");
}

/// An event about an object that is not wholly used.
pub async fn explain(client: Client, notice: Notice) {
    let (namespace, name) = &notice.name;
    let about = json!({
        "apiVersion": notice.kind.api_version(), "kind": notice.kind.name(),
        "namespace": namespace, "name": name, "uid": notice.uid,
    });
    warn(&client, about, "Invalid", &notice.why).await;
}

/// An event about a ConfigMap of ours.
pub async fn explain_map(client: Client, name: &'static str, reason: &'static str, message: String) {
    let about = json!({"apiVersion": "v1", "kind": "ConfigMap", "namespace": NAMESPACE, "name": name});
    warn(&client, about, reason, &message).await;
}

/// An event about a node that was cloned.
pub async fn explain_node(client: Client, node: NodeName, message: String) {
    // As node agents do it: the uid of a node's events is its name.
    let about = json!({"apiVersion": "v1", "kind": "Node", "name": node.as_str(), "uid": node.as_str()});
    warn(&client, about, "NodeCloned", &message).await;
}

async fn warn(client: &Client, about: serde_json::Value, reason: &str, message: &str) {
    tell(client, Told { about, component: NAME, kind: "Warning", reason, message }).await;
}
