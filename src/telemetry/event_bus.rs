//! Metrics of EventBus.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

use super::total::Total;

/// Why messages are dropped: label `reason`.
pub const DROPPED: [&str; 14] = [
    "queue_full",
    "slow_consumer",
    "total_full",
    "too_large",
    "expired",
    "not_receivable",
    "not_stored",
    "not_publishable",
    "bad_topic",
    "retained_full",
    "not_taken",
    "external_queue_full",
    "upload_outbox_full",
    "other",
];

/// Why connections are refused or ended: label `reason`.
pub const REFUSED: [&str; 17] = [
    "full",
    "refused",
    "protocol_error",
    "slow",
    "taken_over",
    "not_stored",
    "malformed",
    "keep_alive",
    "certificate",
    "certificate_expired",
    "no_certificate",
    "tls",
    "websocket",
    "connect_timeout",
    "too_many_strangers",
    "not_authorized",
    "other",
];

/// What EventBus counts.
#[derive(Clone)]
pub struct EventBusMetrics {
    /// Clients connected to the broker inside.
    pub clients: Gauge,
    pub retained: Gauge,
    pub subscriptions: Gauge,
    pub sessions: Gauge,
    /// Messages of QoS 1 and 2 in flight or waiting, all sessions.
    pub queued: Gauge,
    /// Bytes of messages in the broker's memory.
    pub stored_bytes: Gauge,
    /// Clients that are held back because a subscriber of theirs is behind.
    pub held_back: Gauge,
    /// Subscribers that publishers waited for in vain.
    pub given_up: Total,
    /// PUBLISH packets in and out, by QoS 0, 1, 2.
    pub received: [Total; 3],
    pub sent: [Total; 3],
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    /// 1 while the broker outside has a session with us.
    pub external_connected: Gauge,
    pub external_reconnects: Counter,
    /// Uploads on disk that wait for the cloud.
    pub uploads: Gauge,
    /// Messages handed to DeviceTwin that it has not taken yet.
    pub untaken: Gauge,
    dropped: Arc<BTreeMap<&'static str, Total>>,
    refused: Arc<BTreeMap<&'static str, Total>>,
    limits: [Gauge; 4],
}

/// What there may be at most.
#[derive(Debug, Clone, Copy)]
pub struct EventBusLimits {
    pub clients: u32,
    pub memory_bytes: u64,
    pub retained: u32,
    pub uploads: u32,
}

impl EventBusMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe();
        let messages = |direction: &'static str| {
            ["0", "1", "2"].map(|qos| {
                let labels = [("direction", direction), ("qos", qos)];
                Total::new(counter!("kubeedge_eventbus_messages_total", &labels))
            })
        };
        let by_reason = |family: &'static str, reasons: &[&'static str]| {
            let total = |reason: &&'static str| (*reason, Total::new(counter!(family, "reason" => *reason)));
            Arc::new(reasons.iter().map(total).collect())
        };
        Self {
            clients: gauge!("kubeedge_eventbus_clients"),
            retained: gauge!("kubeedge_eventbus_retained_messages"),
            subscriptions: gauge!("kubeedge_eventbus_subscriptions"),
            sessions: gauge!("kubeedge_eventbus_sessions"),
            queued: gauge!("kubeedge_eventbus_queued_messages"),
            stored_bytes: gauge!("kubeedge_eventbus_stored_bytes"),
            held_back: gauge!("kubeedge_eventbus_held_publishers"),
            given_up: Total::new(counter!("kubeedge_eventbus_given_up_subscribers_total")),
            received: messages("in"),
            sent: messages("out"),
            received_bytes: counter!("kubeedge_eventbus_bytes_total", "direction" => "in"),
            sent_bytes: counter!("kubeedge_eventbus_bytes_total", "direction" => "out"),
            external_connected: gauge!("kubeedge_eventbus_external_connected"),
            external_reconnects: counter!("kubeedge_eventbus_external_reconnects_total"),
            uploads: gauge!("kubeedge_eventbus_upload_messages"),
            untaken: gauge!("kubeedge_eventbus_untaken_messages"),
            dropped: by_reason("kubeedge_eventbus_dropped_total", &DROPPED),
            refused: by_reason("kubeedge_eventbus_refused_total", &REFUSED),
            limits: [
                gauge!("kubeedge_eventbus_clients_limit"),
                gauge!("kubeedge_eventbus_stored_limit_bytes"),
                gauge!("kubeedge_eventbus_retained_messages_limit"),
                gauge!("kubeedge_eventbus_upload_messages_limit"),
            ],
        }
    }

    /// Messages dropped for `reason`, one of [`DROPPED`].
    #[must_use]
    pub fn dropped(&self, reason: &str) -> Total {
        of(&self.dropped, reason)
    }

    /// Connections refused or ended for `reason`, one of [`REFUSED`].
    #[must_use]
    pub fn refused(&self, reason: &str) -> Total {
        of(&self.refused, reason)
    }

    /// Shows what there may be at most.
    pub fn limit(&self, limits: EventBusLimits) {
        let EventBusLimits { clients, memory_bytes, retained, uploads } = limits;
        let values = [f64::from(clients), memory_bytes as f64, f64::from(retained), f64::from(uploads)];
        for (gauge, value) in self.limits.iter().zip(values) {
            gauge.set(value);
        }
    }

    /// The broker inside was made anew: its totals begin at 0.
    pub fn begin_anew(&self) {
        let by_reason = self.dropped.values().chain(self.refused.values());
        let others = self.received.iter().chain(&self.sent).chain([&self.given_up]);
        by_reason.chain(others).for_each(Total::begin_anew);
    }
}

