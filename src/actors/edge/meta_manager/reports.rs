//! What this edge must tell the cloud about its pods until the cloud has it: the newest status,
//! and that a deleted pod's containers are gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::model::{Reason, Status};
use crate::store::{Batch, Row, Table};
use crate::supervise::doubled;

/// Key prefixes of what waits.
pub const STATUS_PREFIX: &str = "podstatus/";
pub const DELETE_PREFIX: &str = "poddelete/";
const MAX_UNDER_WAY: usize = 16;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// One incarnation of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// One call to the cloud.
#[derive(Debug, Clone, PartialEq)]
pub enum Job {
    Patch { pod: PodId, status: Arc<Value>, generation: u64 },
    Delete { pod: PodId },
}

/// What the cloud said to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Accepted,
    /// There is no such pod any more.
    Gone,
    /// It will never be accepted: the pod is another one now, or the content is wrong.
    Refused,
    /// Not now, or no answer.
    Later,
}

#[derive(Debug)]
struct Pending {
    status: Option<Arc<Value>>,
    /// Counts statuses: an answer to an older one does not settle a newer one.
    generation: u64,
    delete: bool,
    under_way: bool,
    due: Instant,
    failures: u32,
}

/// Everything that waits, by pod.
#[derive(Debug, Default)]
pub struct Reports {
    pods: BTreeMap<PodId, Pending>,
}

/// What is left to do after an answer.
#[derive(Debug)]
pub struct Settled {
    pub batch: Batch,
    /// The cloud has no such pod any more, so this edge must not either.
    pub pod_is_gone: bool,
}

impl Reports {
    /// Takes rows of both prefixes.
    pub fn load(&mut self, rows: &[Row], now: Instant) {
        for (key, value) in rows {
            let Ok(key) = std::str::from_utf8(key) else { continue };
            if let Some(pod) = key.strip_prefix(STATUS_PREFIX).and_then(parse_id) {
                if let Ok(status) = serde_json::from_slice::<Value>(value) {
                    self.entry(pod, now).status = Some(Arc::new(status));
                }
            } else if let Some(pod) = key.strip_prefix(DELETE_PREFIX).and_then(parse_id) {
                self.entry(pod, now).delete = true;
            }
        }
    }

    /// A newer status replaces the one that waits.
    pub fn report(&mut self, pod: PodId, status: Value, now: Instant) -> Batch {
        let batch = Batch::new().put(Table::Objects, row_key(STATUS_PREFIX, &pod), status.to_string());
        let pending = self.entry(pod, now);
        pending.status = Some(Arc::new(status));
        pending.generation += 1;
        pending.due = pending.due.min(now);
        batch
    }

    /// The pod's containers are gone.
    pub fn confirm_deleted(&mut self, pod: PodId, now: Instant) -> Batch {
        let batch = Batch::new().put(Table::Objects, row_key(DELETE_PREFIX, &pod), "{}");
        let pending = self.entry(pod, now);
        pending.delete = true;
        pending.due = pending.due.min(now);
        batch
    }

    /// Jobs to start now. The status goes before the deletion; one job a pod at a time.
    pub fn due(&mut self, now: Instant) -> Vec<Job> {
        let under_way = self.pods.values().filter(|pending| pending.under_way).count();
        let room = MAX_UNDER_WAY.saturating_sub(under_way);
        let ready = self.pods.iter_mut().filter(|(_, pending)| !pending.under_way && pending.due <= now);
        ready
            .take(room)
            .map(|(pod, pending)| {
                pending.under_way = true;
                let pod = pod.clone();
                match &pending.status {
                    Some(status) => {
                        Job::Patch { pod, status: Arc::clone(status), generation: pending.generation }
                    }
                    None => Job::Delete { pod },
                }
            })
            .collect()
    }

