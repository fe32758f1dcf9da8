//! Metrics of the console.

use metrics::{Gauge, counter, describe_counter, describe_gauge, gauge};

const REQUESTS: &str = "kubeedge_console_requests_total";
const REFUSED: &str = "kubeedge_console_refused_total";

/// What the console counts.
#[derive(Clone)]
pub struct ConsoleMetrics {
    /// Credentials with an open stream.
    pub sessions: Gauge,
    pub streams: Gauge,
}

impl ConsoleMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_console_sessions", "Credentials with an open stream of the console");
        describe_gauge!("kubeedge_console_streams", "Open streams of the console");
        describe_counter!(REQUESTS, "Answers of the console, by status code");
        describe_counter!(REFUSED, "What the console turned away, by reason");
        Self { sessions: gauge!("kubeedge_console_sessions"), streams: gauge!("kubeedge_console_streams") }
    }

    /// One answer; the console itself gives only a few codes.
    pub fn answered(&self, code: u16) {
        counter!(REQUESTS, "code" => code.to_string()).increment(1);
    }

    /// `reason`: [`crate::console::door::Refused::label`].
    pub fn refused(&self, reason: &'static str) {
        counter!(REFUSED, "reason" => reason).increment(1);
    }
}

impl Default for ConsoleMetrics {
    fn default() -> Self {
        Self::new()
    }
}
