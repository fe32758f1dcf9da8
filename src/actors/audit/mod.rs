//! Audit: writes what was decided about identities into the hash-chained log, on both sides.
//!
//! Facts that come while a group is being written go into the next one: a burst costs few syncs. A
//! disk that takes nothing is tried again; meanwhile facts wait up to a bound, then the newest are
//! dropped, counted and complained about. Refusals that repeat become one record with a count.

mod queue;
mod repeats;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::prelude::*;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use self::queue::{Group, Queue};
use self::repeats::Repeats;
use crate::bus::identity::AuditFact;
use crate::identity::audit::{AuditError, AuditFile, AuditLimits, Opened};
use crate::telemetry::identity::AuditMetrics;

/// Name in the tree.
pub const NAME: &str = "Audit";
/// After a failed write, this long until the next try.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks at what repeated.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Where the log is.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// `{dataDir}/audit.log`; its head and older files stand beside it.
    pub path: PathBuf,
    pub limits: AuditLimits,
}

impl AuditSettings {
    /// The log of a program with this `dataDir`.
    #[must_use]
    pub fn below(data_dir: &std::path::Path) -> Self {
        Self { path: data_dir.join("audit.log"), limits: AuditLimits::default() }
    }
}

/// The open log, `None` before the first write and after a failed one. Locked on blocking threads,
/// and when the actor ends.
type Shared = Arc<Mutex<Option<AuditFile>>>;

/// The actor.
pub struct Audit {
    settings: AuditSettings,
    metrics: AuditMetrics,
    queue: Queue,
    repeats: Repeats,
    file: Shared,
}

impl Audit {
    #[must_use]
    pub fn new(settings: AuditSettings, metrics: AuditMetrics) -> Self {
        Self {
            settings,
            metrics,
            queue: Queue::default(),
            repeats: Repeats::default(),
            file: Shared::default(),
        }
    }

    /// Starts the next group, unless one is under way.
    fn write(&mut self, ctx: &mut Context<Self>) {
        if let Some(group) = self.queue.next_group() {
            self.write_group(group, ctx);
        }
    }

    fn write_group(&self, group: Group, ctx: &mut Context<Self>) {
        let (settings, file) = (self.settings.clone(), Arc::clone(&self.file));
        let work = tokio::task::spawn_blocking(move || {
            let outcome = append(&settings, &file, &group);
            (group, outcome)
        });
        ctx.spawn(work.into_actor(self).map(|outcome, audit, ctx| match outcome {
            Ok((group, Ok(()))) => {
                audit.count(&group);
                audit.queue.written();
                audit.write(ctx);
            }
            Ok((group, Err(err))) => {
                audit.queue.failed(group);
                tracing::error!(%err, "the audit log takes nothing, will try again");
                ctx.run_later(RETRY, Self::retry);
            }
            // The write panicked; whether the group is on disk is not known.
            Err(err) => {
                audit.queue.written();
                tracing::error!(%err, "a group of audit records may be lost");
                ctx.run_later(RETRY, Self::retry);
            }
        }));
    }

    fn retry(&mut self, ctx: &mut Context<Self>) {
        self.queue.resume();
        self.write(ctx);
    }

    /// Puts a fact, or a count of facts, where the disk takes it from.
    fn push(&mut self, fact: AuditFact, now: SystemTime) {
        if let Some(dropped) = self.queue.push(fact, now) {
            self.metrics.dropped.increment(1);
            if let Some(facts) = dropped.complain {
                tracing::error!(facts, "audit records were dropped: the disk takes them too slowly");
            }
        }
    }

    fn count(&self, group: &[(SystemTime, AuditFact)]) {
        for (_, fact) in group {
            self.metrics.recorded(fact.action.label(), fact.allowed);
        }
    }
}

/// Blocks: opens the log if need be, appends, syncs.
fn append(
    settings: &AuditSettings,
    file: &Shared,
    group: &[(SystemTime, AuditFact)],
) -> Result<(), AuditError> {
    let mut file = file.lock();
    let mut log = match file.take() {
        Some(log) => log,
        None => open(settings)?,
    };
    let records: Vec<(SystemTime, Map<String, Value>)> =
        group.iter().map(|(at, fact)| (*at, record(fact))).collect();
    // After an error the log is opened anew: that repairs what a half write left.
    log.append(&records)?;
    *file = Some(log);
    Ok(())
}

fn open(settings: &AuditSettings) -> Result<AuditFile, AuditError> {
    let (log, opened) = AuditFile::open(&settings.path, settings.limits, SystemTime::now())?;
    let path = settings.path.display();
    match opened {
        Opened::New | Opened::Good => {}
        Opened::Repaired { bytes } => {
            tracing::warn!(%path, bytes, "the audit log's torn last record was removed")
        }
        Opened::Broken(why) => tracing::error!(%path, why, "the audit log is broken; see keadm audit verify"),
    }
    Ok(log)
}

fn record(fact: &AuditFact) -> Map<String, Value> {
    match serde_json::to_value(fact) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

impl Actor for Audit {
    type Context = Context<Self>;

    /// Opens the log at once: what is wrong with it is said before something is to be written.
    fn started(&mut self, ctx: &mut Self::Context) {
        let group = self.queue.first_group();
        self.write_group(group, ctx);
        ctx.run_interval(COUNT_EVERY, |audit, ctx| {
            let now = SystemTime::now();
            for count in audit.repeats.due(now) {
                audit.push(count, now);
            }
            audit.write(ctx);
        });
    }

    /// What still waits is written here: nothing runs on this thread after its last actors, and the
    /// lock waits for the group under way.
    fn stopped(&mut self, _: &mut Self::Context) {
        let now = SystemTime::now();
        for count in self.repeats.drain() {
            self.push(count, now);
        }
        for group in self.queue.drain() {
            match append(&self.settings, &self.file, &group) {
                Ok(()) => self.count(&group),
                Err(err) => {
                    self.metrics.dropped.increment(u64::try_from(group.len()).unwrap_or(u64::MAX));
                    tracing::error!(%err, facts = group.len(), "the last audit records are lost");
                }
            }
        }
    }
}

impl Supervised for Audit {
    /// What waited is written after the restart; a group under way writes itself. The file is opened
    /// anew.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.queue.restart();
        self.file = Shared::default();
    }
}

crate::handles!(Audit: AuditFact);

impl Handler<AuditFact> for Audit {
    type Result = ();

    fn handle(&mut self, fact: AuditFact, ctx: &mut Context<Self>) {
        let now = SystemTime::now();
        if let Some(fact) = self.repeats.admit(fact, now) {
            self.push(fact, now);
        }
        self.write(ctx);
    }
}
