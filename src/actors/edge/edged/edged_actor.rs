//! What Edged does with each message. A second half of `mod.rs`.

use std::sync::Arc;

use actix::{Context, Handler, StreamHandler};
use k8s_openapi::api::core::v1::Pod;

use super::names::PodRef;
use super::news_worker::{News, WorkerReport};
use super::node_worker::{NodeSeen, Reachable};
use super::pod_worker::{Configured, Look};
use super::{Edged, Entry, loading_worker, report_lost, sources};
use crate::bus::edged::{CloudReachable, ConfigChanged, NodeChanged, PodChanged, PodRemoved};
use crate::bus::meta::ReportEvent;
use crate::cri::runtime::{RuntimeEvent, RuntimeEventKind};
use crate::model::ObjectKey;

impl Handler<PodChanged> for Edged {
    type Result = ();
    fn handle(&mut self, PodChanged(value): PodChanged, ctx: &mut Context<Self>) {
        let Some(pod) = loading_worker::read_pod(&value, self.settings.node.as_str()) else { return };
        let uid = PodRef::of(&pod).uid;
        self.store_has_pods = true;
        match self.pods.get_mut(&uid) {
            Some(entry) => {
                entry.pod = Arc::new(pod);
                self.push(&uid, ctx);
                self.admit_waiting();
            }
            // Not loaded yet: kept for then. The store is bounded, so is this.
            None if self.site.is_none() => {
                self.pods.insert(uid, Entry::new(Arc::new(pod), None));
            }
            None => self.add(&uid, Arc::new(pod), Vec::new(), false),
        }
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
        let uids: Vec<String> =
            self.pods.iter().filter(|(_, entry)| fits(&entry.pod)).map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            let Some(entry) = self.pods.get_mut(&uid) else { continue };
            entry.removed = true;
            if entry.worker.is_some() {
                self.push(&uid, ctx);
            } else if self.site.is_some() {
                self.pods.remove(&uid);
            }
        }
    }
}

impl Handler<ConfigChanged> for Edged {
    type Result = ();
    fn handle(&mut self, changed: ConfigChanged, _: &mut Context<Self>) {
        let key = ObjectKey::namespaced(&changed.namespace, &changed.kind, &changed.name);
        for entry in self.pods.values() {
            let Some(worker) = &entry.worker else { continue };
            if sources::references(&entry.pod).contains(&key) {
                report_lost(worker.link().tell(Configured), &PodRef::of(&entry.pod));
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
            report_lost(worker.link().tell(Look(event.id)), &PodRef::of(&entry.pod));
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
            News::Note(note) => {
                if !self.settings.config.report_event {
                    return;
                }
                let now = self.now();
                if let Some(event) = self.events.event(&report.pod, &note, now)
                    && let Err(err) = self.links.report_event.tell(ReportEvent(Box::new(event)))
                {
                    tracing::debug!(error = %err, "event was dropped");
                }
            }
            News::Phase(phase) => {
                if let Some(entry) = self.pods.get_mut(&uid) {
                    entry.phase = phase;
                }
                self.count_phases();
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
                    self.owners.retain(|_, owner| *owner != uid);
                    self.count_phases();
                    self.admit_waiting();
                }
            }
        }
    }
}
