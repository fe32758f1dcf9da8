//! Figures of the broker inside: `$SYS` topics as Mosquitto names them, and metrics.

use std::collections::HashMap;

use crate::mqtt::Figures;
use crate::telemetry::event_bus::EventBusMetrics;

/// Seconds between two looks.
const EVERY_SECS: u64 = 10;

/// What was published last.
#[derive(Debug, Default)]
pub struct System {
    last: HashMap<&'static str, String>,
    next_at_secs: u64,
}

impl System {
    /// The topics whose values changed since they were last published, at most every ten seconds.
    pub fn changes(&mut self, figures: &Figures, uptime_secs: u64) -> Vec<(&'static str, String)> {
        if uptime_secs < self.next_at_secs {
            return Vec::new();
        }
        self.next_at_secs = uptime_secs + EVERY_SECS;
        let version = concat!("kubeedge-rs ", env!("CARGO_PKG_VERSION"));
        let mut topics = figures.sys_topics(version, uptime_secs);
        topics.retain(|(topic, value)| self.last.get(topic) != Some(value));
        for (topic, value) in &topics {
            self.last.insert(topic, value.clone());
        }
        topics
    }
}

/// Shows the figures as metrics.
pub fn show(figures: &Figures, metrics: &EventBusMetrics) {
    let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    metrics.clients.set(count(figures.clients_connected));
    metrics.sessions.set(count(figures.sessions));
    metrics.subscriptions.set(count(figures.subscriptions));
    metrics.retained.set(count(figures.retained_messages));
    let moving = figures.queued_bytes + figures.unsent_bytes + figures.deferred_bytes;
    metrics.queued.set(count(figures.queued_messages));
    metrics.stored_bytes.set(count(moving + figures.retained_bytes));
    metrics.held_back.set(count(figures.held_back));
    let counters = &figures.counters;
    metrics.given_up.follow(counters.given_up);
    let directions = [(&metrics.received, counters.messages_in), (&metrics.sent, counters.messages_out)];
    for (handles, counts) in directions {
        for (handle, count) in handles.iter().zip(counts) {
            handle.follow(count);
        }
    }
    for (reason, count) in counters.dropped.by_reason() {
        metrics.dropped(reason).follow(count);
    }
    let closed = &counters.closed;
    for (reason, count) in [
        ("full", closed.refused_full),
        ("refused", closed.refused),
        ("protocol_error", closed.protocol_errors),
        ("slow", closed.slow),
        ("taken_over", closed.taken_over),
        ("not_stored", closed.not_stored),
    ] {
        metrics.refused(reason).follow(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::event_bus::{DROPPED, REFUSED};
    use crate::telemetry::exporter::Exporter;

    #[test]
    fn a_new_broker_goes_on_counting_and_every_reason_has_its_series() {
        let ((), exporter) = Exporter::record(|| {
            let metrics = EventBusMetrics::new();
            let mut figures = Figures::default();
            figures.counters.messages_in = [0, 10, 0];
            figures.counters.dropped.expired = 3;
            figures.counters.closed.slow = 2;
            show(&figures, &metrics);
            metrics.begin_anew();
            figures.counters.messages_in = [0, 12, 0];
            show(&figures, &metrics);
            for (reason, _) in figures.counters.dropped.by_reason() {
                assert!(DROPPED.contains(&reason), "{reason}");
            }
            for (i, odd) in (0..1_000).map(|i| (i, format!("odd \"{i}\n"))) {
                metrics.dropped(&odd).increment(i);
                metrics.refused(&odd).increment(i);
            }
        });
        let text = exporter.render();
        for line in [
            r#"kubeedge_eventbus_messages_total{direction="in",qos="1"} 22"#,
            r#"kubeedge_eventbus_dropped_total{reason="expired"} 6"#,
            r#"kubeedge_eventbus_refused_total{reason="slow"} 4"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        let series = |family: &str| text.lines().filter(|line| line.starts_with(family)).count();
        assert_eq!(series("kubeedge_eventbus_dropped_total{"), DROPPED.len());
        assert_eq!(series("kubeedge_eventbus_refused_total{"), REFUSED.len());
    }

    #[test]
    fn only_changes_are_published_and_only_now_and_then() {
        let mut system = System::default();
        let mut figures = Figures { clients_connected: 2, ..Figures::default() };
        let first = system.changes(&figures, 0);
        assert!(first.contains(&("$SYS/broker/clients/connected", "2".to_owned())), "{first:?}");
        assert!(first.iter().any(|(topic, value)| *topic == "$SYS/broker/version" && value.contains('.')));
        figures.clients_connected = 3;
        assert_eq!(system.changes(&figures, 9), []);
        let second = system.changes(&figures, 10);
        let topics: Vec<_> = second.iter().map(|(topic, _)| *topic).collect();
        assert_eq!(topics, ["$SYS/broker/uptime", "$SYS/broker/clients/connected"]);
    }
}
