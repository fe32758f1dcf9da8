//! What Edged asks the gate, and where pods of files come from. A third part of `mod.rs`.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, StreamHandler, WrapFuture};
use k8s_openapi::api::core::v1::Pod;

use super::action::Note;
use super::gate::TrustChanged;
use super::gate::files::Change;
use super::gate::seals::{Delivered, SEAL_INVALID, Source, Verdict, ending};
use super::names::PodRef;
use super::pod_worker::Recheck;
use super::static_pods_worker::{Folder, read_folder};
use super::{Edged, Entry, loading_worker, report_lost};
use crate::bus::meta::ReportEvent;

impl Edged {
    /// Takes a new pod or a new version of one.
    pub(super) fn take(&mut self, given: Delivered, ctx: &mut Context<Self>) {
        let uid = PodRef::of(&given.pod).uid;
        let Some(old) = self.pods.get(&uid).map(|entry| entry.given.clone()) else {
            match self.site {
                // Not loaded yet: kept for then. The store is bounded, so is this.
                None => drop(self.pods.insert(uid, Entry::new(given, None))),
                Some(_) => self.add(&uid, given, Vec::new(), false),
            }
            return;
        };
        let Some(given) = self.believed(&old, given) else { return };
        if let Some(entry) = self.pods.get_mut(&uid) {
            entry.given = given;
        }
        self.push(&uid, ctx);
        self.admit_waiting();
    }

    /// The version of a known pod that counts from now on. A change of a believed pod that is not
    /// believed itself is refused: the old version goes on. It may end, though.
    fn believed(&mut self, old: &Delivered, new: Delivered) -> Option<Delivered> {
        if old.claim.source != new.claim.source {
            tracing::warn!(pod = %PodRef::of(&new.pod).name, "a pod of the cloud and one of a file have the same uid");
            return None;
        }
        let Verdict::Refused(why) = self.gate.judge(&new.pod, &new.claim) else { return Some(new) };
        if matches!(self.gate.judge(&old.pod, &old.claim), Verdict::Refused(_)) {
            return Some(new);
        }
        let message = format!("a change of the pod is refused: {why}");
        self.report_event(&old.pod, &Note { warning: true, reason: SEAL_INVALID, message, container: None });
        let pod = ending(&old.pod, &new.pod)?;
        Some(Delivered { pod: Arc::new(pod), claim: Arc::clone(&old.claim) })
    }

    /// The pod is to go, and nobody is to be told.
    pub(super) fn remove(&mut self, uid: &str, ctx: &mut Context<Self>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.removed = true;
        if entry.worker.is_some() {
            self.push(uid, ctx);
        } else if self.site.is_some() {
            self.pods.remove(uid);
        }
    }

    /// A Kubernetes event; pods of files, which the API does not know, have a log line.
    pub(super) fn report_event(&mut self, pod: &Pod, note: &Note) {
        let PodRef { uid, name, namespace } = PodRef::of(pod);
        if self.pods.get(&uid).is_some_and(|entry| entry.given.claim.source == Source::File) {
            tracing::info!(pod = %name, namespace = %namespace, reason = note.reason, "{}", note.message);
            return;
        }
        if !self.settings.config.report_event {
            return;
        }
        let now = self.now();
        if let Some(event) = self.events.event(pod, note, now)
            && let Err(err) = self.links.report_event.tell(ReportEvent(Box::new(event)))
        {
            tracing::debug!(error = %err, "event was dropped");
        }
    }

    /// What the folder of static pods now means: pods to run, and uids of those to end.
    pub(super) fn file_pods(&mut self, folder: Folder) -> (Vec<Delivered>, Vec<String>) {
        let files = match folder {
            Ok(files) => files,
            Err(err) => {
                tracing::warn!(error = %err, "static pods are not readable; those that run go on");
                return (Vec::new(), Vec::new());
            }
        };
        let node = &self.settings.node;
        let (mut run, mut end) = (Vec::new(), Vec::new());
        for change in self.files.compare(&files, node, &self.settings.identity.static_pods) {
            match change {
                Change::Run(value) => {
                    run.extend(loading_worker::read_pod(&value, node.as_str(), Source::File));
                }
                Change::End(uid) => end.push(uid),
                Change::Refused { file, subject, why } => self.gate.refuse_file(&file, &subject, &why),
            }
        }
        (run, end)
    }

    /// Looks at the folder of static pods.
    pub(super) fn poll_files(&mut self, ctx: &mut Context<Self>) {
        if self.site.is_none() {
            return;
        }
        let folder = self.settings.config.tailored_kubelet_config.static_pod_path.clone();
        let look = async move { read_folder(folder).await };
        ctx.spawn(look.into_actor(self).map(|folder, edged, ctx| {
            let (run, end) = edged.file_pods(folder);
            for uid in end {
                edged.remove(&uid, ctx);
            }
            for given in run {
                edged.take(given, ctx);
            }
        }));
    }
}

/// Credentials or policies changed: every pod is judged anew.
impl StreamHandler<TrustChanged> for Edged {
    fn handle(&mut self, TrustChanged: TrustChanged, _: &mut Context<Self>) {
        for entry in self.pods.values() {
            let Some(worker) = &entry.worker else { continue };
            report_lost(worker.link().tell(Recheck), &PodRef::of(&entry.given.pod));
        }
    }
}
