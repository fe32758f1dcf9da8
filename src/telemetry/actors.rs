//! Metrics of every supervised actor and of the threads they run on. Label `actor`: the name of a tree
//! actor or the kind of a worker, label `thread`: the name of an arbiter; so their number is bounded by
//! the source code.

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

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
    /// Messages that found the mailbox full.
    pub refused: Counter,
    /// Seconds in a handler, for each message.
    pub handle_seconds: Histogram,
}

impl ActorMetrics {
    /// Registers the handles of one actor. The recorder must be installed before.
    #[must_use]
    pub fn new(actor: &'static str) -> Self {
        describe_counter!(
            "kubeedge_actor_restarts_total",
            "Restarts of an actor after a failure of its own, of a sibling or of its parent"
        );
        describe_counter!("kubeedge_actor_panics_total", "Panics caught in an actor");
        describe_gauge!("kubeedge_actor_mailbox_depth", "Messages waiting in an actor's mailbox");
        describe_counter!("kubeedge_actor_messages_total", "Messages an actor took from its mailbox");
        describe_counter!(
            "kubeedge_actor_mailbox_refused_total",
            "Messages that were not taken because the mailbox was full"
        );
        describe_histogram!(
            "kubeedge_actor_handle_seconds",
            Unit::Seconds,
            "Time an actor's handler ran, for each message"
        );
        Self {
            restarts: counter!("kubeedge_actor_restarts_total", "actor" => actor),
            panics: counter!("kubeedge_actor_panics_total", "actor" => actor),
            mailbox_depth: gauge!("kubeedge_actor_mailbox_depth", "actor" => actor),
            messages: counter!("kubeedge_actor_messages_total", "actor" => actor),
            refused: counter!("kubeedge_actor_mailbox_refused_total", "actor" => actor),
            handle_seconds: histogram!("kubeedge_actor_handle_seconds", "actor" => actor),
        }
    }
}

/// 1 while the actor of the tree runs, 0 while it waits for its restart or is gone.
pub fn actor_state(actor: &'static str) -> Gauge {
    describe_gauge!(
        "kubeedge_actor_state",
        "1 while an actor of the tree runs, 0 while it waits for its restart, drains or is gone"
    );
    gauge!("kubeedge_actor_state", "actor" => actor)
}

/// Workers of one kind that live now.
pub fn workers_of_kind(kind: &'static str) -> Gauge {
    describe_gauge!("kubeedge_actor_workers", "Workers of a kind that live now");
    gauge!("kubeedge_actor_workers", "actor" => kind)
}

/// How late `thread` comes to what is asked of it: one sample with each heartbeat.
pub fn arbiter_lag(thread: &'static str) -> Histogram {
    describe_histogram!(
        "kubeedge_arbiter_lag_seconds",
        Unit::Seconds,
        "From a heartbeat's sending until its thread ran it: what blocks the thread"
    );
    histogram!("kubeedge_arbiter_lag_seconds", "thread" => thread)
}
