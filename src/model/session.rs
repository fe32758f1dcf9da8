//! How a session between cloud and edge ends.

/// Why a session ended: the `reason` label of `kubeedge_cloudhub_sessions_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The peer closed, or the network did.
    Closed,
    /// No keepalive in time.
    KeepaliveLost,
    /// A frame was not taken by the peer in time.
    WriteTimeout,
    /// A newer connection of the same node took over.
    Replaced,
    /// The queue to the node was full; the comparison at the next connect heals it.
    QueueFull,
    /// A frame was too large, too deep or not a message, or the websocket protocol was broken.
    BadFrame,
    /// The Node object was deleted.
    NodeDeleted,
    /// The node was revoked.
    Revoked,
    /// Its certificate ended and was not renewed over the session.
    Expired,
    /// The cloud lost what it knew about this session (a restarted actor).
    Restarted,
    /// cloudcore is stopping.
    Shutdown,
}

impl EndReason {
    pub const ALL: [Self; 11] = [
        Self::Closed,
        Self::KeepaliveLost,
        Self::WriteTimeout,
        Self::Replaced,
        Self::QueueFull,
        Self::BadFrame,
        Self::NodeDeleted,
        Self::Revoked,
        Self::Expired,
        Self::Restarted,
        Self::Shutdown,
    ];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::KeepaliveLost => "keepalive_lost",
            Self::WriteTimeout => "write_timeout",
            Self::Replaced => "replaced",
            Self::QueueFull => "queue_full",
            Self::BadFrame => "bad_frame",
            Self::NodeDeleted => "node_deleted",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Restarted => "restarted",
            Self::Shutdown => "shutdown",
        }
    }
}
