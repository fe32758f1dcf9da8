//! The state of the link: who waits for what, what is in hand, when to dial. Pure: the actor tells
//! it what happened and does what it answers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::backoff::Backoff;
use super::queues::{Outgoing, Purpose, Queues};
use super::routing::Applying;
use crate::bus::edge_hub::SendError;
use crate::model::Envelope;

/// Most messages and about most bytes handed to the writer at once.
const BATCH_MESSAGES: usize = 32;
const BATCH_BYTES: usize = 256 << 10;
/// Replies waited for at once.
const MAX_WAITING: usize = 1024;
/// How long a planned reconnect waits for replies that are under way.
const DRAIN: Duration = Duration::from_secs(5);

/// What the actor has to do, in order. `T` is where a reply goes.
#[derive(Debug, PartialEq)]
pub enum Effect<T> {
    /// Open a connection; answer with [`Hub::opened`] or [`Hub::dial_failed`].
    Dial,
    /// Write these frames, then call [`Hub::written`].
    Write(Vec<Bytes>),
    /// Close the connection; [`Hub::closed`] follows.
    Close,
    /// Answer a waiting request.
    Resolve(T, Result<Envelope, SendError>),
    /// Have this message stored, then call [`Hub::applied`].
    Apply(Envelope),
    /// Tell the others.
    Announce { connected: bool, session: u64, resync: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is open; dial at this time.
    Down {
        redial_at: Instant,
    },
    Dialing {
        since: Instant,
    },
    Up {
        since: Instant,
    },
    /// Up, but about to reconnect with a new certificate: what is under way may finish, what is
    /// new waits in the queues.
    Draining {
        since: Instant,
        until: Instant,
        closing: bool,
    },
}

#[derive(Debug)]
struct Waiting<T> {
    reply: T,
    timeout: Duration,
    deadline: Instant,
    /// It left the queue: it may have reached the cloud.
    sent: bool,
}

/// The link to the cloud and everything that goes over it.
#[derive(Debug)]
pub struct Hub<T> {
    phase: Phase,
    session: u64,
    queues: Queues,
    /// Taken from the queues and with the writer.
    in_hand: Vec<Outgoing>,
    waiting: HashMap<String, Waiting<T>>,
    applying: Applying,
    backoff: Backoff,
    /// A planned reconnect is under way: what comes meanwhile waits for it.
    again_at_once: bool,
}

impl<T> Hub<T> {
    /// `sessions` is the number of sessions this process had before (a restart of the actor must
    /// not count from the start).
    #[must_use]
    pub fn new(qps: u32, burst: u32, sessions: u64, now: Instant) -> Self {
        Self {
            phase: Phase::Down { redial_at: now },
            session: sessions,
            queues: Queues::new(qps, burst, now),
            in_hand: Vec::new(),
            waiting: HashMap::new(),
            applying: Applying::default(),
            backoff: Backoff::default(),
            again_at_once: false,
        }
    }

    /// Number of the open session, or of the last one.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// The connection is open and the handshake done.
    pub fn opened(&mut self, resync: bool, now: Instant) -> Vec<Effect<T>> {
        self.session += 1;
        self.queues.limit_device_data(!resync);
        self.phase = Phase::Up { since: now };
        self.again_at_once = false;
        let mut effects = vec![Effect::Announce { connected: true, session: self.session, resync }];
        self.write_more(now, &mut effects);
        effects
    }

    /// No connection came about. `random` is uniform in 0.0..1.0.
    pub fn dial_failed(&mut self, now: Instant, random: f64) -> Vec<Effect<T>> {
        // The pause counts from the beginning of the attempt: where packets vanish, an attempt takes
        // long, and has kept the edges apart already.
        let begun = if let Phase::Dialing { since } = self.phase { since } else { now };
        let redial_at = (begun + self.backoff.next(now, random)).max(now + self.backoff.floor());
        self.phase = Phase::Down { redial_at };
        self.again_at_once = false;
        let waiting = std::mem::take(&mut self.waiting);
        self.queues.retain(|message| message.purpose == Purpose::Send);
        let gone = |waiting: Waiting<T>| Effect::Resolve(waiting.reply, Err(SendError::Disconnected));
        waiting.into_values().map(gone).collect()
    }

