//! CloudHub's and SyncController's metrics.

use std::collections::HashMap;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
};
use metrics::{gauge, histogram};

use crate::model::EndReason;

/// CloudHub's metrics.
#[derive(Clone)]
pub struct CloudHubMetrics {
    pub connected_nodes: Gauge,
    /// Nodes there may be at once, and bytes that may wait for them.
    pub node_limit: Gauge,
    pub queued_bytes: Gauge,
    pub queued_limit: Gauge,
    /// Unacknowledged messages of all sessions.
    pub unacked_messages: Gauge,
    /// First send to acknowledgement, seconds.
    pub ack_seconds: Histogram,
    /// Frames from edges, by kind.
    pub received_keepalive: Counter,
    pub received_response: Counter,
    pub received_other: Counter,
    /// Frames to edges.
    pub sent: Counter,
    /// Messages of edges that no module here takes.
    pub unhandled: Counter,
    /// Messages too large to be sent.
    pub too_large: Counter,
    /// Messages of edges dropped because their receiver was busy, or a field of them was too long.
    pub dropped: Counter,
    /// Messages of edges that waited: their node says too much at once.
    pub held: Counter,
    /// Answers that their node did not take.
    pub not_answered: Counter,
    sessions: HashMap<EndReason, Counter>,
    /// Refused before the session.
    pub refused: Counter,
    pub joins_signed: Counter,
    pub joins_refused: Counter,
}

impl CloudHubMetrics {
    #[must_use]
    pub fn new() -> Self {
        const MESSAGES: &str = "kubeedge_cloudhub_messages_total";
        const SESSIONS: &str = "kubeedge_cloudhub_sessions_total";
        const JOINS: &str = "kubeedge_cloudhub_certificates_total";
        describe_gauge!("kubeedge_cloudhub_connected_nodes", "Nodes with a session");
        describe_gauge!("kubeedge_cloudhub_connected_nodes_limit", "Nodes that may have a session at once");
        describe_gauge!(
            "kubeedge_cloudhub_queued_bytes",
            Unit::Bytes,
            "Bytes of messages that wait for their nodes, all sessions"
        );
        describe_gauge!(
            "kubeedge_cloudhub_queued_limit_bytes",
            Unit::Bytes,
            "Bytes of messages that may wait for their nodes, all sessions"
        );
        describe_gauge!(
            "kubeedge_cloudhub_unacked_messages",
            "Messages sent to edges and not yet acknowledged, all sessions"
        );
        describe_histogram!(
            "kubeedge_cloudhub_ack_seconds",
            Unit::Seconds,
            "From first send to the edge's acknowledgement"
        );
        describe_counter!(MESSAGES, "Messages between cloud and edges, by direction and kind");
        describe_counter!(SESSIONS, "Ended or refused sessions, by reason");
        describe_counter!(JOINS, "Requests for node certificates, by result");
        let session = |reason: EndReason| (reason, counter!(SESSIONS, "reason" => reason.label()));
        Self {
            connected_nodes: gauge!("kubeedge_cloudhub_connected_nodes"),
            node_limit: gauge!("kubeedge_cloudhub_connected_nodes_limit"),
            queued_bytes: gauge!("kubeedge_cloudhub_queued_bytes"),
            queued_limit: gauge!("kubeedge_cloudhub_queued_limit_bytes"),
            unacked_messages: gauge!("kubeedge_cloudhub_unacked_messages"),
            ack_seconds: histogram!("kubeedge_cloudhub_ack_seconds"),
            received_keepalive: counter!(MESSAGES, "direction" => "up", "kind" => "keepalive"),
            received_response: counter!(MESSAGES, "direction" => "up", "kind" => "response"),
            received_other: counter!(MESSAGES, "direction" => "up", "kind" => "request"),
            sent: counter!(MESSAGES, "direction" => "down", "kind" => "sent"),
            unhandled: counter!(MESSAGES, "direction" => "up", "kind" => "unhandled"),
            too_large: counter!(MESSAGES, "direction" => "down", "kind" => "too_large"),
            dropped: counter!(MESSAGES, "direction" => "up", "kind" => "dropped"),
            not_answered: counter!(MESSAGES, "direction" => "down", "kind" => "not_answered"),
            held: counter!(MESSAGES, "direction" => "up", "kind" => "held"),
            sessions: EndReason::ALL.into_iter().map(session).collect(),
            refused: counter!(SESSIONS, "reason" => "refused"),
            joins_signed: counter!(JOINS, "result" => "signed"),
            joins_refused: counter!(JOINS, "result" => "refused"),
        }
    }

    /// Counts an ended session.
    pub fn ended(&self, reason: EndReason) {
        if let Some(counter) = self.sessions.get(&reason) {
            counter.increment(1);
        }
    }
}

impl Default for CloudHubMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// SyncController's metrics.
#[derive(Clone)]
pub struct SyncMetrics {
    /// Connect to all differences sent, seconds.
    pub resync_seconds: Histogram,
    pub bad_listings: Counter,
}

impl SyncMetrics {
    #[must_use]
    pub fn new() -> Self {
        describe_histogram!(
            "kubeedge_cloudhub_resync_seconds",
            Unit::Seconds,
            "From the connect of a node until everything that differs is on its way"
        );
        describe_counter!("kubeedge_cloudhub_bad_listings_total", "Listings of edges that make no sense");
        Self {
            resync_seconds: histogram!("kubeedge_cloudhub_resync_seconds"),
            bad_listings: counter!("kubeedge_cloudhub_bad_listings_total"),
        }
    }
}

impl Default for SyncMetrics {
    fn default() -> Self {
        Self::new()
    }
}
