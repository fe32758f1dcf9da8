//! Metrics of EventBus.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// What EventBus counts.
#[derive(Clone)]
pub struct EventBusMetrics {
    /// Clients connected to the broker inside.
    pub clients: Gauge,
    pub retained: Gauge,
    pub subscriptions: Gauge,
    pub sessions: Gauge,
    /// Bytes of messages in the broker's memory.
    pub stored_bytes: Gauge,
    /// Clients that are held back because a subscriber of theirs is behind.
    pub held_back: Gauge,
    /// Subscribers that publishers waited for in vain.
    pub given_up: Counter,
    /// PUBLISH packets in and out, by QoS 0, 1, 2.
    pub received: [Counter; 3],
    pub sent: [Counter; 3],
    pub received_bytes: Counter,
    pub sent_bytes: Counter,
    /// 1 while the broker outside has a session with us.
    pub external_connected: Gauge,
    pub external_reconnects: Counter,
    /// Uploads on disk that wait for the cloud.
    pub uploads: Gauge,
    /// Messages handed to DeviceTwin that it has not taken yet.
    pub untaken: Gauge,
}

impl EventBusMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_eventbus_clients", "MQTT clients connected to the broker inside");
        describe_gauge!("kubeedge_eventbus_retained_messages", "Retained messages of the broker inside");
        describe_gauge!("kubeedge_eventbus_subscriptions", "Subscriptions of the broker inside");
        describe_gauge!("kubeedge_eventbus_sessions", "Sessions of the broker inside, connected or not");
        describe_gauge!(
            "kubeedge_eventbus_stored_bytes",
            "Bytes of messages in the memory of the broker inside"
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
            "MQTT messages in and out of the broker inside"
        );
        describe_counter!("kubeedge_eventbus_bytes_total", "Bytes in and out of the broker inside");
        describe_counter!("kubeedge_eventbus_dropped_total", "MQTT messages dropped, by reason");
        describe_counter!("kubeedge_eventbus_refused_total", "MQTT connections refused or ended, by reason");
        describe_gauge!("kubeedge_eventbus_external_connected", "1 while connected to the broker outside");
        describe_counter!(
            "kubeedge_eventbus_external_reconnects_total",
            "Sessions with the broker outside after the first"
        );
        describe_gauge!("kubeedge_eventbus_upload_messages", "Uploads on disk that wait for the cloud");
        describe_gauge!(
            "kubeedge_eventbus_untaken_messages",
            "Device messages that DeviceTwin has not taken yet"
        );
        let messages = |direction: &'static str| {
            ["0", "1", "2"].map(
                |qos| counter!("kubeedge_eventbus_messages_total", "direction" => direction, "qos" => qos),
            )
        };
        Self {
            clients: gauge!("kubeedge_eventbus_clients"),
            retained: gauge!("kubeedge_eventbus_retained_messages"),
            subscriptions: gauge!("kubeedge_eventbus_subscriptions"),
            sessions: gauge!("kubeedge_eventbus_sessions"),
            stored_bytes: gauge!("kubeedge_eventbus_stored_bytes"),
            held_back: gauge!("kubeedge_eventbus_held_publishers"),
            given_up: counter!("kubeedge_eventbus_given_up_subscribers_total"),
            received: messages("in"),
            sent: messages("out"),
            received_bytes: counter!("kubeedge_eventbus_bytes_total", "direction" => "in"),
            sent_bytes: counter!("kubeedge_eventbus_bytes_total", "direction" => "out"),
            external_connected: gauge!("kubeedge_eventbus_external_connected"),
            external_reconnects: counter!("kubeedge_eventbus_external_reconnects_total"),
            uploads: gauge!("kubeedge_eventbus_upload_messages"),
            untaken: gauge!("kubeedge_eventbus_untaken_messages"),
        }
    }

    /// Messages dropped for `reason`, one of a few fixed words.
    pub fn dropped(&self, reason: &'static str) -> Counter {
        counter!("kubeedge_eventbus_dropped_total", "reason" => reason)
    }

    /// Connections refused or ended for `reason`, one of a few fixed words.
    pub fn refused(&self, reason: &'static str) -> Counter {
        counter!("kubeedge_eventbus_refused_total", "reason" => reason)
    }
}

impl Default for EventBusMetrics {
    fn default() -> Self {
        Self::new()
    }
}
