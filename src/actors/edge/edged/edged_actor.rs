//! What Edged does with each message. A second half of `mod.rs`.

use actix::{Context, Handler, StreamHandler};
use k8s_openapi::api::core::v1::Pod;

use super::gate::seals::Source;
use super::names::PodRef;
use super::news_worker::{News, WorkerReport};
use super::node_worker::{NodeSeen, Reachable};
use super::pod_worker::{Configured, Look};
use super::{Edged, loading_worker, report_lost, sources};
use crate::bus::edged::{CloudReachable, ConfigChanged, NodeChanged, PodChanged, PodRemoved};
use crate::cri::runtime::{RuntimeEvent, RuntimeEventKind};
use crate::model::ObjectKey;

impl Handler<PodChanged> for Edged {
    type Result = ();
    fn handle(&mut self, PodChanged(value): PodChanged, ctx: &mut Context<Self>) {
        let node = self.settings.node.as_str();
        let Some(given) = loading_worker::read_pod(&value, node, Source::Cloud) else { return };
        self.store_has_pods = true;
        self.take(given, ctx);
    }
}

impl Handler<PodRemoved> for Edged {
    type Result = ();
    fn handle(&mut self, removed: PodRemoved, ctx: &mut Context<Self>) {
        let fits = |pod: &Pod| {
            let meta = PodRef::of(pod);
            let named = meta.namespace == removed.namespace && meta.name == removed.name;
            named && (removed.uid.is_empty() || meta.uid == removed.uid)
        };
        let of_cloud = self.pods.iter().filter(|(_, entry)| entry.given.claim.source == Source::Cloud);
        let uids: Vec<String> =
            of_cloud.filter(|(_, entry)| fits(&entry.given.pod)).map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            self.remove(&uid, ctx);
        }
    }
}

impl Handler<ConfigChanged> for Edged {
    type Result = ();
    fn handle(&mut self, changed: ConfigChanged, _: &mut Context<Self>) {
        let key = ObjectKey::namespaced(&changed.namespace, &changed.kind, &changed.name);
        for entry in self.pods.values() {
            let Some(worker) = &entry.worker else { continue };
            if sources::references(&entry.given.pod).contains(&key) {
                report_lost(worker.link().tell(Configured), &PodRef::of(&entry.given.pod));
            }
        }
    }
}

impl Handler<NodeChanged> for Edged {
    type Result = ();
    fn handle(&mut self, NodeChanged(node): NodeChanged, _: &mut Context<Self>) {
        if let Some(worker) = &self.node
            && let Err(err) = worker.link().tell(NodeSeen(node))
        {
            tracing::debug!(error = %err, "node worker is busy");
        }
    }
}

impl Handler<CloudReachable> for Edged {
    type Result = ();
    fn handle(&mut self, CloudReachable(connected): CloudReachable, _: &mut Context<Self>) {
        self.cloud_since = connected.then(|| self.now());
        self.tell_node(Reachable(connected));
    }
}

impl StreamHandler<RuntimeEvent> for Edged {
    fn handle(&mut self, event: RuntimeEvent, _: &mut Context<Self>) {
        if event.kind == RuntimeEventKind::Deleted {
            return; // only we delete, and know it
        }
        let Some(uid) = self.owners.get(&event.id) else { return };
        if let Some(entry) = self.pods.get(uid)
            && let Some(worker) = &entry.worker
        {
            report_lost(worker.link().tell(Look(event.id)), &PodRef::of(&entry.given.pod));
        }
    }

    fn finished(&mut self, ctx: &mut Context<Self>) {
        tracing::warn!("runtime events broke off");
        self.listen_later(ctx);
    }
}

impl Handler<WorkerReport> for Edged {
    type Result = ();
    fn handle(&mut self, report: WorkerReport, _: &mut Context<Self>) {
        let uid = PodRef::of(&report.pod).uid;
        match report.news {
            News::Owns(id) => {
                self.owners.insert(id, uid);
            }
            News::Note(note) => self.report_event(&report.pod, &note),
            News::Status(status) => {
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.status = Some(status);
                }
                self.count_pods();
            }
            News::Ended => {
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.ended = true;
                }
                self.admit_waiting();
            }
            News::Finished => {
                if self.pods.get(&uid).is_some_and(|entry| entry.removed) {
                    self.pods.remove(&uid);
                    self.gate.forget(&uid);
                    self.owners.retain(|_, owner| *owner != uid);
                    self.count_pods();
                    self.admit_waiting();
                }
            }
        }
    }
}
