//! Metrics of the HTTP and gRPC doors of both programs.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

/// The doors, as their label says.
pub const DOORS: [&str; 7] = ["api", "cloudhub", "join", "monitor", "console", "dmi", "workload_api"];

/// Why a connection or a request was ended before its client wanted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// More strangers came than there are places, and it was the oldest of them.
    Crowd,
    /// The TLS handshake failed, or was not over in time.
    Handshake,
    /// It ended without a request.
    NoRequest,
    /// A request's head was too long, or too slow.
    Head,
    /// Its client did not read its answers.
    Unread,
    /// Its client has too many connections.
    GuestLimit,
    /// A gRPC message was longer than allowed: its request ended, not its connection.
    Length,
}

impl Refusal {
    pub const ALL: [Self; 7] = [
        Self::Crowd,
        Self::Handshake,
        Self::NoRequest,
        Self::Head,
        Self::Unread,
        Self::GuestLimit,
        Self::Length,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Crowd => "crowd",
            Self::Handshake => "handshake",
            Self::NoRequest => "no_request",
            Self::Head => "head",
            Self::Unread => "unread",
            Self::GuestLimit => "guest_limit",
            Self::Length => "length",
        }
    }
}

/// Metrics of one door.
#[derive(Clone)]
pub struct DoorMetrics {
    pub connections: Gauge,
    refused: [(Refusal, Counter); 7],
}

impl DoorMetrics {
    /// `door`: one of [`DOORS`].
    #[must_use]
    pub fn new(door: &'static str) -> Self {
        const REFUSED: &str = "kubeedge_door_refused_total";
        describe_gauge!("kubeedge_door_connections", "Open connections of a door, by door");
        describe_counter!(REFUSED, "Connections and requests a door ended by itself, by door and reason");
        Self {
            connections: gauge!("kubeedge_door_connections", "door" => door),
            refused: Refusal::ALL
                .map(|why| (why, counter!(REFUSED, "door" => door, "reason" => why.label()))),
        }
    }

    /// Counts refusals for `why`.
    pub fn counter(&self, why: Refusal) -> Counter {
        let found = self.refused.iter().find(|(one, _)| *one == why);
        found.map_or_else(Counter::noop, |(_, counter)| counter.clone())
    }

    pub fn refused(&self, why: Refusal) {
        self.counter(why).increment(1);
    }
}
