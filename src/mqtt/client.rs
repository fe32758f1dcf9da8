//! A client of a broker elsewhere, as a state machine: MQTT 3.1.1, a session that outlives
//! connections, messages acknowledged only when they are taken.
//!
//! Time is Unix or process milliseconds, as the caller likes, as long as it only grows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{
    Connect, Filter, MessageProperties, Packet, PacketId, Publish, QoS, Reason, RetainHandling, Subscribe,
    Version,
};

/// Messages sent and not yet acknowledged; Mosquitto's own default (`max_inflight_messages`).
const IN_FLIGHT: usize = 20;
const CONNACK_DEADLINE_MS: u64 = 10_000;
const BACKOFF_MIN_MS: u64 = 500;
const BACKOFF_MAX_MS: u64 = 30_000;
/// A connection that lasted so long was a good one: the next pause is short again.
const STEADY_MS: u64 = 10_000;
/// Identifier of the one SUBSCRIBE.
const SUBSCRIBE_ID: PacketId = PacketId::MAX;

/// What does not change.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Fixed, so that the broker keeps the session while this program is away.
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    pub keep_alive_secs: u16,
    /// Subscribed after every connect.
    pub filters: Vec<(String, QoS)>,
    /// Messages and bytes that wait while the broker is away; the oldest go first.
    pub max_queued: usize,
    pub max_queued_bytes: usize,
}

/// What the shell does, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEffect {
    Send(Packet),
    /// Give the message to its module, then call [`Client::taken`] with `id`.
    Deliver {
        id: Option<PacketId>,
        topic: Arc<str>,
        payload: Bytes,
    },
    /// The session is up; the broker kept the old one or not.
    Connected {
        session_present: bool,
    },
    /// Every filter the broker refused.
    Refused(Vec<String>),
    Close(&'static str),
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    topic: Arc<str>,
    payload: Bytes,
    qos: QoS,
    retain: bool,
}