    /// The connection of `session` ended, whoever ended it.
    pub fn closed(&mut self, session: u64, now: Instant, random: f64) -> Vec<Effect<T>> {
        if session != self.session {
            return Vec::new();
        }
        let (since, planned) = match self.phase {
            Phase::Up { since } => (since, false),
            Phase::Draining { since, .. } => (since, true),
            Phase::Down { .. } | Phase::Dialing { .. } => return Vec::new(),
        };
        self.backoff.session_lasted(now.saturating_duration_since(since));
        let redial_at = if planned { now } else { now + self.backoff.next(now, random) };
        self.phase = Phase::Down { redial_at };
        self.again_at_once = planned;

        // A request that never left waits for the next session if that one is planned; the owner
        // of any other hears that nobody knows what became of it.
        let mut effects = Vec::new();
        let lost: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.sent || !planned)
            .map(|(msg_id, _)| msg_id.clone())
            .collect();
        for msg_id in lost {
            if let Some(waiting) = self.waiting.remove(&msg_id) {
                effects.push(Effect::Resolve(waiting.reply, Err(SendError::Disconnected)));
            }
        }
        let in_hand = std::mem::take(&mut self.in_hand);
        self.queues
            .put_back(in_hand.into_iter().filter(|message| message.purpose == Purpose::Send).collect());
        let waiting = &self.waiting;
        self.queues.retain(|message| match message.purpose {
            Purpose::Ack | Purpose::Report | Purpose::Again => false,
            Purpose::Send => true,
            Purpose::Request => waiting.contains_key(&message.msg_id),
        });
        self.applying.forget_queued();
        effects.push(Effect::Announce { connected: false, session, resync: false });
        effects
    }

