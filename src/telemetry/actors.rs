//! Metrics of every supervised actor. Label `actor`: the name of a tree actor or the kind of a
//! worker, so their number is bounded by the source code.

use metrics::{Counter, Gauge, Histogram};

/// Handles of one actor (or of one kind of worker).
#[derive(Clone)]
pub struct ActorMetrics {
    /// Restarts after a failure of its own, of a sibling or of its parent.
    pub restarts: Counter,
    /// Panics caught.
    pub panics: Counter,
    /// Messages waiting now.
    pub mailbox_depth: Gauge,
    /// Messages taken out of the mailbox.
    pub messages: Counter,
    /// Seconds in a handler, for each message.
    pub handle_seconds: Histogram,
}

impl ActorMetrics {
    /// Registers the handles of one actor. The recorder must be installed before.
    #[must_use]
    pub fn new(actor: &'static str) -> Self {
        metrics::describe_counter!("kubeedge_actor_restarts_total", "Restarts of an actor.");
        metrics::describe_counter!("kubeedge_actor_panics_total", "Panics caught in an actor.");
        metrics::describe_gauge!("kubeedge_actor_mailbox_depth", "Messages waiting in an actor's mailbox.");
        metrics::describe_counter!(
            "kubeedge_actor_messages_total",
            "Messages an actor took from its mailbox."
        );
        metrics::describe_histogram!(
            "kubeedge_actor_handle_seconds",
            "Seconds an actor's handler ran, for each message."
        );
        Self {
            restarts: metrics::counter!("kubeedge_actor_restarts_total", "actor" => actor),
            panics: metrics::counter!("kubeedge_actor_panics_total", "actor" => actor),
            mailbox_depth: metrics::gauge!("kubeedge_actor_mailbox_depth", "actor" => actor),
            messages: metrics::counter!("kubeedge_actor_messages_total", "actor" => actor),
            handle_seconds: metrics::histogram!("kubeedge_actor_handle_seconds", "actor" => actor),
        }
    }
}
