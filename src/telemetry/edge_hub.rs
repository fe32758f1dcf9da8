//! Metrics of EdgeHub and of the outbox it drains.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

/// What EdgeHub counts.
#[derive(Clone)]
pub struct EdgeHubMetrics {
    /// 1 while a session is open.
    pub connected: Gauge,
    /// When a session last began or ended, unix seconds; 0 while there was none.
    pub session_changed: Gauge,
    /// Sessions opened after the first.
    pub reconnects: Counter,
    /// Messages read from the cloud.
    pub received: Counter,
    /// Messages written to the cloud, keepalives included.
    pub sent: Counter,
    /// Frames that were not understood and skipped.
    pub bad_frames: Counter,
    /// Messages nobody on this edge takes: another module's group, or a reply nobody waits for.
    pub unrouted: Counter,
    /// Renewals of this node's identity, and attempts that failed.
    pub renewals: Counter,
    pub renewals_failed: Counter,
}

impl EdgeHubMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_edgehub_connected", "1 while a session with the cloud is open");
        const CHANGED: &str = "kubeedge_edgehub_session_changed_timestamp_seconds";
        describe_gauge!(
            CHANGED,
            Unit::Seconds,
            "When a session with the cloud last began or ended, 0 before"
        );
        describe_counter!("kubeedge_edgehub_reconnects_total", "Sessions opened after the first");
        describe_counter!("kubeedge_edgehub_messages_total", "Messages read from and written to the cloud");
        describe_counter!("kubeedge_edgehub_bad_frames_total", "Frames from the cloud that were skipped");
        describe_counter!("kubeedge_edgehub_unrouted_total", "Messages that no module of this edge takes");
        const RENEWALS: &str = "kubeedge_identity_renewals_total";
        describe_counter!(RENEWALS, "Renewals of this node's identity, by result");
        Self {
            connected: gauge!("kubeedge_edgehub_connected"),
            session_changed: gauge!(CHANGED),
            reconnects: counter!("kubeedge_edgehub_reconnects_total"),
            received: counter!("kubeedge_edgehub_messages_total", "direction" => "down"),
            sent: counter!("kubeedge_edgehub_messages_total", "direction" => "up"),
            bad_frames: counter!("kubeedge_edgehub_bad_frames_total"),
            unrouted: counter!("kubeedge_edgehub_unrouted_total"),
            renewals: counter!(RENEWALS, "result" => "renewed"),
            renewals_failed: counter!(RENEWALS, "result" => "failed"),
        }
    }
}

impl Default for EdgeHubMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The outbox on disk: what waits for the cloud.
#[derive(Clone)]
pub struct OutboxMetrics {
    /// Rows that wait.
    pub messages: Gauge,
    /// Oldest rows given up because the outbox was full.
    pub dropped: Counter,
}

impl OutboxMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_edgehub_outbox_messages", "Messages on disk that wait for the cloud");
        describe_counter!(
            "kubeedge_edgehub_outbox_dropped_total",
            "Oldest messages dropped from the full outbox"
        );
        Self {
            messages: gauge!("kubeedge_edgehub_outbox_messages"),
            dropped: counter!("kubeedge_edgehub_outbox_dropped_total"),
        }
    }
}

impl Default for OutboxMetrics {
    fn default() -> Self {
        Self::new()
    }
}
