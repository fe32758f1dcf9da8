//! L2: actors that come back (design D4).

use actix::Message;

/// Heartbeat. Every supervised actor answers it through `crate::handles!`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ping(std::sync::Arc<std::sync::atomic::AtomicU64>, u64);

impl Ping {
    /// Called by the generated handler: the actor's mailbox moved.
    pub fn answer(&self) {
        self.0.store(self.1, std::sync::atomic::Ordering::Relaxed);
    }
}
