//! `POST /identity/node`: a node of ours joins, comes back, or renews without a session.

use std::time::SystemTime;

use actix_web::{HttpRequest, web};

use super::attest::{Wanted, Way, World, judge, read};
use super::join::Denied;
use super::join_worker::{JoinServer, address, body, peer};
use crate::bus::identity::{AuditAction, AuditFact};
use crate::identity::sha256_hex;
use crate::model::NodeName;
use crate::model::identity::{Evidence, RenewalReply};
use crate::telemetry::identity::Issued;

impl JoinServer {
    /// The answer, and whom it is about: the node that was asked for, empty when none was understood.
    pub(super) async fn node_identity(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> (String, Result<RenewalReply, Denied>) {
        let read = match body(payload).await {
            Ok(body) => read(&body),
            Err(denied) => Err(denied),
        };
        match read {
            Err(denied) => (String::new(), Err(denied)),
            Ok((node, evidence, wanted)) => {
                let reply = self.attest(request, &node, &evidence, wanted).await;
                (node.as_str().to_owned(), reply)
            }
        }
    }

    async fn attest(
        &self,
        request: &HttpRequest,
        node: &NodeName,
        evidence: &Evidence,
        wanted: Wanted,
    ) -> Result<RenewalReply, Denied> {
        let issuer = &self.issuer;
        let bundle = issuer.signer.ca.bundle();
        let revoked = issuer.revoked().await?;
        let world = World {
            tokens: &self.tokens,
            factory: issuer.with.factory.as_deref(),
            bundle: &bundle,
            grace: issuer.with.reentry_grace,
            revoked: &revoked,
            now: SystemTime::now(),
        };
        let shown = judge(&world, peer(request)?, node, evidence, &wanted.proven)?;
        if let Way::Token(token) = &shown.way {
            self.uses.check_revoked(token).await?;
            self.check_free(node).await?;
        }
        // A token's second use is the same request, not only the same SVID key: each key gets something.
        let request_hash = sha256_hex(&wanted.proven);
        // Signed first and given out last: a request that is not signed costs nobody a token.
        let issued = issuer.node(node, wanted, shown.not_before_min).await?;
        let action = match shown.way {
            Way::Renewal(_) => AuditAction::Renew,
            _ => AuditAction::Join,
        };
        let mut fact = AuditFact::new(action, node.as_str(), true, "")
            .with("way", shown.way.label())
            .with("address", address(request));
        let mut kind = Issued::Node;
        match &shown.way {
            Way::Token(token) => {
                fact = fact.with("token", token.id.as_str());
                if self.uses.take(token, node, &request_hash).await? {
                    kind = Issued::Repeated;
                }
            }
            Way::Reentry(serial) | Way::Renewal(serial) => fact = fact.with("before", serial.as_str()),
            Way::Factory => {}
        }
        issuer.issued(fact, issued.changed, kind);
        tracing::info!(%node, way = shown.way.label(), "node identity signed");
        Ok(issued.reply)
    }
}
