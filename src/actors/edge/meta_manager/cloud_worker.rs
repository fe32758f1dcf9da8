//! Calls to the cloud through EdgeHub, as plain async functions.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::node::{
    LeaseCall, first_lease_call, is, metadata_update, next_lease_call, object_of, status_patch,
};
use crate::bus::Link;
use crate::bus::edge_hub::{Class, Request, SendError, SendUpstream};
use crate::bus::meta::MetaError;
use crate::model::{Body, Envelope, ObjectKey, Reason, Resource, group, operation, source, unix_ms};

/// More than the hub's own deadline, for the way to it and back.
const ON_TOP: Duration = Duration::from_secs(2);
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// How long a node update without conflict may take; the cloud says nothing at all when it fails.
const QUIET_UPDATE: Duration = Duration::from_secs(5);
/// Calls about one lease renewal: query, update, conflict, query, update.
const LEASE_CALLS: usize = 5;

/// The way to the cloud.
#[derive(Clone)]
pub struct Cloud {
    pub request: Link<Request>,
    pub send: Link<SendUpstream>,
    pub node: String,
    /// For queries a pod waits for.
    pub query_timeout: Duration,
    /// For status, lease and registration.
    pub call_timeout: Duration,
}

impl Cloud {
    /// Asks and waits for the reply, whatever is in it.
    pub async fn ask(
        &self,
        message: Envelope,
        class: Class,
        timeout: Duration,
    ) -> Result<Envelope, MetaError> {
        let resource = message.route.resource.to_string();
        let request = Request { envelope: message, class, timeout };
        match self.request.ask(request, timeout + ON_TOP).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(err @ (SendError::TooLarge { .. } | SendError::Unprintable(_)))) => {
                Err(MetaError::Protocol(err.to_string()))
            }
            Ok(Err(err)) => {
                tracing::debug!(%resource, error = %err, "no reply from the cloud");
                Err(MetaError::Offline)
            }
            Err(err) => {
                tracing::debug!(%resource, error = %err, "the hub did not take a request");
                Err(MetaError::Offline)
            }
        }
    }

    /// Sends without waiting for a reply; if the session ends before a [barrier](Self::barrier) behind it is passed, it
    /// has to be sent again.
    pub async fn tell(&self, message: Envelope, class: Class) -> Result<(), MetaError> {
        let upstream = SendUpstream { envelope: message, class, comes_again: true };
        match self.send.ask(upstream, SEND_DEADLINE).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(err @ (SendError::TooLarge { .. } | SendError::Unprintable(_)))) => {
                Err(MetaError::Protocol(err.to_string()))
            }
            Ok(Err(_)) | Err(_) => Err(MetaError::Offline),
        }
    }

    /// The object `key`, as the cloud has it.
    pub async fn query(&self, key: &ObjectKey, body: Body) -> Result<Value, MetaError> {
        let message = edged(operation::QUERY, key.clone(), body);
        object_of(self.ask(message, Class::Control, self.query_timeout).await?)
    }

    async fn call(&self, operation: &str, key: ObjectKey, body: Body) -> Result<Value, MetaError> {
        let message = edged(operation, key, body);
        object_of(self.ask(message, Class::Control, self.call_timeout).await?)
    }

    /// Creates the node, or brings an existing one up to date. `local` is the node as it is stored
    /// here: an older cloud may not answer a query for it but pushes it (protocol 16.3, trap 16).
    pub async fn register(&self, wanted: Value, local: Option<Value>) -> Result<Value, MetaError> {
        let key = ObjectKey::cluster("node", &self.node);
        let created = self.call(operation::INSERT, key.clone(), Body::Object(wanted.clone())).await;
        match created {
            Ok(node) => return Ok(node),
            Err(err) if is(&err, Reason::AlreadyExists) => {}
            Err(err) => return Err(err),
        }
        let queried = self.call(operation::QUERY, key.clone(), Body::Null).await;
        let existing = match (queried, local) {
            (Ok(node), _) | (Err(_), Some(node)) => node,
            (Err(err), None) => return Err(err),
        };
        if let Some(update) = metadata_update(&wanted, &existing) {
            let message = edged(operation::UPDATE, key.clone(), Body::Object(update));
            if let Err(err) = self.ask(message, Class::Control, QUIET_UPDATE).await {
                tracing::warn!(error = %err, "labels of the node may not be up to date");
            }
        }
        self.patch_node(&status_patch(&wanted, &existing)).await
    }

    /// Strategic patch of the node's status.
    pub async fn patch_node(&self, patch: &Value) -> Result<Value, MetaError> {
        let key = ObjectKey::cluster("nodepatch", &self.node);
        self.call(operation::PATCH, key, Body::Text(patch.to_string())).await
    }

    /// Creates or renews the lease; returns it as the cloud has it now.
    pub async fn renew_lease(
        &self,
        key: &ObjectKey,
        wanted: &Value,
        known: Option<&Value>,
    ) -> Result<Value, MetaError> {
        let mut call = first_lease_call(wanted, known);
        for _ in 0..LEASE_CALLS {
            let (operation, body) = match &call {
                LeaseCall::Query => (operation::QUERY, Body::Null),
                LeaseCall::Insert(lease) => (operation::INSERT, Body::Object(lease.clone())),
                LeaseCall::Update(lease) => (operation::UPDATE, Body::Object(lease.clone())),
            };
            let answer = match self.call(operation, key.clone(), body).await {
                // No answer settles nothing.
                Err(MetaError::Offline) => return Err(MetaError::Offline),
                answer => answer,
            };
            match next_lease_call(wanted, &call, answer)? {
                Ok(lease) => return Ok(lease),
                Err(next) => call = next,
            }
        }
        Err(MetaError::Protocol("the lease changed under every try".to_owned()))
    }

    /// Comes back when everything sent before in this class has been read by the cloud: frames are
    /// read in order, so the reply to a later one proves the earlier ones arrived.
    pub async fn barrier(&self, class: Class) -> Result<(), MetaError> {
        let lease = ObjectKey::namespaced("kube-node-lease", "lease", &self.node);
        let message = edged(operation::QUERY, lease, Body::Null);
        self.ask(message, class, self.query_timeout).await.map(|_| ())
    }
}

/// A message as edged's come: protocol 6.4.
pub fn edged(operation: &str, key: ObjectKey, body: Body) -> Envelope {
    Envelope::new(source::EDGED, group::META, operation, key.into(), body, now_ms())
}

/// One frame of the resync listing.
pub fn listing_frame(content: Value) -> Envelope {
    let everything = Resource::Other("null".to_owned());
    let body = Body::Object(content);
    Envelope::new(source::META_MANAGER, group::META, operation::RESYNC, everything, body, now_ms())
}

fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}
