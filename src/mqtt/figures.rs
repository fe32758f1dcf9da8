//! What the broker tells about itself: for metrics and the `$SYS` topics.

/// Messages the broker let fall, by reason. All are counted per receiver but the last four, which
/// are counted per publish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The session's queue was full (`queued_messages`, `queued_bytes`) or no packet id was left.
    pub queue_full: u64,
    /// QoS 0 for a client that does not read fast enough (`unsent_bytes`).
    pub slow_consumer: u64,
    /// All clients together held too much (`total_bytes`).
    pub total_full: u64,
    /// Larger than the client's maximum packet size [MQTT-3.1.2-24].
    pub too_large: u64,
    /// Its message expiry passed while it waited.
    pub expired: u64,
    /// The client may not receive this topic.
    pub not_receivable: u64,
    /// Queued in memory, then its write failed; the publisher was told.
    pub not_stored: u64,
    /// The publisher may not publish there. 3.1.1 cannot be told; 5 is.
    pub not_publishable: u64,
    /// Topic longer or deeper than the limits. 3.1.1 cannot be told; 5 is.
    pub bad_topic: u64,
    /// Routed, but not kept as retained (`retained_messages`, `retained_bytes`).
    pub retained_full: u64,
    /// edgecore did not take it: QoS 0 at once, QoS 1 and 2 after some tries.
    pub not_taken: u64,
}

/// Connections the broker ended or refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed {
    /// Refused: too many clients or sessions.
    pub refused_full: u64,
    /// Refused: bad client id, will or authentication method.
    pub refused: u64,
    /// Broke the protocol.
    pub protocol_errors: u64,
    /// Did not read (`unsent_bytes_hard`, `stalled_secs`).
    pub slow: u64,
    /// Another connection took the session over.
    pub taken_over: u64,
    /// A publish could not be made durable and the version has no word for it.
    pub not_stored: u64,
}

/// Only growing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// PUBLISH from clients, by QoS.
    pub messages_in: [u64; 3],
    /// PUBLISH to clients, by QoS.
    pub messages_out: [u64; 3],
    /// Bytes of PUBLISH from clients.
    pub publish_bytes_in: u64,
    /// Bytes of PUBLISH to clients.
    pub publish_bytes_out: u64,
    /// Bytes of all packets to clients.
    pub bytes_out: u64,
    pub connects: u64,
    pub wills: u64,
    /// Messages given to edgecore and taken.
    pub taken: u64,
    /// Rows written or deleted.
    pub rows: u64,
    /// Rows that cost nothing because the message was acknowledged before they were written.
    pub rows_spared: u64,
    pub failed_writes: u64,
    /// Sessions that publishers waited for in vain (`patience_ms`, `behind_secs`).
    pub given_up: u64,
    pub dropped: Dropped,
    pub closed: Closed,
}

/// State of the broker at an instant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub clients_connected: usize,
    pub clients_max: usize,
    pub sessions: usize,
    pub subscriptions: usize,
    pub retained_messages: usize,
    pub retained_bytes: usize,
    /// Filters and wills, all sessions.
    pub session_bytes: usize,
    /// In flight and waiting, QoS 1 and 2, all sessions.
    pub queued_messages: usize,
    pub queued_bytes: usize,
    /// Given to connections and not yet taken by their sockets.
    pub unsent_bytes: usize,
    /// Bytes of held publishers not yet routed.
    pub deferred_bytes: usize,
    /// Publishers that wait for a subscriber.
    pub held_back: usize,
    /// Messages edgecore has not answered.
    pub local_waiting: usize,
    pub counters: Counters,
}

impl Figures {
    /// Topics below `$SYS/broker/` and their values, named as Mosquitto names them.
    #[must_use]
    pub fn sys_topics(&self, version: &str, uptime_secs: u64) -> Vec<(&'static str, String)> {
        let Counters {
            messages_in,
            messages_out,
            publish_bytes_in,
            publish_bytes_out,
            bytes_out,
            dropped,
            ..
        } = &self.counters;
        let disconnected = self.sessions.saturating_sub(self.clients_connected);
        vec![
            ("$SYS/broker/version", version.to_owned()),
            ("$SYS/broker/uptime", format!("{uptime_secs} seconds")),
            ("$SYS/broker/clients/connected", self.clients_connected.to_string()),
            ("$SYS/broker/clients/disconnected", disconnected.to_string()),
            ("$SYS/broker/clients/maximum", self.clients_max.to_string()),
            ("$SYS/broker/clients/total", self.sessions.to_string()),
            ("$SYS/broker/subscriptions/count", self.subscriptions.to_string()),
            ("$SYS/broker/retained messages/count", self.retained_messages.to_string()),
            ("$SYS/broker/store/messages/count", self.queued_messages.to_string()),
            ("$SYS/broker/store/messages/bytes", self.queued_bytes.to_string()),
            ("$SYS/broker/publish/messages/received", messages_in.iter().sum::<u64>().to_string()),
            ("$SYS/broker/publish/messages/sent", messages_out.iter().sum::<u64>().to_string()),
            ("$SYS/broker/publish/messages/dropped", dropped.total().to_string()),
            ("$SYS/broker/publish/bytes/received", publish_bytes_in.to_string()),
            ("$SYS/broker/publish/bytes/sent", publish_bytes_out.to_string()),
            ("$SYS/broker/bytes/sent", bytes_out.to_string()),
        ]
    }
}

impl Dropped {
    /// By reason, for metric labels.
    #[must_use]
    pub fn by_reason(&self) -> [(&'static str, u64); 11] {
        [
            ("queue_full", self.queue_full),
            ("slow_consumer", self.slow_consumer),
            ("total_full", self.total_full),
            ("too_large", self.too_large),
            ("expired", self.expired),
            ("not_receivable", self.not_receivable),
            ("not_stored", self.not_stored),
            ("not_publishable", self.not_publishable),
            ("bad_topic", self.bad_topic),
            ("retained_full", self.retained_full),
            ("not_taken", self.not_taken),
        ]
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_reason().iter().map(|(_, count)| count).sum()
    }
}
