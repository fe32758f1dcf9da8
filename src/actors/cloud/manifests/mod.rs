//! Manifests: keeps what the files of a folder say in the embedded API (`apiServer.manifestsDir`).
//!
//! A document makes its object where there is none, and changes it when the document itself has
//! changed since; between the two, what users do to the object stays. A file or document that goes
//! away takes nothing with it.

mod calls_worker;
mod plan;
pub(crate) mod read;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use actix::prelude::{Actor, ActorFutureExt, AsyncContext, Context, Supervised, WrapFuture};

use self::plan::{Note, Plan};
use self::read::Manifest;
use crate::supervise::spread;

/// Its name in the tree.
pub const NAME: &str = "Manifests";

/// The actor. Its mailbox holds heartbeats only.
pub struct Manifests {
    client: ::kube::Client,
    folder: PathBuf,
    plan: Plan,
}

impl Manifests {
    /// `client` may do everything the documents ask for.
    #[must_use]
    pub fn new(client: ::kube::Client, folder: PathBuf) -> Self {
        Self { client, folder, plan: Plan::default() }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let wanted = calls_worker::look(self.folder.clone());
        ctx.spawn(wanted.into_actor(self).map(|wanted, this, ctx| {
            let due = this.plan.due(wanted);
            this.apply(due, ctx);
        }));
    }

    fn apply(&mut self, due: Vec<Manifest>, ctx: &mut Context<Self>) {
        let work = calls_worker::apply(self.client.clone(), due);
        ctx.spawn(work.into_actor(self).map(|outcomes, this, ctx| {
            for note in this.plan.settle(outcomes) {
                match note {
                    Note::Applied(what) => tracing::info!(folder = %this.folder.display(), "{what}"),
                    Note::Trouble(what) => {
                        tracing::warn!(folder = %this.folder.display(), "manifest not applied: {what}");
                    }
                }
            }
            ctx.run_later(spread(this.plan.pause(), fastrand::f64()), Self::look);
        }));
    }
}

impl Actor for Manifests {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look(ctx);
    }
}

impl Supervised for Manifests {
    /// What was done is in the API; it is compared again.
    fn restarting(&mut self, _: &mut Self::Context) {
        self.plan = Plan::default();
    }
}

crate::handles!(Manifests);