impl Message {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }

    fn packet(&self, id: Option<PacketId>, dup: bool) -> Packet {
        Packet::Publish(Box::new(Publish {
            topic: Arc::clone(&self.topic),
            payload: self.payload.clone(),
            qos: self.qos,
            retain: self.retain,
            dup,
            id,
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: Arc::new(MessageProperties::default()),
        }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is open; dial at this time.
    Idle {
        dial_at_ms: u64,
    },
    Dialling,
    /// CONNECT is sent.
    Greeting {
        since_ms: u64,
    },
    Up {
        since_ms: u64,
    },
}

/// The client.
#[derive(Debug)]
pub struct Client {
    settings: ClientSettings,
    state: State,
    failures: u32,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    dropped: u64,
    /// Sent with QoS 1 and not acknowledged, by order of sending.
    in_flight: BTreeMap<u64, (PacketId, Message)>,
    next_send: u64,
    next_id: u16,
    /// Messages of this connection that were delivered and not taken yet.
    untaken: Vec<(PacketId, QoS)>,
    last_sent_ms: u64,
    ping_sent_ms: Option<u64>,
}

impl Client {
    /// Wants to dial at once.
    #[must_use]
    pub fn new(settings: ClientSettings, now_ms: u64) -> Self {
        Self {
            settings,
            state: State::Idle { dial_at_ms: now_ms },
            failures: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            dropped: 0,
            in_flight: BTreeMap::new(),
            next_send: 0,
            next_id: 0,
            untaken: Vec::new(),
            last_sent_ms: now_ms,
            ping_sent_ms: None,
        }
    }

    /// Messages given up because the queue was full, since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// When to dial, if it is time to: then call [`Client::opened`] or [`Client::closed`].
    #[must_use]
    pub fn dial_at_ms(&self) -> Option<u64> {
        match self.state {
            State::Idle { dial_at_ms } => Some(dial_at_ms),
            _ => None,
        }
    }

    pub fn dialling(&mut self) {
        self.state = State::Dialling;
    }

    /// The transport is open.
    pub fn opened(&mut self, now_ms: u64) -> Vec<ClientEffect> {
        self.state = State::Greeting { since_ms: now_ms };
        self.ping_sent_ms = None;
        self.last_sent_ms = now_ms;
        let settings = &self.settings;
        vec![ClientEffect::Send(Packet::Connect(Box::new(Connect {
            version: Version::V3,
            client_id: settings.client_id.clone(),
            clean_start: false,
            keep_alive_secs: settings.keep_alive_secs,
            username: settings.username.clone(),
            password: settings.password.clone(),
            will: None,
            session_expiry_secs: None,
            receive_maximum: None,
            maximum_packet_bytes: None,
            topic_alias_maximum: 0,
            request_problem_information: true,
            authentication_method: None,
        })))]
    }

    /// The transport is gone, or could not be opened. `jitter` is 0.0..=1.0: half of the pause or all.
    pub fn closed(&mut self, now_ms: u64, jitter: f64) {
        if let State::Up { since_ms } = self.state
            && now_ms.saturating_sub(since_ms) >= STEADY_MS
        {
            self.failures = 0;
        }
        let doubled = BACKOFF_MIN_MS.saturating_mul(1_u64 << self.failures.min(10)).min(BACKOFF_MAX_MS);
        let share = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 };
        let pause = std::time::Duration::from_millis(doubled).mul_f64(0.5 + share / 2.0).as_millis();
        self.failures = self.failures.saturating_add(1);
        // What was not acknowledged comes again in the next connection.
        self.untaken.clear();
        self.ping_sent_ms = None;
        let pause = u64::try_from(pause).unwrap_or(BACKOFF_MAX_MS);
        self.state = State::Idle { dial_at_ms: now_ms.saturating_add(pause) };
    }

    /// Queues a message, dropping the oldest ones that wait when there are too many.
    pub fn publish(
        &mut self,
        topic: &str,
        payload: Bytes,
        qos: QoS,
        retain: bool,
        now_ms: u64,
    ) -> Vec<ClientEffect> {
        // QoS 2 would need a second table; 1 is what KubeEdge publishes with.
        let qos = qos.min(QoS::AtLeastOnce);
        let message = Message { topic: Arc::from(topic), payload, qos, retain };
        self.queued_bytes += message.bytes();
        self.queue.push_back(message);
        let mut effects = Vec::new();
        self.fill(now_ms, &mut effects);
        while self.queue.len() > self.settings.max_queued.max(1)
            || (self.queued_bytes > self.settings.max_queued_bytes && self.queue.len() > 1)
        {
            let Some(oldest) = self.queue.pop_front() else { break };
            self.queued_bytes -= oldest.bytes();
            self.dropped += 1;
        }
        effects
    }

    /// Sends what fits.
    fn fill(&mut self, now_ms: u64, effects: &mut Vec<ClientEffect>) {
        if !self.is_up() {
            return;
        }
        while self.in_flight.len() < IN_FLIGHT {
            let Some(message) = self.queue.pop_front() else { return };
            self.queued_bytes -= message.bytes();
            self.last_sent_ms = now_ms;
            if message.qos == QoS::AtMostOnce {
                effects.push(ClientEffect::Send(message.packet(None, false)));
                continue;
            }
            let id = self.free_id();
            effects.push(ClientEffect::Send(message.packet(Some(id), false)));
            self.in_flight.insert(self.next_send, (id, message));
            self.next_send += 1;
        }
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.next_id)
                && id != SUBSCRIBE_ID
                && self.in_flight.values().all(|(used, _)| *used != id)
            {
                return id;
            }
        }
    }

    /// A packet was read.
    pub fn received(&mut self, packet: Packet, now_ms: u64) -> Vec<ClientEffect> {
        let mut effects = Vec::new();
        match (self.state, packet) {
            (State::Greeting { .. }, Packet::ConnAck(ack)) => {
                if ack.reason != Reason::SUCCESS {
                    return vec![ClientEffect::Close(refusal(ack.reason))];
                }
                self.state = State::Up { since_ms: now_ms };
                self.last_sent_ms = now_ms;
                effects.push(ClientEffect::Connected { session_present: ack.session_present });
                effects.push(ClientEffect::Send(self.subscribe()));
                for (id, message) in self.in_flight.values() {
                    effects.push(ClientEffect::Send(message.packet(Some(*id), ack.session_present)));
                }
                self.fill(now_ms, &mut effects);
            }
            (State::Up { .. }, Packet::Publish(publish)) => {
                if let Some(id) = publish.id {
                    if self.untaken.contains(&(id, publish.qos)) {
                        return effects; // sent again before we were done with it
                    }
                    self.untaken.push((id, publish.qos));
                }
                let Publish { id, topic, payload, .. } = *publish;
                effects.push(ClientEffect::Deliver { id, topic, payload });
            }
            (State::Up { .. }, Packet::PubAck { id, .. }) => {
                self.in_flight.retain(|_, (waiting, _)| *waiting != id);
                self.fill(now_ms, &mut effects);
            }
            (State::Up { .. }, Packet::PubRel { id, .. }) => {
                effects.push(ClientEffect::Send(Packet::PubComp { id, reason: Reason::SUCCESS }));
            }
            (State::Up { .. }, Packet::SubAck { reasons, .. }) => {
                let refused = self.settings.filters.iter().zip(reasons);
                let refused: Vec<String> = refused
                    .filter(|(_, reason)| reason.is_failure())
                    .map(|((filter, _), _)| filter.clone())
                    .collect();
                if !refused.is_empty() {
                    effects.push(ClientEffect::Refused(refused));
                }
            }
            (State::Up { .. }, Packet::PingResp) => self.ping_sent_ms = None,
            _ => effects.push(ClientEffect::Close("the broker broke the protocol")),
        }
        effects
    }

    fn subscribe(&self) -> Packet {
        let filters = self.settings.filters.iter().map(|(filter, qos)| Filter {
            filter: filter.clone(),
            qos: *qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        });
        Packet::Subscribe(Box::new(Subscribe {
            id: SUBSCRIBE_ID,
            subscription_id: None,
            filters: filters.collect(),
        }))
    }

    /// A delivered message of this connection is taken for good: acknowledges it.
    pub fn taken(&mut self, id: PacketId, now_ms: u64) -> Vec<ClientEffect> {
        let Some(at) = self.untaken.iter().position(|(waiting, _)| *waiting == id) else { return Vec::new() };
        let (_, qos) = self.untaken.swap_remove(at);
        self.last_sent_ms = now_ms;
        let packet = match qos {
            QoS::ExactlyOnce => Packet::PubRec { id, reason: Reason::SUCCESS },
            _ => Packet::PubAck { id, reason: Reason::SUCCESS },
        };
        vec![ClientEffect::Send(packet)]
    }

    /// Call at [`Client::deadline_ms`].
    pub fn tick(&mut self, now_ms: u64) -> Vec<ClientEffect> {
        match self.deadline_ms() {
            Some(deadline) if deadline <= now_ms => {}
            _ => return Vec::new(),
        }
        match self.state {
            State::Greeting { .. } => vec![ClientEffect::Close("no answer to CONNECT")],
            State::Up { .. } if self.ping_sent_ms.is_some() => {
                vec![ClientEffect::Close("no answer to a ping")]
            }
            State::Up { .. } => {
                self.ping_sent_ms = Some(now_ms);
                self.last_sent_ms = now_ms;
                vec![ClientEffect::Send(Packet::PingReq)]
            }
            State::Idle { .. } | State::Dialling => Vec::new(),
        }
    }

    /// When to call [`Client::tick`] at the latest.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        let keep_alive = u64::from(self.settings.keep_alive_secs.max(1)) * 1000;
        match self.state {
            State::Greeting { since_ms } => Some(since_ms + CONNACK_DEADLINE_MS),
            State::Up { .. } => Some(match self.ping_sent_ms {
                Some(sent) => sent + keep_alive / 2,
                None => self.last_sent_ms + keep_alive,
            }),
            State::Idle { .. } | State::Dialling => None,
        }
    }
}

fn refusal(reason: Reason) -> &'static str {
    match reason {
        Reason::BAD_USER_OR_PASSWORD => "the broker refused: bad user name or password",
        Reason::NOT_AUTHORIZED => "the broker refused: not authorized",
        Reason::CLIENT_ID_NOT_VALID => "the broker refused: client identifier",
        Reason::UNSUPPORTED_VERSION => "the broker refused: protocol version",
        _ => "the broker refused the connection",
    }
}

#[cfg(test)]
mod tests;
