//! One simulated edge: what it says to its cloud and what it makes of the answers. Pure, and made of the
//! same parts as edgecore: its index of objects, its calls about node, lease and pods, its routing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node as NodeObject;
use serde_json::Value;

use super::figures::{Counted, Timed};
use super::hollow;
use crate::actors::edge::edge_hub::report::{Rendered, Reporter, message as report_message};
use crate::actors::edge::edge_hub::routing::{Route, route};
use crate::actors::edge::edged::node::{Facts, lease, node};
use crate::actors::edge::meta_manager::cloud_worker::{edged, listing_frame};
use crate::actors::edge::meta_manager::node::{
    LeaseCall, first_lease_call, is, metadata_update, next_lease_call, object_of, status_patch,
};
use crate::actors::edge::meta_manager::objects::{Index, Notice, text};
use crate::actors::edge::meta_manager::reports::{self, PodId};
use crate::bus::meta::MetaError;
use crate::config::EdgedConfig;
use crate::model::{Body, Envelope, Moment, NodeName, ObjectKey, Reason, operation};

/// As edgecore waits.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
const LISTING_DEADLINE: Duration = Duration::from_secs(60);
/// After a call that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What all edges of a fleet have in common.
#[derive(Debug)]
pub struct Settings {
    pub edged: EdgedConfig,
    /// The machine every one of them says it is.
    pub facts: Facts,
    pub lease_every: Duration,
    pub status_every: Duration,
    /// `None`: no reports.
    pub report_every: Option<Duration>,
}

/// What the shell must do.
#[derive(Debug, PartialEq)]
pub enum Effect {
    Send(Box<Envelope>),
    Time(Timed, Duration),
    Count(Counted),
    /// The cloud has this node's status, for the first time in this session.
    Registered,
}

#[derive(Debug)]
enum Call {
    Insert,
    Query,
    /// Labels of a node that was there.
    Update,
    Patch {
        /// The status of a node that was there travels twice, as edgecore sends it.
        again: bool,
    },
    Lease(LeaseCall),
    Listing,
    PodStatus(PodId),
    PodDelete(PodId),
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    since: Instant,
    deadline: Instant,
}

/// Times of a session.
#[derive(Debug)]
struct Session {
    since: Instant,
    registered: bool,
    next_lease: Instant,
    next_status: Instant,
    next_report: Option<Instant>,
    reporter: Reporter,
    waiting: HashMap<String, Waiting>,
}

/// One edge. What it holds outlives its sessions.
#[derive(Debug)]
pub struct Edge {
    name: NodeName,
    settings: Arc<Settings>,
    index: Index,
    uid: String,
    lease: Option<Value>,
    /// Pods that were said to be running.
    running: BTreeSet<PodId>,
    session: Option<Session>,
    /// A counter to report.
    turns: u64,
}

impl Edge {
    #[must_use]
    pub fn new(name: NodeName, settings: Arc<Settings>) -> Self {
        Self {
            name,
            settings,
            index: Index::default(),
            uid: String::new(),
            lease: None,
            running: BTreeSet::new(),
            session: None,
            turns: 0,
        }
    }

    /// A session is open. `spread`, uniform in 0.0..1.0, keeps the edges of a fleet out of step.
    pub fn opened(&mut self, resync: bool, reports: bool, spread: f64, now: Moment) -> Vec<Effect> {
        let out_of_step = |every: Duration| now.at + every.mul_f64(spread.clamp(0.0, 1.0));
        self.session = Some(Session {
            since: now.at,
            registered: false,
            // The first lease goes at once; afterwards they are spread.
            next_lease: out_of_step(self.settings.lease_every),
            next_status: out_of_step(self.settings.status_every) + self.settings.status_every,
            next_report: self.settings.report_every.filter(|_| reports).map(out_of_step),
            reporter: Reporter::default(),
            waiting: HashMap::new(),
        });
        let mut effects = Vec::new();
        self.renew_lease(now, &mut effects);
        self.register(now, &mut effects);
        if resync {
            let frames = self.index.listing();
            let last = frames.len().saturating_sub(1);
            for (part, frame) in frames.into_iter().enumerate() {
                let message = listing_frame(frame);
                if part < last {
                    effects.push(Effect::Send(Box::new(message)));
                } else {
                    self.call(Call::Listing, message, now, &mut effects);
                }
            }
        }
        effects
    }