/// The total of `reason`, or of `other`.
fn of(totals: &BTreeMap<&'static str, Total>, reason: &str) -> Total {
    let found = totals.get(reason).or_else(|| totals.get("other"));
    found.cloned().unwrap_or_else(|| Total::new(Counter::noop()))
}

fn describe() {
    describe_gauge!("kubeedge_eventbus_clients", "MQTT clients connected to the broker inside");
    describe_gauge!("kubeedge_eventbus_clients_limit", "MQTT clients the broker inside takes at most");
    describe_gauge!("kubeedge_eventbus_retained_messages", "Retained messages of the broker inside");
    describe_gauge!(
        "kubeedge_eventbus_retained_messages_limit",
        "Retained messages the broker inside keeps at most"
    );
    describe_gauge!("kubeedge_eventbus_subscriptions", "Subscriptions of the broker inside");
    describe_gauge!("kubeedge_eventbus_sessions", "Sessions of the broker inside, connected or not");
    describe_gauge!(
        "kubeedge_eventbus_queued_messages",
        "Messages of QoS 1 and 2 in flight or waiting in the broker inside, all sessions"
    );
    describe_gauge!(
        "kubeedge_eventbus_stored_bytes",
        Unit::Bytes,
        "Bytes of messages in the memory of the broker inside"
    );
    describe_gauge!(
        "kubeedge_eventbus_stored_limit_bytes",
        Unit::Bytes,
        "Bytes of messages the broker inside keeps in memory at most"
    );
    describe_gauge!(
        "kubeedge_eventbus_held_publishers",
        "MQTT clients held back until a subscriber has caught up"
    );
    describe_counter!(
        "kubeedge_eventbus_given_up_subscribers_total",
        "Times publishers stopped waiting for a subscriber that does not read or is too slow"
    );
    describe_counter!(
        "kubeedge_eventbus_messages_total",
        "MQTT messages in and out of the broker inside, by direction and QoS"
    );
    describe_counter!(
        "kubeedge_eventbus_bytes_total",
        Unit::Bytes,
        "Bytes in and out of the broker inside, by direction"
    );
    describe_counter!("kubeedge_eventbus_dropped_total", "MQTT messages dropped, by reason");
    describe_counter!("kubeedge_eventbus_refused_total", "MQTT connections refused or ended, by reason");
    describe_gauge!("kubeedge_eventbus_external_connected", "1 while connected to the broker outside");
    describe_counter!(
        "kubeedge_eventbus_external_reconnects_total",
        "Sessions with the broker outside after the first"
    );
    describe_gauge!("kubeedge_eventbus_upload_messages", "Uploads on disk that wait for the cloud");
    describe_gauge!(
        "kubeedge_eventbus_upload_messages_limit",
        "Uploads kept at most; the oldest go first when full"
    );
    describe_gauge!(
        "kubeedge_eventbus_untaken_messages",
        "Device messages that DeviceTwin has not taken yet"
    );
}

impl Default for EventBusMetrics {
    fn default() -> Self {
        Self::new()
    }
}
