//! MetaManager's calls about this node: registration, status, lease, and the resync listing.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::cloud_worker::listing_frame;
use super::{MetaManager, later, store_error};
use crate::bus::edge_hub::Class;
use crate::bus::meta::{MetaError, PatchNodeStatus, RegisterNode, RenewLease};
use crate::model::ObjectKey;

/// The cloud compares the whole listing before it answers.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);
const LISTING_RETRY: Duration = Duration::from_secs(5);

fn to_json<T: Serialize>(object: &T) -> Result<Value, MetaError> {
    serde_json::to_value(object).map_err(|err| MetaError::Protocol(format!("not encoded: {err}")))
}

impl MetaManager {
    fn node_key(&self) -> ObjectKey {
        ObjectKey::cluster("node", self.node.as_str())
    }

    /// Keeps the node the cloud answered with, then answers the caller.
    fn keep_node(
        &mut self,
        answer: Result<Value, MetaError>,
        reply: oneshot::Sender<Result<Arc<Value>, MetaError>>,
        ctx: &mut Context<Self>,
    ) {
        let node = match answer.and_then(|node| self.check().map(|()| node)) {
            Ok(node) => node,
            Err(err) => return drop(reply.send(Err(err))),
        };
        let key = self.node_key();
        let stored = self.read(&key).unwrap_or_default();
        let change = self.index.upsert_reply(&key, node.clone(), stored.as_ref());
        self.commit_change(change, ctx, move |_, _, outcome| {
            drop(reply.send(outcome.map(|()| Arc::new(node)).map_err(|err| store_error(&err))));
        });
    }
}

impl Handler<RegisterNode> for MetaManager {
    type Result = ResponseFuture<Result<Arc<Value>, MetaError>>;

    fn handle(&mut self, RegisterNode(node): RegisterNode, ctx: &mut Context<Self>) -> Self::Result {
        let wanted = match to_json(&*node) {
            Ok(wanted) if self.link.connected => wanted,
            Ok(_) => return Box::pin(async { Err(MetaError::Offline) }),
            Err(err) => return Box::pin(async { Err(err) }),
        };
        let local = self.read(&self.node_key()).unwrap_or_default();
        let cloud = self.cloud.clone();
        let (reply, answer) = oneshot::channel();
        let registered = async move { cloud.register(wanted, local).await };
        ctx.spawn(registered.into_actor(self).map(|node, meta, ctx| meta.keep_node(node, reply, ctx)));
        later(answer)
    }
}

impl Handler<PatchNodeStatus> for MetaManager {
    type Result = ResponseFuture<Result<Arc<Value>, MetaError>>;

    fn handle(&mut self, msg: PatchNodeStatus, ctx: &mut Context<Self>) -> Self::Result {
        if !self.link.connected {
            return Box::pin(async { Err(MetaError::Offline) });
        }
        let cloud = self.cloud.clone();
        let (reply, answer) = oneshot::channel();
        let patched = async move { cloud.patch_node(&msg.patch).await };
        ctx.spawn(patched.into_actor(self).map(|node, meta, ctx| meta.keep_node(node, reply, ctx)));
        later(answer)
    }
}

impl Handler<RenewLease> for MetaManager {
    type Result = ResponseActFuture<Self, Result<(), MetaError>>;

    fn handle(&mut self, RenewLease(lease): RenewLease, _: &mut Context<Self>) -> Self::Result {
        let wanted = to_json(&*lease);
        let (cloud, known, connected) = (self.cloud.clone(), self.lease.clone(), self.link.connected);
        let key = ObjectKey::namespaced("kube-node-lease", "lease", self.node.as_str());
        let renewed = async move {
            if !connected {
                return Err(MetaError::Offline);
            }
            cloud.renew_lease(&key, &wanted?, known.as_ref()).await
        };
        Box::pin(renewed.into_actor(self).map(|renewed, meta, _| match renewed {
            Ok(lease) => {
                meta.lease = Some(lease);
                Ok(())
            }
            // On a slow link answers are late for a minute. What is sent arrives: a query would renew nothing.
            Err(MetaError::Offline) => Err(MetaError::Offline),
            // Nothing is known any more: the next renewal begins with a query.
            Err(err) => {
                meta.lease = None;
                Err(err)
            }
        }))
    }
}

impl MetaManager {
    /// The cloud knows less than this node: it was restored from older data, and what it has now counts. Everything
    /// is compared again, and told again where the cloud only knows it from here.
    pub(super) fn begin_anew(&mut self, ctx: &mut Context<Self>) {
        tracing::warn!("the cloud was restored from older data: everything is compared and reported anew");
        self.index.forget_versions();
        self.twin_anew_untold = true;
        self.tell_notices();
        self.send_listing(self.link.session, ctx);
    }

    /// Lists what is stored here, so that the cloud sends only what differs. Repeated until the
    /// cloud has answered or the session is another.
    pub(super) fn send_listing(&mut self, session: u64, ctx: &mut Context<Self>) {
        if self.link.session != session || !self.link.connected {
            return;
        }
        let frames = self.index.listing();
        let cloud = self.cloud.clone();
        let sent = async move {
            let last = frames.len().saturating_sub(1);
            for (part, frame) in frames.into_iter().enumerate() {
                let message = listing_frame(frame);
                if part < last {
                    cloud.tell(message, Class::Control).await?;
                } else {
                    cloud.ask(message, Class::Control, LISTING_TIMEOUT).await?;
                }
            }
            Ok::<(), MetaError>(())
        };
        ctx.spawn(sent.into_actor(self).map(move |outcome, _, ctx| {
            if let Err(err) = outcome {
                tracing::warn!(session, error = %err, "the cloud did not take the listing");
                ctx.run_later(LISTING_RETRY, move |meta, ctx| meta.send_listing(session, ctx));
            }
        }));
    }
}
