//! Reporting to the cloud while a session with a cloud of ours is open. What is rendered is rendered
//! beside the hub's thread, and a report that waits is not overtaken by a second one.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::prelude::*;

use super::queues::Purpose;
use super::report::{Rendered, Reporter, message};
use super::{EdgeHub, now, outgoing};
use crate::bus::edge_hub::Class;
use crate::model::{NodeReport, unix_ms};

/// Where reports come from. Called on a thread that may block.
#[derive(Clone)]
pub struct ReportSource(Arc<dyn Fn() -> Rendered + Send + Sync>);

impl ReportSource {
    #[must_use]
    pub fn new(render: impl Fn() -> Rendered + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }
}

impl fmt::Debug for ReportSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReportSource")
    }
}

/// What is known about reporting.
pub(super) struct Reporting {
    source: ReportSource,
    interval_secs: u32,
    /// The open session, if its cloud takes reports.
    session: Option<u64>,
    reporter: Reporter,
    under_way: bool,
}

impl Reporting {
    pub fn new(source: ReportSource, interval_secs: u64) -> Self {
        let interval_secs = u32::try_from(interval_secs).unwrap_or(u32::MAX);
        Self { source, interval_secs, session: None, reporter: Reporter::default(), under_way: false }
    }

    /// The hub restarts: its session is gone, and so is what was under way.
    pub fn restart(&mut self) {
        *self = Self::new(self.source.clone(), self.interval_secs.into());
    }
}

impl EdgeHub {
    /// Begins with the actor.
    pub(super) fn report_regularly(&mut self, ctx: &mut Context<Self>) {
        let secs = self.reporting.interval_secs;
        if secs > 0 {
            ctx.run_interval(Duration::from_secs(secs.into()), |hub, ctx| hub.report(ctx));
        }
    }

    /// A session opened. The first report of a session is full, and does not wait.
    pub(super) fn report_in_session(&mut self, has_extension: bool, ctx: &mut Context<Self>) {
        let takes_reports = has_extension && self.reporting.interval_secs > 0;
        self.reporting.session = takes_reports.then(|| self.hub.session());
        self.reporting.reporter = Reporter::default();
        self.report(ctx);
    }

    fn report(&mut self, ctx: &mut Context<Self>) {
        let Some(session) = self.reporting.session.filter(|_| self.outgoing.is_some()) else { return };
        // One that waits says so much less than the next; nothing is lost by leaving it out.
        if self.reporting.under_way || self.hub.report_waits() {
            return;
        }
        self.reporting.under_way = true;
        let Reporting { source, interval_secs, reporter, .. } = &mut self.reporting;
        let (source, interval_secs) = (source.clone(), *interval_secs);
        let mut reporter = std::mem::take(reporter);
        let made = tokio::task::spawn_blocking(move || {
            let report = reporter.report(&(source.0)(), interval_secs);
            (reporter, report)
        });
        ctx.spawn(made.into_actor(self).map(move |made, hub, ctx| {
            hub.reporting.under_way = false;
            match made {
                // What it says is about another session than the one that is open now.
                _ if hub.reporting.session != Some(session) => hub.report(ctx),
                Ok((reporter, report)) => {
                    hub.reporting.reporter = reporter;
                    if !hub.send_report(&report, ctx) {
                        hub.reporting.reporter = Reporter::default();
                    }
                }
                Err(err) => tracing::warn!(error = %err, "no report to the cloud this time"),
            }
        }));
    }

    /// `false`: it will not go.
    fn send_report(&mut self, report: &NodeReport, ctx: &mut Context<Self>) -> bool {
        let message = message(report, unix_ms(SystemTime::now()));
        let Some(frame) = message.and_then(|it| outgoing(&it, Class::Report, Purpose::Report).ok()) else {
            return false;
        };
        let bytes = frame.frame.len() as u64;
        let Ok(effects) = self.hub.report(frame, now()) else { return false };
        self.metrics.reports.increment(1);
        self.metrics.report_bytes.increment(bytes);
        tracing::debug!(sequence = report.sequence, bytes, actors = report.actors.is_some(), "report");
        self.run(effects, ctx);
        true
    }
}
