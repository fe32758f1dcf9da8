//! L2: actors that come back (design D4).
//!
//! A [`Tree`] declares every actor of a program: name, thread, policy, factory. Each runs under a
//! guard that catches its panics and restarts it on the same address, after a pause that grows.
//! The tree sends heartbeats, restarts what is stuck, ends the process when restarts do not help,
//! and drains in reverse order at SIGTERM. [`TreeHandle`] starts workers, shows the tree, injects
//! faults. [`Monitor`] serves all of it over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::Message;

mod backoff;
mod drain;
mod entry;
mod guard;
mod handle;
mod health;
mod monitor;
mod monitor_page;
mod panic_hook;
mod policy;
mod shared;
mod snapshot;
mod steady;
mod tree;
mod watch;

#[cfg(test)]
mod tests;

pub use backoff::{doubled, spread};
pub use entry::{LastFailure, State};
pub use handle::{TreeHandle, UnknownActor, WorkerAddr};
pub use monitor::{Monitor, MonitorError, MonitorSocket, MonitorSources};
pub use panic_hook::install_panic_hook;
pub use policy::{Policy, Scope};
pub use snapshot::{ActorSnapshot, TreeSnapshot};
pub use steady::SteadyClock;
pub use tree::{ExitReason, MAIN_THREAD, Running, Slot, StartError, Tree, TreeSettings};

/// Heartbeat. Every supervised actor answers it through `crate::handles!`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ping {
    answered: Arc<AtomicU64>,
    number: u64,
}

impl Ping {
    /// Called by the generated handler: the actor's mailbox moved.
    pub fn answer(&self) {
        self.answered.fetch_max(self.number, Ordering::Relaxed);
    }
}