    /// The writer has written everything it was handed.
    pub fn written(&mut self, session: u64, now: Instant) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        if session == self.session {
            self.in_hand.clear();
            self.write_more(now, &mut effects);
        }
        effects
    }

    /// Queues a message that nobody waits for.
    ///
    /// # Errors
    /// [`SendError::NotConnected`], [`SendError::QueueFull`]; then the message was not taken.
    pub fn send(&mut self, message: Outgoing, now: Instant) -> Result<Vec<Effect<T>>, SendError> {
        if !self.is_open() {
            return Err(SendError::NotConnected);
        }
        self.queues.push(message).map_err(|_| SendError::QueueFull)?;
        let mut effects = Vec::new();
        self.write_more(now, &mut effects);
        Ok(effects)
    }

    /// Queues a report: only in a session, as it is about what was reported in it before.
    ///
    /// # Errors
    /// [`SendError::NotConnected`], [`SendError::QueueFull`]; then the report was not taken.
    pub fn report(&mut self, message: Outgoing, now: Instant) -> Result<Vec<Effect<T>>, SendError> {
        if !matches!(self.phase, Phase::Up { .. }) {
            return Err(SendError::NotConnected);
        }
        self.send(message, now)
    }

    /// The report before is not written yet.
    #[must_use]
    pub fn report_waits(&self) -> bool {
        self.queues.has_report() || self.in_hand.iter().any(|message| message.purpose == Purpose::Report)
    }

    /// Queues a message whose reply goes to `reply`, at the latest after `timeout`.
    pub fn request(
        &mut self,
        message: Outgoing,
        reply: T,
        timeout: Duration,
        now: Instant,
    ) -> Vec<Effect<T>> {
        let refusal = if !self.is_open() {
            Some(SendError::NotConnected)
        } else if self.waiting.len() >= MAX_WAITING || self.waiting.contains_key(&message.msg_id) {
            Some(SendError::QueueFull)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return vec![Effect::Resolve(reply, Err(refusal))];
        }
        let msg_id = message.msg_id.clone();
        if self.queues.push(message).is_err() {
            return vec![Effect::Resolve(reply, Err(SendError::QueueFull))];
        }
        let deadline = now + timeout;
        self.waiting.insert(msg_id, Waiting { reply, timeout, deadline, sent: false });
        let mut effects = Vec::new();
        self.write_more(now, &mut effects);
        effects
    }

    /// A reply came: answers who waits for it. `false` when nobody does.
    pub fn replied(&mut self, parent: &str, envelope: Envelope, now: Instant) -> (bool, Vec<Effect<T>>) {
        let Some(waiting) = self.waiting.remove(parent) else { return (false, Vec::new()) };
        let mut effects = vec![Effect::Resolve(waiting.reply, Ok(envelope))];
        self.close_if_drained(now, &mut effects);
        (true, effects)
    }

    /// A message to be stored came. `false` when too much waits already: it is not acknowledged,
    /// so the cloud sends it again.
    pub fn store(&mut self, envelope: Envelope, bytes: usize) -> (bool, Vec<Effect<T>>) {
        match self.applying.push(envelope, bytes) {
            Ok(Some(next)) => (true, vec![Effect::Apply(next)]),
            Ok(None) => (true, Vec::new()),
            Err(_) => (false, Vec::new()),
        }
    }

    /// The message about `resource` that was being stored is done. `ack` is its encoded
    /// acknowledgement if it is durable now and came in `session`.
    pub fn applied(
        &mut self,
        resource: &str,
        session: u64,
        ack: Option<Outgoing>,
        now: Instant,
    ) -> Vec<Effect<T>> {
        let mut effects: Vec<Effect<T>> = Vec::new();
        if let Some(next) = self.applying.done(resource) {
            effects.push(Effect::Apply(next));
        }
        if let Some(ack) = ack
            && session == self.session
            && self.is_open()
            && self.queues.push(ack).is_ok()
        {
            // A full queue is no loss either: the cloud resends what it has no acknowledgement for.
            self.write_more(now, &mut effects);
        }
        effects
    }

    /// The certificate changed: finish what is under way, then reconnect.
    pub fn rotate(&mut self, now: Instant) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        if let Phase::Up { since } = self.phase {
            self.phase = Phase::Draining { since, until: now + DRAIN, closing: false };
            self.close_if_drained(now, &mut effects);
        }
        effects
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        if let Phase::Down { redial_at } = self.phase
            && redial_at <= now
        {
            self.phase = Phase::Dialing { since: now };
            effects.push(Effect::Dial);
        }
        let late: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.deadline <= now)
            .map(|(msg_id, _)| msg_id.clone())
            .collect();
        for msg_id in &late {
            if let Some(waiting) = self.waiting.remove(msg_id) {
                let timeout = waiting.timeout;
                effects.push(Effect::Resolve(waiting.reply, Err(SendError::NoReply(timeout))));
            }
        }
        if !late.is_empty() {
            self.queues.retain(|message| !late.contains(&message.msg_id));
        }
        self.close_if_drained(now, &mut effects);
        self.write_more(now, &mut effects);
        effects
    }

    /// When [`Hub::tick`] has something to do next, if nothing else happens before.
    #[must_use]
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Down { redial_at } => Some(redial_at),
            Phase::Draining { until, closing: false, .. } => Some(until),
            Phase::Up { .. } if self.in_hand.is_empty() => self.queues.ready_at(now),
            _ => None,
        };
        let late = self.waiting.values().map(|waiting| waiting.deadline).min();
        phase.into_iter().chain(late).min()
    }

    /// New messages are taken: a session is open, or the next one follows at once.
    fn is_open(&self) -> bool {
        match self.phase {
            Phase::Up { .. } | Phase::Draining { .. } => true,
            Phase::Down { .. } | Phase::Dialing { .. } => self.again_at_once,
        }
    }

    fn write_more(&mut self, now: Instant, effects: &mut Vec<Effect<T>>) {
        if !matches!(self.phase, Phase::Up { .. }) || !self.in_hand.is_empty() {
            return;
        }
        let batch = self.queues.take(now, BATCH_MESSAGES, BATCH_BYTES);
        if batch.is_empty() {
            return;
        }
        for message in &batch {
            if let Some(waiting) = self.waiting.get_mut(&message.msg_id) {
                waiting.sent = true;
            }
        }
        effects.push(Effect::Write(batch.iter().map(|message| message.frame.clone()).collect()));
        self.in_hand = batch;
    }

    fn close_if_drained(&mut self, now: Instant, effects: &mut Vec<Effect<T>>) {
        let Phase::Draining { since, until, closing: false } = self.phase else { return };
        let under_way = !self.in_hand.is_empty() || self.waiting.values().any(|waiting| waiting.sent);
        if !under_way || until <= now {
            self.phase = Phase::Draining { since, until, closing: true };
            effects.push(Effect::Close);
        }
    }
}

#[cfg(test)]
mod tests;
