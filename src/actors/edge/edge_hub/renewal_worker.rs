//! Renewing what this node holds: over the open session when the cloud is ours, else over HTTPS.
//! Sessions stay; the next handshake uses the new files. Only a KubeEdge cloud gets a new session.

use std::time::{Duration, SystemTime};

use actix::prelude::*;
use tokio::sync::oneshot;

use super::certificate::{Certificate, next_renewal, retry_pause};
use super::clock::shown;
use super::credential_files::Identity;
use super::join_error::JoinError;
use super::join_worker::Joiner;
use super::queues::Purpose;
use super::renewal::{self, NotRenewed};
use super::{EdgeHub, now, outgoing};
use crate::bus::edge_hub::{Class, SendError};
use crate::bus::identity::{AuditAction, AuditFact, RootsChanged};
use crate::model::{Envelope, unix_ms};

/// How long the cloud may take to sign. It answers in milliseconds, or not at all.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);

/// When to renew, and what is known about it.
#[derive(Default)]
pub(super) struct Renewing {
    /// By the cloud's clock; `None` before there is anything to renew.
    at: Option<SystemTime>,
    /// What is to be renewed.
    svid: Option<Certificate>,
    failures: u32,
    under_way: bool,
    /// The last failure that was logged: offline is normal, and needs no line for each attempt.
    said: String,
    /// The cloud of the open session has the identity extension.
    over_session: bool,
}

impl EdgeHub {
    /// A session opened with this identity.
    pub(super) fn renew_in_session(&mut self, identity: &Identity, has_extension: bool) {
        self.plan_renewal(identity);
        self.renewing.over_session = has_extension;
        if has_extension && identity.node_ca.is_none() {
            // It joined a KubeEdge cloud, or lost its CA: ours gives it one.
            self.renew_soon();
        }
    }

    /// What is on disk at the start: renewed in time also if no session ever opens.
    pub(super) fn plan_first_renewal(&mut self, identity: &Identity) {
        if self.renewing.at.is_none() {
            self.plan_renewal(identity);
        }
    }

    fn plan_renewal(&mut self, identity: &Identity) {
        let (random, now) = (fastrand::f64(), self.joiner.cloud_now());
        let at = next_renewal(&identity.certificate, identity.node_ca.as_ref(), random, now);
        let Renewing { under_way, over_session, .. } = self.renewing;
        let svid = Some(identity.certificate.clone());
        self.renewing = Renewing { at: Some(at), svid, under_way, over_session, ..Renewing::default() };
    }

    /// Renews at the next look at the clock.
    fn renew_soon(&mut self) {
        self.renewing.at = Some(self.joiner.cloud_now());
    }

    pub(super) fn renew_if_due(&mut self, ctx: &mut Context<Self>) {
        let due = self.renewing.at.is_some_and(|at| at <= self.joiner.cloud_now());
        if !due || self.renewing.under_way || !self.config.rotate_certificates {
            return;
        }
        self.renewing.under_way = true;
        let session = self.hub.session();
        if self.outgoing.is_some() && self.renewing.over_session {
            self.renew_over_session(session, ctx);
        } else {
            let joiner = self.joiner.clone();
            let renewed = async move { joiner.renew().await.map_err(Trouble::Https) };
            ctx.spawn(
                renewed.into_actor(self).map(move |outcome, hub, ctx| hub.renewed(session, outcome, ctx)),
            );
        }
    }

    fn renew_over_session(&mut self, session: u64, ctx: &mut Context<Self>) {
        let (sender, answer) = oneshot::channel();
        let asked = self.joiner.request().map_err(|err| err.to_string()).and_then(|(request, keys)| {
            let question = renewal::question(&request, unix_ms(self.joiner.cloud_now()))?;
            let question =
                outgoing(&question, Class::Control, Purpose::Request).map_err(|err| err.to_string())?;
            Ok((question, keys))
        });
        let (question, keys) = match asked {
            Ok(asked) => asked,
            Err(why) => return self.renewed(session, Err(Trouble::Session(why)), ctx),
        };
        let effects = self.hub.request(question, sender, ANSWER_DEADLINE, now());
        self.run(effects, ctx);
        let joiner = self.joiner.clone();
        let renewed = async move {
            let answer: Result<Envelope, SendError> = answer.await.unwrap_or(Err(SendError::Disconnected));
            let answer = answer.map_err(|err| Trouble::Session(err.to_string()))?;
            let reply = renewal::answer(answer).map_err(Trouble::Answer)?;
            let identity = joiner.install(keys, reply).await.map_err(Trouble::Https)?;
            let fact = AuditFact::new(AuditAction::Renew, identity.credentials.node.to_string(), true, "");
            joiner.tell(fact.with("over", "session"), &identity);
            Ok(identity)
        };
        ctx.spawn(renewed.into_actor(self).map(move |outcome, hub, ctx| hub.renewed(session, outcome, ctx)));
    }

    fn renewed(&mut self, session: u64, outcome: Result<Identity, Trouble>, ctx: &mut Context<Self>) {
        self.renewing.under_way = false;
        let trouble = match outcome {
            Ok(identity) => {
                self.metrics.renewals.increment(1);
                self.plan_renewal(&identity);
                let until = shown(identity.certificate.not_after);
                let is_same_session = self.outgoing.is_some() && session == self.hub.session();
                if is_same_session && !self.renewing.over_session {
                    tracing::info!(until, "certificate renewed, reconnecting with it");
                    let effects = self.hub.rotate(now());
                    self.run(effects, ctx);
                } else {
                    tracing::info!(until, "identity renewed");
                }
                return;
            }
            Err(trouble) => trouble,
        };
        self.metrics.renewals_failed.increment(1);
        let renewing = &mut self.renewing;
        let pause = retry_pause(renewing.svid.as_ref(), renewing.failures, fastrand::f64());
        renewing.failures = renewing.failures.saturating_add(1);
        renewing.at = Some(self.joiner.cloud_now() + pause);
        let why = trouble.to_string();
        if why == renewing.said {
            tracing::debug!(error = why, "identity still not renewed");
        } else {
            tracing::warn!(error = why, retry_ms = pause.as_millis(), "identity not renewed, trying on");
            renewing.said.clone_from(&why);
        }
        match trouble {
            Trouble::Https(err) => self.joiner.audit_refusal(AuditAction::Renew, &err),
            Trouble::Answer(NotRenewed::Refused(_)) => self.joiner.audit_refused(AuditAction::Renew, why),
            Trouble::Answer(NotRenewed::Garbled(_)) | Trouble::Session(_) => {}
        }
    }
}

/// Why nothing was renewed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("over the session: {0}")]
    Session(String),
    #[error("over the session: {0}")]
    Answer(NotRenewed),
    #[error(transparent)]
    Https(JoinError),
}

impl Handler<RootsChanged> for EdgeHub {
    type Result = ();

    fn handle(&mut self, RootsChanged(document): RootsChanged, ctx: &mut Context<Self>) {
        let joiner: Joiner = self.joiner.clone();
        let replaced = async move { joiner.replace_roots(document).await };
        ctx.spawn(replaced.into_actor(self).map(|outcome, hub, _| {
            if let Err(err) = outcome {
                // The answer to a renewal holds roots and a certificate that belong together.
                tracing::warn!(error = %err, "the roots stay as they are, renewing instead");
                hub.renew_soon();
            }
        }));
    }
}