    /// What the cloud said. `random` is uniform in 0.0..1.0.
    pub fn settle(&mut self, job: &Job, answer: Answer, now: Instant, random: f64) -> Settled {
        let (Job::Patch { pod, .. } | Job::Delete { pod }) = job;
        let mut settled = Settled { batch: Batch::new(), pod_is_gone: false };
        let Some(pending) = self.pods.get_mut(pod) else { return settled };
        pending.under_way = false;
        if answer == Answer::Later {
            let pause = doubled(FIRST_RETRY, pending.failures, LAST_RETRY);
            pending.failures = pending.failures.saturating_add(1);
            pending.due = now + pause.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0));
            return settled;
        }
        pending.failures = 0;
        pending.due = now;
        match job {
            Job::Patch { generation, .. } if answer != Answer::Gone => {
                if *generation == pending.generation {
                    pending.status = None;
                    settled.batch = settled.batch.delete(Table::Objects, row_key(STATUS_PREFIX, pod));
                }
            }
            // Whatever the cloud says to a delete but "later" means that this incarnation is gone.
            Job::Patch { .. } | Job::Delete { .. } => {
                settled.pod_is_gone = true;
                settled.batch.append(self.forget(&pod.clone()));
                return settled;
            }
        }
        if pending.status.is_none() && !pending.delete {
            self.pods.remove(pod);
        }
        settled
    }

    /// The pod was removed here: nothing is reported about it any more.
    pub fn forget(&mut self, pod: &PodId) -> Batch {
        let Some(pending) = self.pods.remove(pod) else { return Batch::new() };
        let mut batch = Batch::new();
        if pending.status.is_some() {
            batch = batch.delete(Table::Objects, row_key(STATUS_PREFIX, pod));
        }
        if pending.delete {
            batch = batch.delete(Table::Objects, row_key(DELETE_PREFIX, pod));
        }
        batch
    }

    /// A session opened: everything that waits is due.
    pub fn wake(&mut self, now: Instant) {
        for pending in self.pods.values_mut() {
            pending.due = now;
            pending.failures = 0;
        }
    }

    fn entry(&mut self, pod: PodId, now: Instant) -> &mut Pending {
        self.pods.entry(pod).or_insert_with(|| Pending {
            status: None,
            generation: 0,
            delete: false,
            under_way: false,
            due: now,
            failures: 0,
        })
    }
}

/// The strategic patch of a status report (protocol 12); the uid makes it miss a pod that was
/// recreated under the same name. A new sandbox has new addresses: lists that would be merged by
/// address replace what was there, and what is gone is taken back: an address, a reason, a message.
#[must_use]
pub fn status_patch(pod: &PodId, status: &Value) -> String {
    let mut status = status.clone();
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        clear_absent(condition, &["reason", "message"]);
    }
    clear_absent(&mut status, &["podIP", "reason", "message"]);
    if let Some(fields) = status.as_object_mut() {
        for addresses in ["podIPs", "hostIPs"] {
            let list = fields.entry(addresses).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!({"$patch": "replace"}));
            }
        }
    }
    json!({"metadata": {"uid": pod.uid}, "status": status}).to_string()
}

fn clear_absent(part: &mut Value, names: &[&str]) {
    let Some(fields) = part.as_object_mut() else { return };
    for name in names {
        fields.entry(*name).or_insert(Value::Null);
    }
}

/// Sorts an API error.
#[must_use]
pub fn judge(status: &Status) -> Answer {
    if status.is(Reason::NotFound) {
        Answer::Gone
    } else if [Reason::Conflict, Reason::Invalid, Reason::BadRequest].into_iter().any(|it| status.is(it)) {
        Answer::Refused
    } else {
        Answer::Later
    }
}

fn row_key(prefix: &str, pod: &PodId) -> String {
    format!("{prefix}{}/{}/{}", pod.namespace, pod.name, pod.uid)
}

fn parse_id(text: &str) -> Option<PodId> {
    let (namespace, rest) = text.split_once('/')?;
    let (name, uid) = rest.split_once('/')?;
    Some(PodId { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() })
}

#[cfg(test)]
mod tests;
