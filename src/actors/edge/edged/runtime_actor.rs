//! Edged's talk with the runtime: its events, its lists, what it has of pods that are no more.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use k8s_openapi::api::core::v1::Pod;

use super::action_worker::rows;
use super::gate::seals::{Delivered, Source};
use super::names::PodRef;
use super::node_worker::Probe;
use super::orphans::Evidence;
use super::pod_worker::Relisted;
use super::{EARLY_RESYNC, Edged, LISTEN_BASE, LISTEN_CAP, report_lost};
use crate::supervise::{doubled, spread};

impl Edged {
    pub(super) fn listen(&mut self, ctx: &mut Context<Self>) {
        let runtime = Arc::clone(&self.runtime);
        let open = async move { runtime.events().await };
        ctx.spawn(open.into_actor(self).map(|stream, edged, ctx| match stream {
            Ok(stream) => {
                edged.listen_failures = 0;
                ctx.add_stream(stream);
                // What happened before the stream was open shows in a list.
                if edged.runtime_lost {
                    edged.probe_node();
                    edged.relist(ctx);
                }
            }
            Err(err) => {
                if !edged.runtime_lost {
                    tracing::warn!(error = %err, "runtime events are not available");
                }
                edged.listen_later(ctx);
            }
        }));
    }

    pub(super) fn listen_later(&mut self, ctx: &mut Context<Self>) {
        self.runtime_lost = true;
        let pause = doubled(LISTEN_BASE, self.listen_failures, LISTEN_CAP);
        self.listen_failures = self.listen_failures.saturating_add(1);
        ctx.run_later(spread(pause, fastrand::f64()), Self::listen);
        self.probe_node();
    }

    pub(super) fn probe_node(&self) {
        if let Some(node) = &self.node
            && let Err(err) = node.link().tell(Probe)
        {
            tracing::debug!(error = %err, "node worker is busy");
        }
    }

    /// Compares every pod with a complete list of the runtime.
    pub(super) fn relist(&mut self, ctx: &mut Context<Self>) {
        if self.relisting || self.site.is_none() {
            return;
        }
        self.relisting = true;
        let runtime = Arc::clone(&self.runtime);
        let list =
            async move { futures_util::try_join!(runtime.list_sandboxes(), runtime.list_containers()) };
        ctx.spawn(list.into_actor(self).map(|listed, edged, ctx| {
            edged.relisting = false;
            let (sandboxes, containers) = match listed {
                Ok(lists) => lists,
                Err(err) => {
                    tracing::warn!(error = %err, "runtime was not listed");
                    edged.runtime_lost = true;
                    return edged.probe_node();
                }
            };
            let recovered = std::mem::take(&mut edged.runtime_lost);
            edged.owners.retain(|id, _| {
                sandboxes.iter().any(|sandbox| sandbox.id == *id) || containers.iter().any(|c| c.id == *id)
            });
            for (uid, entry) in &edged.pods {
                let Some(worker) = &entry.worker else { continue };
                let rows = rows(&sandboxes, &containers, |other| other == uid);
                for row in &rows {
                    edged.owners.insert(row.id.clone(), uid.clone());
                }
                report_lost(worker.link().tell(Relisted { rows, recovered }), &PodRef::of(&entry.given.pod));
            }
            edged.remove_orphans(&sandboxes, &containers, ctx);
        }));
    }

    /// Ends pods that run here but are stored no more, by workers like any other.
    fn remove_orphans(
        &mut self,
        sandboxes: &[k8s_cri::v1::PodSandbox],
        containers: &[k8s_cri::v1::Container],
        ctx: &mut Context<Self>,
    ) {
        let Some(site) = self.site.clone() else { return };
        let evidence = Evidence { store_has_pods: self.store_has_pods, cloud_since: self.cloud_since };
        let known = |uid: &str| self.pods.contains_key(uid);
        let found = self.orphans.judge(sandboxes, &site.host, known, evidence, (self.settings.clock)());
        if self.orphans.pending() {
            ctx.run_later(EARLY_RESYNC, Self::relist);
        }
        for orphan in found {
            tracing::info!(pod = %orphan.name, namespace = %orphan.namespace, uid = %orphan.uid, "removing what is left of a pod");
            let rows = rows(sandboxes, containers, |other| other == orphan.uid);
            let mut pod = Pod::default();
            pod.metadata.name = Some(orphan.name);
            pod.metadata.namespace = Some(orphan.namespace);
            pod.metadata.uid = Some(orphan.uid.clone());
            let orphaned = Delivered::new(pod, &serde_json::Value::Null, Source::Leftover);
            self.add(&orphan.uid, orphaned, rows, true);
        }
    }
}
