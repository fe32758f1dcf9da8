//! Renewal over the session: the node asks, new certificates come back, and the session lives on
//! until they end.

use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;

use super::attest::Wanted;
use super::issue::Issued;
use super::join::Denied;
use super::revoked;
use super::session_worker::{SessionWorker, now_ms};
use crate::bus::cloud_hub::EndReason;
use crate::bus::identity::{AuditAction, AuditFact};
use crate::model::identity::RenewalRequest;
use crate::model::{Body, Envelope, source};
use crate::telemetry::identity::{self, Refused};

/// How long from now until `time`, never so long that it cannot be added to an [`Instant`].
pub(super) fn from_now(time: SystemTime) -> Instant {
    const FAR: Duration = Duration::from_secs(10 * 366 * 86_400);
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default().min(FAR)
}

impl SessionWorker {
    /// Signs on a thread that may block, then answers.
    pub(super) fn renew(&mut self, asked: Envelope, ctx: &mut Context<Self>) {
        let issuer = self.issuer.clone();
        let (node, connection) = (self.node.clone(), self.connection.clone());
        let body = asked.body.clone();
        let work = async move {
            let peer = connection.peer.as_ref();
            let peer = peer.ok_or_else(|| Denied::new(403, Refused::Chain, "no client certificate"))?;
            // Its end does not count: it may have been renewed since the handshake.
            let from = Some(peer.valid.not_before);
            let not_before_min = revoked::check(&*issuer.revoked().await?, &node, from)?;
            issuer.node(&node, wanted(body)?, not_before_min).await
        };
        let done =
            work.into_actor(self).map(move |result, actor, ctx| actor.renewal_done(&asked, result, ctx));
        ctx.spawn(done);
    }

    fn renewal_done(&mut self, asked: &Envelope, result: Result<Issued, Denied>, ctx: &mut Context<Self>) {
        let peer = self.connection.address();
        let (body, ends) = match result {
            Ok(issued) => {
                let address = peer.map(|it| it.ip().to_string()).unwrap_or_default();
                let fact = AuditFact::new(AuditAction::Renew, self.node.as_str(), true, "")
                    .with("way", "session")
                    .with("address", address);
                let ends = from_now(issued.svid.ends);
                let body = match serde_json::to_value(&issued.reply) {
                    Ok(reply) => Body::Object(reply),
                    Err(err) => Body::Text(err.to_string()),
                };
                self.issuer.issued(fact, issued.changed, identity::Issued::Node);
                tracing::debug!(node = %self.node, session = self.id, "renewed over the session");
                (body, Some(ends))
            }
            Err(denied) => {
                tracing::warn!(node = %self.node, session = self.id, why = denied.why, "renewal refused");
                self.issuer.refused(self.node.as_str(), &denied, peer);
                if denied.reason == Refused::Revoked {
                    return self.finish(EndReason::Revoked, ctx);
                }
                (Body::Text(denied.why), None)
            }
        };
        let mut answer = asked.response(body, now_ms());
        source::CLOUD_HUB.clone_into(&mut answer.route.source);
        self.step(ctx, |state, now| state.renewed(answer, ends, now));
    }
}

fn wanted(body: Body) -> Result<Wanted, Denied> {
    let wrong = |why: String| Denied::new(400, Refused::Malformed, why);
    let Body::Object(body) = body else { return Err(wrong("the content is no renewal request".to_owned())) };
    let request: RenewalRequest = serde_json::from_value(body)
        .map_err(|err| wrong(format!("the content is no renewal request: {err}")))?;
    Wanted::read(&request)
}
