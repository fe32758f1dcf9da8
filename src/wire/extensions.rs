//! What our edges and clouds may agree on when a session opens, beyond KubeEdge's protocol. Both sides name what they have
//! in a header; what both name is in force.

/// Names of extensions, comma separated.
pub const HEADER: &str = "kubeedge-extensions";
/// Tells one process from another one with the same certificate (a cloned disk): random.
pub const INSTANCE_HEADER: &str = "kubeedge-instance";

/// Seconds without a byte from this edge after which it is to be taken for gone: it says something at least twice in them.
/// The cloud is the only one who knows at once that nothing of an edge arrives, if the other way is open.
pub const SILENCE_HEADER: &str = "kubeedge-silence";

/// More than one message of the cloud may be unacknowledged.
pub const ACK_WINDOW: &str = "ack-window";
/// The edge lists what it holds, and the cloud sends what differs.
pub const RESYNC: &str = "resync";
/// Certificates are renewed over the session, and pods get identities.
pub const IDENTITY: &str = "identity";
/// The edge tells its figures.
pub const REPORT: &str = "report";

/// Rows of a listing in one message; more take several.
pub const LISTED_PER_MESSAGE: usize = 2_000;