    /// It ended.
    pub fn closed(&mut self) {
        self.session = None;
    }

    /// The cloud said something.
    pub fn received(&mut self, envelope: Envelope, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        match route(&envelope) {
            Route::Reply { store } => {
                let parent = envelope.header.parent_msg_id.clone().unwrap_or_default();
                let session = self.session.as_mut();
                let waiting = session.and_then(|session| session.waiting.remove(&parent));
                if store {
                    self.store(&envelope, now, &mut effects);
                }
                if let Some(waiting) = waiting {
                    self.answered(waiting, envelope, now, &mut effects);
                }
            }
            Route::Store => {
                let sent = envelope.header.timestamp_ms;
                let late = u64::try_from(now.unix_ms.saturating_sub(sent)).unwrap_or_default();
                self.store(&envelope, now, &mut effects);
                effects.push(Effect::Time(Timed::Delivered, Duration::from_millis(late)));
            }
            Route::Probe => {
                let pong = envelope.response(Body::Text("ack".to_owned()), now.unix_ms);
                effects.push(Effect::Send(Box::new(pong)));
            }
            Route::Twin | Route::Nobody => effects.push(Effect::Count(Counted::Ignored)),
        }
        effects
    }

    /// Time passed.
    pub fn tick(&mut self, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(session) = &mut self.session else { return effects };
        let late: Vec<String> = session
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.deadline <= now.at)
            .map(|(msg_id, _)| msg_id.clone())
            .collect();
        let lost: Vec<Waiting> = late.iter().filter_map(|msg_id| session.waiting.remove(msg_id)).collect();
        let lease_is_due = session.next_lease <= now.at;
        if lease_is_due {
            session.next_lease = now.at + self.settings.lease_every;
        }
        let status_is_due = session.next_status <= now.at;
        if status_is_due {
            session.next_status = now.at + self.settings.status_every;
        }
        let registered = session.registered;
        for waiting in lost {
            effects.push(Effect::Count(Counted::Unanswered));
            self.again(&waiting.call, now);
        }
        if lease_is_due {
            self.renew_lease(now, &mut effects);
        }
        if status_is_due && registered {
            self.patch_node(false, now, &mut effects);
        } else if status_is_due {
            self.register(now, &mut effects);
        }
        self.report(now, &mut effects);
        effects
    }

    /// When [`Edge::tick`] has something to do.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let session = self.session.as_ref()?;
        let late = session.waiting.values().map(|waiting| waiting.deadline).min();
        let own = [Some(session.next_lease), Some(session.next_status), session.next_report, late];
        own.into_iter().flatten().min()
    }

    fn call(&mut self, call: Call, message: Envelope, now: Moment, effects: &mut Vec<Effect>) {
        let Some(session) = &mut self.session else { return };
        let patience = if matches!(call, Call::Listing) { LISTING_DEADLINE } else { CALL_DEADLINE };
        let waiting = Waiting { call, since: now.at, deadline: now.at + patience };
        session.waiting.insert(message.header.msg_id.clone(), waiting);
        effects.push(Effect::Send(Box::new(message)));
    }

    /// What failed is tried again soon; the status of a pod with its next change.
    fn again(&mut self, call: &Call, now: Moment) {
        let Some(session) = &mut self.session else { return };
        let soon = now.at + RETRY;
        match call {
            Call::Lease(_) => session.next_lease = session.next_lease.min(soon),
            Call::Insert | Call::Query | Call::Update | Call::Patch { .. } => {
                session.registered = false;
                session.next_status = session.next_status.min(soon);
            }
            Call::PodStatus(pod) => {
                self.running.remove(pod);
            }
            Call::Listing | Call::PodDelete(_) => {}
        }
    }

    fn node_key(&self) -> ObjectKey {
        ObjectKey::cluster("node", self.name.as_str())
    }

    fn wanted(&self, now: Moment) -> NodeObject {
        let facts = Facts { name: self.name.to_string(), ..self.settings.facts.clone() };
        node(&facts, &self.settings.edged, None, wall(now))
    }

    fn register(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Ok(wanted) = serde_json::to_value(self.wanted(now)) else { return };
        let message = edged(operation::INSERT, self.node_key(), Body::Object(wanted));
        self.call(Call::Insert, message, now, effects);
    }

    fn patch_node(&mut self, again: bool, now: Moment, effects: &mut Vec<Effect>) {
        let Ok(wanted) = serde_json::to_value(self.wanted(now)) else { return };
        let existing = serde_json::json!({"metadata": {"uid": self.uid}});
        let patch = status_patch(&wanted, &existing).to_string();
        let key = self.node_key().with_kind("nodepatch");
        self.call(Call::Patch { again }, edged(operation::PATCH, key, Body::Text(patch)), now, effects);
    }

    fn wanted_lease(&self, now: Moment) -> Value {
        let secs = self.settings.edged.tailored_kubelet_config.node_lease_duration_seconds;
        serde_json::to_value(lease(self.name.as_str(), &self.uid, secs, wall(now))).unwrap_or_default()
    }

    fn renew_lease(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let call = first_lease_call(&self.wanted_lease(now), self.lease.as_ref());
        self.call_lease(call, now, effects);
    }

    fn call_lease(&mut self, call: LeaseCall, now: Moment, effects: &mut Vec<Effect>) {
        let (operation, body) = match &call {
            LeaseCall::Query => (operation::QUERY, Body::Null),
            LeaseCall::Insert(lease) => (operation::INSERT, Body::Object(lease.clone())),
            LeaseCall::Update(lease) => (operation::UPDATE, Body::Object(lease.clone())),
        };
        // The answer to an update is all that is needed of it: its body need not be kept here.
        let kept = match call {
            LeaseCall::Query => LeaseCall::Query,
            LeaseCall::Insert(_) => LeaseCall::Insert(Value::Null),
            LeaseCall::Update(_) => LeaseCall::Update(Value::Null),
        };
        let key = ObjectKey::namespaced("kube-node-lease", "lease", self.name.as_str());
        self.call(Call::Lease(kept), edged(operation, key, body), now, effects);
    }

    fn report(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let (Some(session), Some(every)) = (&mut self.session, self.settings.report_every) else { return };
        if session.next_report.is_none_or(|at| at > now.at) {
            return;
        }
        session.next_report = Some(now.at + every);
        self.turns += 1;
        let rendered = rendered(&self.name, self.turns);
        let secs = u32::try_from(every.as_secs()).unwrap_or(u32::MAX);
        let report = session.reporter.report(&rendered, secs);
        if let Some(message) = report_message(&report, now.unix_ms) {
            effects.push(Effect::Send(Box::new(message)));
            effects.push(Effect::Count(Counted::Reports));
        }
    }

    /// Keeps an object and acknowledges it.
    fn store(&mut self, envelope: &Envelope, now: Moment, effects: &mut Vec<Effect>) {
        let Ok(change) = self.index.apply(envelope) else {
            return effects.push(Effect::Count(Counted::Ignored));
        };
        effects.push(Effect::Send(Box::new(envelope.ack(now.unix_ms))));
        effects.push(Effect::Count(Counted::Acked));
        for notice in change.notices {
            match notice {
                Notice::PodChanged(pod) => self.pod_changed(&pod, now, effects),
                Notice::PodRemoved { namespace, name, uid } => {
                    let is_gone = self.running.remove(&PodId { namespace, name, uid });
                    effects.extend(is_gone.then_some(Effect::Count(Counted::PodsGone)));
                }
                _ => {}
            }
        }
    }

    fn pod_changed(&mut self, pod: &Value, now: Moment, effects: &mut Vec<Effect>) {
        let id = hollow::id_of(pod);
        if hollow::is_ending(pod) {
            let options = serde_json::json!({"gracePeriodSeconds": 0, "preconditions": {"uid": id.uid}});
            let key = ObjectKey::namespaced(&id.namespace, "pod", &id.name);
            let message = edged(operation::DELETE, key, Body::Object(options));
            return self.call(Call::PodDelete(id), message, now, effects);
        }
        if !self.running.insert(id.clone()) {
            return;
        }
        let address = self.settings.facts.addresses.first().map_or("127.0.0.1", String::as_str);
        let status = hollow::running(pod, address, wall(now));
        let key = ObjectKey::namespaced(&id.namespace, "podpatch", &id.name);
        let message = edged(operation::PATCH, key, Body::Text(reports::status_patch(&id, &status)));
        self.call(Call::PodStatus(id), message, now, effects);
    }

    fn answered(&mut self, waiting: Waiting, reply: Envelope, now: Moment, effects: &mut Vec<Effect>) {
        let took = now.at.saturating_duration_since(waiting.since);
        match waiting.call {
            Call::Lease(call) => {
                if !matches!(call, LeaseCall::Query) {
                    effects.push(Effect::Time(Timed::Lease, took));
                }
                match next_lease_call(&self.wanted_lease(now), &call, object_of(reply)) {
                    Ok(Ok(lease)) => self.lease = Some(lease),
                    Ok(Err(next)) => self.call_lease(next, now, effects),
                    Err(_) => self.refused(&Call::Lease(call), now, effects),
                }
            }
            Call::Listing => {}
            Call::PodStatus(pod) => {
                effects.push(Effect::Time(Timed::Status, took));
                match object_of(reply) {
                    Ok(_) => effects.push(Effect::Count(Counted::PodsRunning)),
                    Err(_) => self.refused(&Call::PodStatus(pod), now, effects),
                }
            }
            Call::PodDelete(pod) => {
                let key = ObjectKey::namespaced(&pod.namespace, "pod", &pod.name);
                self.index.remove(&key, &pod.uid);
                if self.running.remove(&pod) {
                    effects.push(Effect::Count(Counted::PodsGone));
                }
            }
            call => self.about_node(call, took, object_of(reply), now, effects),
        }
    }

    /// Answers to the calls of the registration, one of which follows the other.
    fn about_node(
        &mut self,
        call: Call,
        took: Duration,
        answer: Result<Value, MetaError>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        match (call, answer) {
            (Call::Insert, Ok(node)) => {
                self.learn(node);
                self.patch_node(false, now, effects);
            }
            (Call::Insert, Err(err)) if is(&err, Reason::AlreadyExists) => {
                let message = edged(operation::QUERY, self.node_key(), Body::Null);
                self.call(Call::Query, message, now, effects);
            }
            (Call::Query, Ok(existing)) => {
                let wanted = serde_json::to_value(self.wanted(now)).unwrap_or_default();
                let update = metadata_update(&wanted, &existing);
                self.learn(existing);
                match update {
                    Some(update) => {
                        let message = edged(operation::UPDATE, self.node_key(), Body::Object(update));
                        self.call(Call::Update, message, now, effects);
                    }
                    None => self.patch_node(true, now, effects),
                }
            }
            // Answered with "OK", which is no object.
            (Call::Update, _) => self.patch_node(true, now, effects),
            (Call::Patch { again }, Ok(node)) => {
                effects.push(Effect::Time(Timed::Status, took));
                self.learn(node);
                if again {
                    return self.patch_node(false, now, effects);
                }
                let Some(session) = &mut self.session else { return };
                if !std::mem::replace(&mut session.registered, true) {
                    let took = now.at.saturating_duration_since(session.since);
                    effects.push(Effect::Time(Timed::Registered, took));
                    effects.push(Effect::Registered);
                }
            }
            (call, _) => self.refused(&call, now, effects),
        }
    }

    fn learn(&mut self, node: Value) {
        text(&node, "/metadata/uid").clone_into(&mut self.uid);
        let key = self.node_key();
        self.index.upsert(&key, node, None);
    }

    fn refused(&mut self, call: &Call, now: Moment, effects: &mut Vec<Effect>) {
        effects.push(Effect::Count(Counted::Refused));
        if matches!(call, Call::Lease(_)) {
            self.lease = None;
        }
        self.again(call, now);
    }
}

fn wall(now: Moment) -> Timestamp {
    Timestamp::from_millisecond(now.unix_ms).unwrap_or_default()
}

/// What the monitor of a small edge shows: some families that move and many that do not.
fn rendered(name: &NodeName, turns: u64) -> Rendered {
    use std::fmt::Write as _;
    let mut metrics = String::new();
    for family in 0..60_u64 {
        let name = format!("kubeedge_hollow_family_{family}");
        // Writing to a String cannot fail.
        writeln!(metrics, "# HELP {name} Made up\n# TYPE {name} gauge").ok();
        for series in 0..4 {
            let value = if family < 10 { turns * (series + 1) } else { series };
            writeln!(metrics, "{name}{{kind=\"{series}\"}} {value}").ok();
        }
    }
    let actors = serde_json::json!({"name": "edgecore", "actors": [{"name": "EdgeHub", "restarts": 0}], "node": name.as_str()});
    Rendered { metrics, actors }
}

#[cfg(test)]
#[path = "edge_tests.rs"]
mod tests;
