//! What the broker holds at most. Every queue and table of it is bounded by a field here.

use super::packet::Reason;

/// Bounds of the broker. `Default` is what an edge with some hundred devices needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connected clients. One more is refused: 0x97 (5), 3 "unavailable" (3.1.1).
    pub clients: usize,
    /// Sessions, connected or kept. One more is refused like a client too many.
    pub sessions: usize,
    /// Filters of one session. One more is refused in its SUBACK: 0x97 (5), 0x80 (3.1.1).
    pub subscriptions_per_session: usize,
    /// Memory of one session's filters and will. A filter more is refused like one too many, a
    /// CONNECT with such a will like a client too many.
    pub session_bytes: usize,
    /// The same over all sessions.
    pub sessions_bytes: usize,
    /// UTF-8 bytes of a topic or filter.
    pub topic_bytes: usize,
    /// Levels of a topic or filter: `a/b` has two.
    pub topic_levels: usize,
    /// QoS 1 and 2 messages in flight and waiting for one session. A message more is not queued for
    /// it: the newest is dropped, as in Mosquitto, because older ones are acknowledged already.
    /// At most 60,000: each holds a packet id.
    pub queued_messages: usize,
    /// Bytes of these.
    pub queued_bytes: usize,
    /// Bytes given to a connection and not yet taken by its socket. Beyond it QoS 0 messages are
    /// dropped for this client and others wait in its queue.
    pub unsent_bytes: usize,
    /// Beyond this a connection is closed: it asks for answers and does not read them.
    pub unsent_bytes_hard: usize,
    /// A connection whose socket took nothing for so long while something waited is closed.
    pub stalled_secs: u32,
    /// Messages that wait for a connected session beside those in flight. Beyond it (or half of
    /// `queued_messages`) those who publish
    /// to it are held back until it is down to a quarter: **who reads is waited for, who does not is
    /// not**. Without that a fast publisher fills the queue of a healthy subscriber, and what is
    /// acknowledged is dropped. Small, because every message in it adds to the latency of the next.
    pub behind_messages: usize,
    /// Bytes in flight, waiting and unsent to one session, to the same effect, also for QoS 0. Less
    /// counts when half of `total_bytes` is used: then the half is shared by all connections.
    pub behind_bytes: usize,
    /// A session that is waited for and neither acknowledges nor takes anything for so long is not
    /// waited for any more, until it has caught up: what is beyond its bounds is dropped.
    pub patience_ms: u32,
    /// The same if it moves, but has not caught up in this time: one slow client would else set the
    /// pace of all publishers, and a publisher that is not read would miss answers to its pings.
    pub behind_secs: u32,
    /// Packets of a held publisher the broker keeps, so that acknowledgements and pings behind them
    /// are seen. Beyond it its socket is not read. At least `receive_maximum`, so that a publisher
    /// that keeps to it is always read.
    pub deferred_messages: usize,
    /// Bytes of these. A quarter of `total_bytes` over all clients has the same effect.
    pub deferred_bytes: usize,
    /// Bytes queued and unsent over all clients. Beyond it messages are dropped as for one client.
    pub total_bytes: usize,
    /// Retained messages. One more (a new topic) is routed, not kept.
    pub retained_messages: usize,
    /// Bytes of these.
    pub retained_bytes: usize,
    /// QoS 1 and 2 messages a client of version 5 may have unacknowledged; more is an error (0x93).
    pub receive_maximum: u16,
    /// Unacknowledged packets of a 3.1.1 client, which knows no receive maximum, after which its
    /// socket is not read until they are halved.
    pub v3_unacknowledged: usize,
    /// Ids of QoS 2 messages that one session has not released, over all its connections: the next message is refused,
    /// which ends a connection of 3.1.1. More than one read of the smallest packets brings before the pause above, and
    /// than a client may have that keeps to `receive_maximum`.
    pub unreleased: usize,
    /// Largest packet the broker takes, told in CONNACK; the transport enforces it.
    pub maximum_packet_bytes: u32,
    /// QoS 1 and 2 messages in flight to one client, if the client allows that many.
    pub inflight: u16,
    /// Topic aliases a client may use, and the broker uses towards a client.
    pub topic_aliases: u16,
    /// Longest keep alive; a client of version 5 that asks for more is told this one. 0 asks for
    /// none and gets none.
    pub keep_alive_secs: u16,
    /// Longest time a session of version 5 is kept without connection; `u32::MAX`: for ever.
    pub session_expiry_secs: u32,
    /// The same for sessions of 3.1.1 that are not clean.
    pub v3_session_expiry_secs: u32,
    /// Messages given to edgecore and not yet answered. QoS 0 beyond it is dropped.
    pub local_takes: usize,
    /// Messages of QoS 1 and 2 waiting for edgecore. Beyond it they are refused (0x97).
    pub local_queue: usize,
    /// Bytes of all of them.
    pub local_bytes: usize,
    /// Answer to a filter the client has no right to. 0x80 says no more than that it failed
    /// (mqtt-v5.0-os table 3-8: the server "does not wish to reveal the reason"); what the Eclipse
    /// Paho suites ask for.
    pub subscribe_refusal: Reason,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 10_000,
            sessions: 10_000,
            subscriptions_per_session: 1_000,
            session_bytes: 4 << 20,
            sessions_bytes: 64 << 20,
            topic_bytes: 65_535,
            topic_levels: 128,
            queued_messages: 10_000,
            queued_bytes: 16 << 20,
            unsent_bytes: 4 << 20,
            unsent_bytes_hard: 8 << 20,
            stalled_secs: 30,
            behind_messages: 512,
            behind_bytes: 1 << 20,
            patience_ms: 500,
            behind_secs: 10,
            deferred_messages: 128,
            deferred_bytes: 256 << 10,
            total_bytes: 128 << 20,
            retained_messages: 100_000,
            retained_bytes: 64 << 20,
            receive_maximum: 100,
            v3_unacknowledged: 1_000,
            unreleased: 16_384,
            maximum_packet_bytes: 1 << 20,
            inflight: 256,
            topic_aliases: 32,
            keep_alive_secs: 60,
            session_expiry_secs: u32::MAX,
            v3_session_expiry_secs: 7 * 24 * 3600,
            local_takes: 1_000,
            local_queue: 10_000,
            local_bytes: 16 << 20,
            subscribe_refusal: Reason::UNSPECIFIED,
        }
    }
}
