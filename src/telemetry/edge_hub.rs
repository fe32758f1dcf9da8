//! Metrics of EdgeHub and of the outbox it drains.

use std::time::SystemTime;

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

const CHANGED: &str = "kubeedge_edgehub_session_changed_timestamp_seconds";
const CLOCK: &str = "kubeedge_edgehub_clock_offset_seconds";

/// The cloud said that it is `theirs` when this machine's clock said `ours`. There is no gauge before
/// that: it would look right.
pub fn show_clock(theirs: SystemTime, ours: SystemTime) {
    let seconds = match ours.duration_since(theirs) {
        Ok(ahead) => ahead.as_secs() as f64,
        Err(err) => -(err.duration().as_secs() as f64),
    };
    gauge!(CLOCK).set(seconds);
}

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
    /// Reports of this node's metrics and actors to the cloud, and their bytes.
    pub reports: Counter,
    pub report_bytes: Counter,
}

impl EdgeHubMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_edgehub_connected", "1 while a session with the cloud is open");
        describe_counter!("kubeedge_edgehub_reconnects_total", "Sessions opened after the first");
        describe_counter!("kubeedge_edgehub_messages_total", "Messages read from and written to the cloud");
        describe_counter!("kubeedge_edgehub_bad_frames_total", "Frames from the cloud that were skipped");
        describe_counter!("kubeedge_edgehub_unrouted_total", "Messages that no module of this edge takes");
        describe_counter!("kubeedge_edgehub_reports_total", "Reports of metrics and actors to the cloud");
        describe_counter!(
            "kubeedge_edgehub_report_bytes_total",
            Unit::Bytes,
            "Bytes of the reports of metrics and actors to the cloud, as frames"
        );
        describe_gauge!(
            CLOCK,
            Unit::Seconds,
            "This machine's clock minus the cloud's, whole seconds, when last compared"
        );
        describe_gauge!(
            CHANGED,
            Unit::Seconds,
            "When a session with the cloud last began or ended, 0 before the first"
        );
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
            reports: counter!("kubeedge_edgehub_reports_total"),
            report_bytes: counter!("kubeedge_edgehub_report_bytes_total"),
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
    /// Rows it holds at most.
    pub limit: Gauge,
}

impl OutboxMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_edgehub_outbox_messages", "Messages on disk that wait for the cloud");
        describe_gauge!(
            "kubeedge_edgehub_outbox_messages_limit",
            "Messages the outbox holds at most; the oldest go first when full"
        );
        describe_counter!(
            "kubeedge_edgehub_outbox_dropped_total",
            "Oldest messages dropped from the full outbox"
        );
        Self {
            messages: gauge!("kubeedge_edgehub_outbox_messages"),
            dropped: counter!("kubeedge_edgehub_outbox_dropped_total"),
            limit: gauge!("kubeedge_edgehub_outbox_messages_limit"),
        }
    }
}

impl Default for OutboxMetrics {
    fn default() -> Self {
        Self::new()
    }
}
